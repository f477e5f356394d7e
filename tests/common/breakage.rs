//! Images broken in every way that `check` can report: wrong entries, flags, counts and places in all tables.

use super::damage::{Damage, be64};
use super::kinds::{Kind, LOCKED, Open, SECRET};
use super::{Random, share_taken, taken};

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Puts the same time into every entry of the snapshot table: what a table that is read at the wrong places seems to
/// hold must not depend on when the image was made.
const FIXED_TIMES: &str = r"
be16() { od -An -tx1 -j$2 -N2 $1 | tr -d ' \n'; }
at=$((0x$(be64 disk 64)))
for _ in $(seq $((0x$(be32 disk 60)))); do
    poke disk $((at + 16)) '\x65\x53\xf1\x00\x07\x5b\xcd\x15\x00\x00\x00\x00\x00\x00\x00\x00'
    names=$((0x$(be16 disk $((at + 12))) + 0x$(be16 disk $((at + 14)))))
    at=$(((at + 40 + 0x$(be32 disk $((at + 36))) + names + 7) / 8 * 8))
done";

/// The images that are broken: small ones, each with other structures.
pub fn victims() -> Vec<Kind> {
    let kind = |name: &str, open, recipe: &str| Kind {
        name: format!("victim-{name}"),
        open,
        recipe: format!("{recipe}{FIXED_TIMES}"),
    };
    let three = "io qcow2 disk 'write -P 1 0 200k' 'write -P 2 3M 64k'\n$Q snapshot -c one disk\n\
                 io qcow2 disk 'write -P 3 64k 64k' 'write -z 3M 64k'\n$Q snapshot -c two disk";
    let with = |opts: &str, then: &str| format!("$Q create -q -f qcow2 -o {opts} disk 4M\n{then}");
    let one = "io qcow2 disk 'write -P 1 0 100k' 'write -P 2 1M 300k' 'write -z 1M 64k' 'write -z 2M 64k' \
               'write -P 9 3M 10k' 'write -c -P 7 2560k 64k' 'write -c -P 8 2624k 64k'";
    vec![
        kind("snapshots", Open::Qcow2, &with("cluster_size=64k", three)),
        kind("mixed", Open::Qcow2, &with("cluster_size=64k", one)),
        kind("v2", Open::Qcow2, &with("compat=0.10", three)),
        kind(
            "refcount-1",
            Open::Qcow2,
            &with("refcount_bits=1,cluster_size=4k", &one.replace("'write -c -P 8 2624k 64k'", "")),
        ),
        kind("refcount-4", Open::Qcow2, &with("refcount_bits=4,cluster_size=4k", three)),
        kind("refcount-64", Open::Qcow2, &with("refcount_bits=64,cluster_size=4k", three)),
        kind("cluster-512", Open::Qcow2, &with("cluster_size=512", three)),
        kind("cluster-2M", Open::Qcow2, &with("cluster_size=2M", three)),
        kind(
            "extended",
            Open::Qcow2,
            &with(
                "extended_l2=on,cluster_size=64k",
                &format!("{one}\n$Q snapshot -c one disk\nio qcow2 disk 'write -P 4 0 5k'"),
            ),
        ),
        kind("zlib", Open::Qcow2, "mk '' -c\n$Q snapshot -c one disk\nio qcow2 disk 'write -P 4 1M 100k'"),
        kind("lazy", Open::Qcow2, &with("lazy_refcounts=on", &format!("{three}\npoke disk 79 '\\x01'"))),
        kind(
            "bitmaps",
            Open::Qcow2,
            &with(
                "cluster_size=4k",
                &format!("$Q bitmap --add -g 4k disk b0\n$Q bitmap --add -g 32k --disable disk b1\n{three}"),
            ),
        ),
        kind(
            "data-file",
            Open::Qcow2,
            &with("data_file=disk.data", "io qcow2 disk 'write -P 1 0 200k' 'write -z 64k 64k'"),
        ),
        kind(
            "data-raw",
            Open::Qcow2,
            &with("data_file=disk.data,data_file_raw=on", "io qcow2 disk 'write -P 1 0 200k'"),
        ),
        kind("backed", Open::Qcow2, &format!("cp $base b\n$Q create -q -f qcow2 -b b -F raw disk 4M\n{three}")),
        kind(
            "luks",
            Open::Locked,
            &format!(
                "$Q create -q {SECRET} -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 disk 4M\n\
                 qemu-io {SECRET} --image-opts {LOCKED} -c 'write -P 6 1M 300k' >/dev/null"
            ),
        ),
    ]
}

