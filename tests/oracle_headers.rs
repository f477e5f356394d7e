//! Headers that are put together in every way the format allows: read with the reference's words, and what ours writes in
//! their place opens, with all that was in them.

mod common;

use common::files::Sandbox;
use common::oracle::{Twins, differences};
use common::run::Tool;
use common::{Report, for_all, require_wording, taken};

/// A header: its length, what lies behind that, and the name of a backing file behind these.
struct Shape {
    name: String,
    cluster_size: usize,
    header_length: usize,
    extensions: Vec<u8>,
    backing: bool,
    /// Unknown features, which an image is refused for.
    incompatible: u64,
}

fn extension(magic: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = [magic.to_be_bytes(), (data.len() as u32).to_be_bytes()].concat();
    bytes.extend_from_slice(data);
    bytes.resize(8 + data.len().next_multiple_of(8), 0);
    bytes
}

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for cluster_size in [512, 4096, 8192, 65536] {
        let lengths = [104, 105, 108, 111, 112, 113, 116, 119, 120, 127, 250, 511, 512, 4088, 4096, 4099, 4100];
        let fillings = [0, 1, 8, 99, 256, 371, 376, 384, 392, 3950, 3960, 3968, 3976, 3984, 5000, 65408, 65416];
        let pairs = lengths.map(|length| (length, 3)).into_iter().chain(fillings.map(|filling| (112, filling)));
        for (header_length, filling) in pairs {
            for (kind, incompatible) in [("plain", 0), ("backing", 0), ("endless", 0), ("features", 1 << 40)] {
                let mut extensions = extension(0x1234_5678, &vec![0x5a; filling]);
                if kind == "backing" {
                    extensions.extend(extension(0xe279_2aca, b"raw"));
                }
                if kind == "features" {
                    let mut record = [0; 48];
                    record[1] = 40;
                    record[2..9].copy_from_slice(b"strange");
                    extensions.extend(extension(0x6803_f857, &record));
                }
                if kind != "endless" {
                    extensions.extend(extension(0, &[]));
                }
                if header_length + extensions.len() + 16 > cluster_size {
                    continue;
                }
                let name = format!("{kind}, header {header_length}, extension {filling}, cluster {cluster_size}");
                let backing = kind == "backing";
                shapes.push(Shape { name, cluster_size, header_length, extensions, backing, incompatible });
            }
        }
    }
    shapes
}

impl Shape {
    /// Makes the image `disk`, which is `content` (of the same cluster size) with this header.
    fn write(&self, content: &[u8], sandbox: &Sandbox) {
        let mut bytes = content.to_vec();
        bytes[104..self.cluster_size].fill(0);
        let at = self.header_length;
        bytes[100..104].copy_from_slice(&(at as u32).to_be_bytes());
        let end = at + self.extensions.len();
        bytes[at..end].copy_from_slice(&self.extensions);
        bytes[72..80].copy_from_slice(&self.incompatible.to_be_bytes());
        if self.backing {
            bytes[8..16].copy_from_slice(&(end as u64).to_be_bytes());
            bytes[16..20].copy_from_slice(&4_u32.to_be_bytes());
            bytes[end..end + 4].copy_from_slice(b"base");
        }
        std::fs::write(sandbox.file("disk"), bytes).expect("image");
    }
}

const CHANGES: &[&str] = &[
    "rebase -u -f qcow2 -b other -F raw disk",
    "rebase -u -f qcow2 -b '' disk",
    "amend -o lazy_refcounts=on disk",
    "bitmap --add disk b0",
    "snapshot -c one disk",
    "resize -q disk 2M",
];

fn check(shape: &Shape, report: &mut Report) {
    let mut found = Vec::new();
    let twins = Twins::empty();
    let make = format!(
        "Q=qemu-img; $Q create -q base 1M; $Q create -q other 1M; $Q create -q -f qcow2 -o cluster_size={} made 1M\n\
         qemu-io -c 'write -P 7 0 100k' made >/dev/null",
        shape.cluster_size
    );
    for (_, sandbox) in twins.each() {
        sandbox.script(Tool::Reference, &make).expect_ok("the scene");
    }
    let content = std::fs::read(twins.each()[0].1.file("made")).expect("made");
    let lines = ["info disk", "check disk", "map disk"].iter().chain(CHANGES);
    for line in lines.filter(|line| taken(&shape.name, line)) {
        for (_, sandbox) in twins.each() {
            shape.write(&content, sandbox);
        }
        let before = std::fs::read(twins.each()[0].1.file("disk")).expect("disk");
        let (outcome, mut differing) = twins.run(line);
        // No room for the bitmaps is told in one line of ours, and in three that name nodes of the reference's.
        differing.retain(|text| !text.contains("Lost persistent bitmaps during inactivation"));
        found.extend(differing);
        let after = std::fs::read(twins.each()[0].1.file("disk")).expect("disk");
        if !outcome.ok() && !after.starts_with(&before) {
            found.push(format!("`{line}` failed, and has changed the image"));
        }
        if !outcome.ok() || shape.incompatible != 0 {
            continue;
        }
        // What ours has written says the same as what the reference has; that it opens is what counts most.
        for line in ["info disk", "check -q disk", "snapshot -l disk", "compare -q disk made"] {
            let [ours, reference] = twins.each().map(|(_, sandbox)| sandbox.run(Tool::Reference, line));
            let plain = |text: &str| common::oracle::without_dates(&common::oracle::without_layout(text));
            let differing = differences(line, &ours, &reference, &plain);
            found.extend(differing.into_iter().map(|text| format!("afterwards: {text}")));
        }
        let kept = shape.extensions.iter().filter(|byte| **byte == 0x5a).count();
        let now = after[..shape.cluster_size].iter().filter(|byte| **byte == 0x5a).count();
        if now != kept {
            found.push(format!("`{line}`: {now} bytes of {kept} of the unknown extension are left"));
        }
    }
    report.note(&shape.name, found);
}

#[test]
fn headers_of_all_shapes() {
    require_wording();
    for_all("headers", &shapes(), check);
}