/// Calls `body` for each victim with its damages. `ONLY` and `DAMAGE` choose some by name; otherwise one in a few dozen is
/// taken, and with `SHARE=1` all of them.
pub fn each(test: &str, mut body: impl FnMut(&Kind, Vec<u8>, Vec<Damage>)) {
    let part = |damage: &Damage, kind: &Kind| {
        let rare = share_taken() == 1 || taken(&kind.name, &format!("{test} {}", damage.name));
        taken(&format!("{test} {}", kind.name), &damage.name) && rare
    };
    for kind in victims() {
        if std::env::var("ONLY").is_ok_and(|only| !kind.name.contains(&only)) {
            continue;
        }
        let image = std::fs::read(kind.folder().join("disk")).expect("image");
        let mut damages = all(&image, &kind.name);
        match std::env::var("DAMAGE") {
            Ok(only) => damages.retain(|damage| damage.name.contains(&only)),
            Err(_) => damages.retain(|damage| part(damage, &kind)),
        }
        if !damages.is_empty() {
            body(&kind, image, damages);
        }
    }
}

/// What the damages need to know of an image.
struct Layout<'a> {
    image: &'a [u8],
    bits: u64,
    order: u32,
    step: usize,
    l1: usize,
    refcounts: usize,
    /// The first refcount block.
    block: usize,
    snapshots: usize,
    external: bool,
}

impl<'a> Layout<'a> {
    fn of(image: &'a [u8]) -> Self {
        let version_3 = image[7] == 3;
        let features = if version_3 { be64(image, 72) } else { 0 };
        let refcounts = be64(image, 48) as usize;
        Layout {
            image,
            bits: u64::from(image[23]),
            order: if version_3 { u32::from(image[99]) } else { 4 },
            step: if features & 16 != 0 { 16 } else { 8 },
            l1: be64(image, 40) as usize,
            refcounts,
            block: (be64(image, refcounts) & OFFSET) as usize,
            snapshots: be64(image, 64) as usize,
            external: features & 4 != 0,
        }
    }

    fn cluster(&self) -> u64 {
        1 << self.bits
    }

    fn len(&self) -> u64 {
        self.image.len() as u64
    }

    fn word(&self, at: usize) -> u64 {
        if at + 8 <= self.image.len() { be64(self.image, at) } else { 0 }
    }

    /// Places of the entries of the first L2 table that fulfil a condition.
    fn entries(&self, wanted: impl Fn(u64) -> bool) -> Vec<usize> {
        let table = (self.word(self.l1) & OFFSET) as usize;
        let all = (0..self.cluster() as usize / self.step).map(|index| table + index * self.step);
        all.filter(|at| self.word(*at) != 0 && wanted(self.word(*at))).collect()
    }

    fn number(&self, offset: u64) -> u64 {
        offset >> self.bits
    }

    /// Where the refcount of a cluster lies, if it is in the first block and takes whole bytes.
    fn count_at(&self, cluster: u64) -> Option<(usize, usize)> {
        let width = (1usize << self.order) / 8;
        let at = self.block + cluster as usize * width;
        (width > 0 && (at as u64) < self.block as u64 + self.cluster()).then_some((at, width))
    }
}

fn put(name: impl Into<String>, at: usize, value: u64, width: usize) -> Damage {
    Damage::puts(name, vec![(at, value.to_be_bytes()[8 - width..].to_vec())])
}

/// All damages of an image.
pub fn all(image: &[u8], name: &str) -> Vec<Damage> {
    let layout = Layout::of(image);
    let mut damages = Vec::new();
    header(&layout, &mut damages);
    l1(&layout, &mut damages);
    l2(&layout, &mut damages);
    refcount_table(&layout, &mut damages);
    refcounts(&layout, &mut damages);
    if layout.snapshots != 0 {
        snapshots(&layout, &mut damages);
    }
    bitmaps(&layout, &mut damages);
    several(&layout, &mut damages);
    flips(&layout, name, &mut damages);
    damages
}

fn header(layout: &Layout<'_>, damages: &mut Vec<Damage>) {
    let cluster = layout.cluster();
    if layout.image[7] == 3 {
        for bits in [1, 2, 3] {
            damages.push(put(format!("marks {bits}"), 79, bits | u64::from(layout.image[79]), 1));
        }
        damages.push(put("autoclear unknown", 88, 0x80, 1));
        damages.push(put("autoclear none", 95, 0, 1));
        damages.push(put("compatible unknown", 80, 0x40, 1));
    }
    for (name, at) in [("L1 table", 40), ("refcount table", 48), ("snapshot table", 64)] {
        let now = layout.word(at);
        for place in [now + 8, now + cluster, 0, layout.len() & !(cluster - 1), 1 << 40, layout.block as u64] {
            damages.push(put(format!("{name} at {place:#x}"), at, place, 8));
        }
    }
    damages.push(put("no refcount table", 56, 0, 4));
    for offset in [8, cluster, 1 << 62, u64::MAX - 0xffff] {
        let puts = vec![(60, vec![0; 4]), (64, offset.to_be_bytes().to_vec())];
        damages.push(Damage::puts(format!("no snapshots at {offset:#x}"), puts));
    }
    let entries = layout.image[36..40].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    damages.push(put("L1 table of one entry more", 36, entries + 1, 4));
    damages.push(put("L1 table of a cluster and more", 36, cluster / 8 + 1, 4));
    damages.push(put("refcount table of two clusters", 56, 2, 4));
    for number in [0, 1, 3, 4, 65_537, 0x7fff_ffff] {
        damages.push(put(format!("{number} snapshots"), 60, number, 4));
    }
    let len = layout.image.len();
    for cut in [1, 512, cluster as usize, cluster as usize + 1, 3 * cluster as usize, len / 2] {
        if cut < len && len - cut > 512 {
            damages.push(Damage::cut(format!("{cut} bytes missing at the end"), len - cut));
        }
    }
}

fn l1(layout: &Layout<'_>, damages: &mut Vec<Damage>) {
    let (at, entry, cluster) = (layout.l1, layout.word(layout.l1), layout.cluster());
    let mut entries = vec![
        ("other flag", entry ^ COPIED),
        ("none", 0),
        ("only a flag", COPIED),
        ("reserved bit 60", entry | 1 << 60),
        ("reserved bit 0", entry | 1),
        ("only a reserved bit", 1),
        ("outside", COPIED | (1 << 40)),
        ("at the end", COPIED | layout.len().next_multiple_of(cluster)),
        ("behind the end", COPIED | (layout.len().next_multiple_of(cluster) + cluster)),
        ("on the L1 table", COPIED | layout.l1 as u64),
        ("on the refcount block", COPIED | layout.block as u64),
        ("on the header", COPIED | 1 << 62),
    ];
    if cluster > 512 {
        entries.push(("unaligned", entry + 0x200));
    }
    for (name, value) in entries {
        damages.push(put(format!("L1 entry {name}"), at, value, 8));
    }
    damages.push(put("second L1 entry like the first", at + 8, entry, 8));
}

fn l2(layout: &Layout<'_>, damages: &mut Vec<Damage>) {
    let cluster = layout.cluster();
    let plain = layout.entries(|entry| entry & (COMPRESSED | 1) == 0 && entry & OFFSET != 0);
    let zero = layout.entries(|entry| entry & COMPRESSED == 0 && entry & 1 != 0);
    let packed = layout.entries(|entry| entry & COMPRESSED != 0);
    let empty = layout.entries(|entry| entry & OFFSET != 0).last().map(|at| at + layout.step);
    let end = layout.len().next_multiple_of(cluster);
    for (what, at) in
        [("plain", plain.first()), ("last plain", plain.last()), ("zero", zero.first()), ("empty", empty.as_ref())]
    {
        let Some(&at) = at else { continue };
        let entry = layout.word(at);
        let other = plain.iter().rev().find(|other| **other != at).map_or(0, |other| layout.word(*other));
        for (name, value) in [
            ("other flag", entry ^ COPIED),
            ("zero bit", entry ^ 1),
            ("zero bit and other flag", entry ^ COPIED ^ 1),
            ("none", 0),
            ("only a flag", COPIED),
            ("flag and zero bit", COPIED | 1),
            ("reserved bit 58", entry | 1 << 58),
            ("reserved bit 3", entry | 8),
            ("reserved bit alone", 1 << 57),
            ("unaligned", if cluster > 512 { entry + 0x200 } else { entry }),
            ("unaligned zero", (entry | 1) + if cluster > 512 { 0x200 } else { 0 }),
            ("unaligned zero without data", COPIED | 0x4200 | 1),
            ("unaligned outside", COPIED | ((1 << 41) + 0x200)),
            ("outside", COPIED | 1 << 40),
            ("at the end", COPIED | end),
            ("behind the end", COPIED | (end + cluster)),
            ("like another", other),
            ("on the L1 table", COPIED | layout.l1 as u64),
            ("on the refcount table", COPIED | layout.refcounts as u64),
            ("on the refcount block", layout.block as u64),
            ("on its table", COPIED | (layout.word(layout.l1) & OFFSET)),
            ("compressed", COMPRESSED | 0x5100),
            ("compressed with flag", COPIED | COMPRESSED | 0x5100),
            ("compressed outside", COMPRESSED | 1 << 35),
            ("compressed at the end", COMPRESSED | (layout.len() - 100)),
            ("all ones", u64::MAX),
        ] {
            damages.push(put(format!("{what} L2 entry {name}"), at, value, 8));
        }
        if layout.step == 16 {
            for bitmap in [0, u64::MAX, 0xffff_ffff, 0xffff_ffff << 32, 0x1_0000_0001, 1, 1 << 40, 0x8000_0000] {
                damages.push(put(format!("{what} L2 entry bitmap {bitmap:#x}"), at + 8, bitmap, 8));
                for raw in [0, COPIED | 0x1_0200, COMPRESSED | 0x5100, COPIED | 1 << 40] {
                    let puts = vec![(at, u64::to_be_bytes(raw).to_vec()), (at + 8, u64::to_be_bytes(bitmap).to_vec())];
                    damages.push(Damage::puts(format!("{what} L2 entry {raw:#x} with bitmap {bitmap:#x}"), puts));
                }
            }
        }
    }
    if let Some(&at) = packed.first() {
        let entry = layout.word(at);
        for (name, value) in [
            ("with flag", entry | COPIED),
            ("longer", entry + (1 << (70 - layout.bits))),
            ("none", 0),
            ("elsewhere", entry + 0x1000),
            ("zero bit", entry ^ 1),
        ] {
            damages.push(put(format!("compressed L2 entry {name}"), at, value, 8));
        }
        if layout.step == 16 {
            damages.push(put("compressed L2 entry bitmap", at + 8, 1, 8));
        }
    }
    let _ = layout.external;
}

fn refcount_table(layout: &Layout<'_>, damages: &mut Vec<Damage>) {
    let cluster = layout.cluster();
    let block = layout.block as u64;
    let end = layout.len().next_multiple_of(cluster);
    for (which, at) in [("first", layout.refcounts), ("next", layout.refcounts + 8)] {
        for (name, value) in [
            ("none", 0),
            ("reserved bit", block | 4),
            ("unaligned", block + 0x200),
            ("unaligned and reserved bit", block + 0x201),
            ("outside", 1 << 30),
            ("at the end", end),
            ("the first block", block),
            ("on the L1 table", layout.l1 as u64),
            ("on the refcount table", layout.refcounts as u64),
            ("on the L2 table", layout.word(layout.l1) & OFFSET),
            ("very far", 0x7fff_ffff_ffff_0000 & !(cluster - 1)),
        ] {
            damages.push(put(format!("{which} refcount table entry {name}"), at, value, 8));
        }
    }
    damages.push(put("last refcount table entry outside", layout.refcounts + cluster as usize - 8, 1 << 30, 8));
}

fn refcounts(layout: &Layout<'_>, damages: &mut Vec<Damage>) {
    let l2 = layout.word(layout.l1) & OFFSET;
    let data = layout.entries(|entry| entry & COMPRESSED == 0 && entry & OFFSET != 0);
    let data = data.first().map_or(0, |at| layout.word(*at) & OFFSET);
    for (what, offset) in [
        ("the header", 0),
        ("the refcount block", layout.block as u64),
        ("the L1 table", layout.l1 as u64),
        ("the L2 table", l2),
        ("data", data),
        ("the last cluster", layout.len() - 1),
        ("the next cluster", layout.len() + layout.cluster()),
    ] {
        let Some((at, width)) = layout.count_at(layout.number(offset)) else { continue };
        for count in [0, 1, 2, 3, 0xff] {
            damages.push(put(format!("refcount {count} of {what}"), at, count, width));
        }
        damages.push(put(format!("highest refcount of {what}"), at, u64::MAX, width));
    }
    for byte in [0, 0x55, 0xff, 0x21] {
        for at in [0, 1, 2] {
            damages.push(put(format!("refcount byte {at} {byte:#x}"), layout.block + at, byte, 1));
        }
    }
}

fn snapshots(layout: &Layout<'_>, damages: &mut Vec<Damage>) {
    let at = layout.snapshots;
    let l1 = layout.word(at);
    for (name, value) in [
        ("unaligned", l1 + 8),
        ("outside", 1 << 40),
        ("of the disk", layout.l1 as u64),
        ("at the refcount block", layout.block as u64),
        ("at the start", 0),
    ] {
        damages.push(put(format!("snapshot's L1 table {name}"), at, value, 8));
    }
    for entries in [0, 2, 600, 4 << 20, (4 << 20) + 1, 0xffff_ffff] {
        // Takes both tools very long: most of the table is taken for places of tables.
        if entries == 4 << 20 && layout.bits > 16 {
            continue;
        }
        damages.push(put(format!("snapshot's L1 table of {entries} entries"), at + 8, entries, 4));
    }
    for len in [0, 8, 15, 16, 23, 32, 1024, 1025, 0xffff_ffff] {
        damages.push(put(format!("snapshot's extra data of {len} bytes"), at + 36, len, 4));
    }
    for len in [0, 2, 255, 256, 0xffff] {
        damages.push(put(format!("snapshot's id of {len} bytes"), at + 12, len, 2));
        damages.push(put(format!("snapshot's name of {len} bytes"), at + 14, len, 2));
    }
    // The next entry is read at the wrong place, and takes its sizes from the time of the right one.
    let next = at + (64 + usize::from(layout.image[at + 13]) + usize::from(layout.image[at + 15])).next_multiple_of(8);
    for nanoseconds in [0x3b9a_ffff, 0x0001_0001, 0] {
        let puts = vec![(at + 36, vec![0, 0, 0, 32]), (next + 20, u32::to_be_bytes(nanoseconds).to_vec())];
        damages.push(Damage::puts(format!("snapshot's extra data of 32 bytes, time {nanoseconds:#x}"), puts));
    }
    // The same entry with less extra data, as older programs wrote it: id and name move up.
    for len in [0, 8, 16] {
        let extra = layout.image[at + 36..at + 40].iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
        let names = layout.image[at + 40 + extra..at + 64 + extra].to_vec();
        let mut puts = vec![(at + 36, (len as u32).to_be_bytes().to_vec()), (at + 40 + len, names)];
        puts.push((60, vec![0, 0, 0, 1]));
        damages.push(Damage::puts(format!("an only snapshot with {len} bytes of extra data"), puts));
    }
    for entry in [0, 1, 1 << 60, COPIED | (1 << 40), layout.l1 as u64] {
        damages.push(put(format!("snapshot's L1 entry {entry:#x}"), l1 as usize, entry, 8));
    }
    damages.push(put("snapshot's L1 entry with the flag", l1 as usize, layout.word(l1 as usize) | COPIED, 8));
    damages.push(put("snapshot's L1 entry like the disk's", l1 as usize, layout.word(layout.l1), 8));
}

/// The bitmaps extension of the header: its place, or none.
fn bitmaps_extension(image: &[u8]) -> Option<usize> {
    (104..4096.min(image.len() - 32)).step_by(8).find(|at| image[*at..*at + 8] == [0x23, 0x85, 0x28, 0x75, 0, 0, 0, 24])
}

fn bitmaps(layout: &Layout<'_>, damages: &mut Vec<Damage>) {
    let Some(extension) = bitmaps_extension(layout.image) else { return };
    let cluster = layout.cluster();
    for (name, at, width) in [("count", 8, 4), ("size", 16, 8), ("offset", 24, 8)] {
        for value in [0, 1, 3, 0x1000, 1 << 40, layout.l1 as u64] {
            damages.push(put(format!("bitmap directory {name} {value:#x}"), extension + at, value, width));
        }
    }
    let directory = layout.word(extension + 24) as usize;
    for (name, at, width) in [
        ("table", 0, 8),
        ("table size", 8, 4),
        ("flags", 12, 4),
        ("type", 16, 1),
        ("granularity", 17, 1),
        ("name size", 18, 2),
        ("extra size", 20, 4),
    ] {
        for value in [0, 1, 2, 4, cluster, 1 << 40, layout.l1 as u64, 0xff] {
            // The reference shows what lies behind a name without any bytes.
            if name == "name size" && value & 0xffff == 0 {
                continue;
            }
            damages.push(put(format!("bitmap {name} {value:#x}"), directory + at, value, width));
        }
    }
    let table = layout.word(directory) as usize;
    let entry = layout.word(table);
    for value in
        [0, 1, 2, entry | 1, entry + 0x200, entry | 1 << 60, 1 << 40, layout.l1 as u64, layout.len() & !(cluster - 1)]
    {
        damages.push(put(format!("bitmap cluster {value:#x}"), table, value, 8));
    }
}

/// Several damages at once.
fn several(layout: &Layout<'_>, damages: &mut Vec<Damage>) {
    let plain = layout.entries(|entry| entry & (COMPRESSED | 1) == 0 && entry & OFFSET != 0);
    let mut puts = Vec::new();
    for at in plain.iter().take(3) {
        puts.push((*at, (layout.word(*at) ^ COPIED).to_be_bytes().to_vec()));
    }
    puts.push((layout.l1, (layout.word(layout.l1) ^ COPIED).to_be_bytes().to_vec()));
    damages.push(Damage::puts("many flags", puts.clone()));
    for cluster in [3, 4, 5] {
        if let Some((at, width)) = layout.count_at(cluster) {
            puts.push((at, 7u64.to_be_bytes()[8 - width..].to_vec()));
        }
    }
    damages.push(Damage::puts("many flags and leaks", puts.clone()));
    if let Some((at, width)) = layout.count_at(layout.number(layout.l1 as u64)) {
        puts.push((at, vec![0; width]));
    }
    damages.push(Damage::puts("many flags and leaks, no refcount of the L1 table", puts.clone()));
    if let Some(at) = plain.last() {
        puts.push((*at, (COPIED | 1 << 40).to_be_bytes().to_vec()));
    }
    damages.push(Damage::puts("all of that and a cluster outside", puts));
}

fn flips(layout: &Layout<'_>, name: &str, damages: &mut Vec<Damage>) {
    let mut random = Random::new(name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte)));
    let l2 = (layout.word(layout.l1) & OFFSET) as usize;
    for number in 0..12 {
        let mut puts = Vec::new();
        for _ in 0..=random.below(2) {
            let at = match random.below(5) {
                0 => layout.l1 + random.below(8) as usize,
                1 => layout.block + random.below(64) as usize,
                2 => layout.refcounts + random.below(16) as usize,
                3 if layout.snapshots != 0 => layout.snapshots + random.below(80) as usize,
                _ => l2 + random.below(128) as usize,
            };
            if let Some(byte) = layout.image.get(at) {
                puts.push((at, vec![byte ^ 1 << random.below(8)]));
            }
        }
        damages.push(Damage::puts(format!("flips {number} {puts:x?}"), puts));
    }
}
