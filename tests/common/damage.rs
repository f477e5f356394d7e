//! Damaged qcow2 images: each header field with absurd values, table entries that lead nowhere, cut files, and
//! bits flipped at random.

use std::fs;
use std::path::Path;

use super::Random;

/// One damage: bytes to put at an offset, or a new length.
#[derive(Clone, Debug)]
pub struct Damage {
    pub name: String,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    Put(usize, Vec<u8>),
    Puts(Vec<(usize, Vec<u8>)>),
    Cut(usize),
    Flip(Vec<(usize, u8)>),
}

impl Damage {
    /// Several values in several places.
    pub fn puts(name: impl Into<String>, puts: Vec<(usize, Vec<u8>)>) -> Self {
        Damage { name: name.into(), change: Change::Puts(puts) }
    }

    /// A file that ends early.
    pub fn cut(name: impl Into<String>, len: usize) -> Self {
        Damage { name: name.into(), change: Change::Cut(len) }
    }

    /// Writes the damaged copy of `image` to `path`.
    pub fn write(&self, image: &[u8], path: &Path) {
        let mut bytes = image.to_vec();
        match &self.change {
            Change::Put(at, value) => bytes[*at..*at + value.len()].copy_from_slice(value),
            Change::Puts(puts) => {
                for (at, value) in puts {
                    // Fields of tables may lie behind the end of a file that was never written there.
                    bytes.resize(bytes.len().max(at + value.len()), 0);
                    bytes[*at..*at + value.len()].copy_from_slice(value);
                }
            }
            Change::Cut(len) => bytes.truncate(*len),
            Change::Flip(flips) => flips.iter().for_each(|(at, mask)| bytes[*at] ^= mask),
        }
        fs::write(path, bytes).expect("damaged image");
    }
}

/// Header fields: name, offset, width in bytes.
const FIELDS: &[(&str, usize, usize)] = &[
    ("version", 4, 4),
    ("backing file offset", 8, 8),
    ("backing file size", 16, 4),
    ("cluster bits", 20, 4),
    ("size", 24, 8),
    ("crypt method", 32, 4),
    ("L1 size", 36, 4),
    ("L1 offset", 40, 8),
    ("refcount table offset", 48, 8),
    ("refcount table clusters", 56, 4),
    ("snapshot count", 60, 4),
    ("snapshot offset", 64, 8),
    ("incompatible features", 72, 8),
    ("compatible features", 80, 8),
    ("autoclear features", 88, 8),
    ("refcount order", 96, 4),
    ("header length", 100, 4),
    ("compression type", 104, 1),
    ("first extension type", 112, 4),
    ("first extension length", 116, 4),
];

const VALUES: &[u64] = &[
    0,
    1,
    2,
    7,
    22,
    0x1ff,
    0x1_0001,
    0x10_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0x40_0000_0000,
    0x00ff_ffff_ffff_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

pub fn be64(image: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(image[at..at + 8].try_into().expect("8 bytes"))
}

/// All damages of an image that has an L2 table, snapshots and a refcount block.
pub fn all(image: &[u8]) -> Vec<Damage> {
    let mut damages = Vec::new();
    for (name, at, width) in FIELDS {
        for value in VALUES {
            let bytes = value.to_be_bytes();
            if *width < 8 && *value >> (8 * width) != 0 && *value != u64::MAX {
                continue;
            }
            let change = Change::Put(*at, bytes[8 - width..].to_vec());
            damages.push(Damage { name: format!("{name} {value:#x}"), change });
        }
    }
    tables(image, &mut damages);
    cuts(image, &mut damages);
    flips(image, &mut damages);
    damages
}

fn tables(image: &[u8], damages: &mut Vec<Damage>) {
    let address = |entry: u64| (entry & 0x00ff_ffff_ffff_fe00) as usize;
    let l1 = be64(image, 40) as usize;
    let l2 = address(be64(image, l1));
    let refcounts = be64(image, 48) as usize;
    let block = address(be64(image, refcounts));
    let snapshots = be64(image, 64) as usize;
    let len = image.len() as u64;
    let copied = 1 << 63;
    let entries = [
        0,
        1,
        0x200,
        copied | 0x200,
        copied,
        copied | 0x1_0000,
        copied | l1 as u64,
        copied | l2 as u64,
        copied | len,
        copied | (len + 0x10000),
        copied | 0x00ff_ffff_ffff_0000,
        0x7f00_0000_0000_0000,
        u64::MAX,
        1 << 62,
        (1 << 62) | 0x3fff_ffff_ffff_ffff,
        (1 << 62) | len,
        (1 << 62) | 0x1fff_0000_0000_1234,
        copied | 0x10001,
    ];
    for (name, at) in [("L1 entry", l1), ("L2 entry", l2), ("refcount table entry", refcounts)] {
        for entry in entries {
            let change = Change::Put(at, u64::to_be_bytes(entry).to_vec());
            damages.push(Damage { name: format!("{name} {entry:#x}"), change });
        }
    }
    for value in [0_u16, 2, 0xffff] {
        for cluster in [0, 1, 3, 5] {
            let change = Change::Put(block + 2 * cluster, value.to_be_bytes().to_vec());
            damages.push(Damage { name: format!("refcount of cluster {cluster} {value}"), change });
        }
    }
    if snapshots == 0 {
        return;
    }
    for (name, at, width) in [
        ("L1 offset", 0, 8),
        ("L1 size", 8, 4),
        ("id size", 12, 2),
        ("name size", 14, 2),
        ("date", 16, 4),
        ("nanoseconds", 20, 4),
        ("clock", 24, 8),
        ("state size", 32, 4),
        ("extra size", 36, 4),
        ("disk size", 48, 8),
    ] {
        for value in VALUES {
            let bytes = value.to_be_bytes();
            let change = Change::Put(snapshots + at, bytes[8 - width..].to_vec());
            damages.push(Damage { name: format!("snapshot {name} {value:#x}"), change });
        }
    }
}

fn cuts(image: &[u8], damages: &mut Vec<Damage>) {
    let len = image.len();
    for cut in [
        0,
        1,
        3,
        4,
        8,
        20,
        71,
        72,
        103,
        104,
        111,
        112,
        119,
        500,
        512,
        4096,
        65535,
        65536,
        65537,
        131_072,
        196_608,
        len / 2,
        len - 1,
    ] {
        if cut < len {
            damages.push(Damage { name: format!("cut at {cut}"), change: Change::Cut(cut) });
        }
    }
}

fn flips(image: &[u8], damages: &mut Vec<Damage>) {
    let mut random = Random::new(20);
    let l1 = be64(image, 40) as usize;
    for number in 0..120 {
        let mut flips = Vec::new();
        for _ in 0..=random.below(3) {
            // Half of them in the header, the others anywhere in the first megabyte of metadata and data.
            let place = match random.below(4) {
                0 | 1 => random.below(128) as usize,
                2 => l1 + random.below(64) as usize,
                _ => random.below(image.len() as u64) as usize,
            };
            flips.push((place.min(image.len() - 1), 1 << random.below(8)));
        }
        damages.push(Damage { name: format!("flips {number} {flips:?}"), change: Change::Flip(flips) });
    }
}

/// The image that is damaged: a few clusters of data, two snapshots, a bitmap.
pub fn victim() -> super::kinds::Kind {
    super::kinds::Kind {
        name: "victim".into(),
        open: super::kinds::Open::Qcow2,
        recipe: "$Q create -q -f qcow2 disk 4M\nio qcow2 disk 'write -P 1 0 200k' 'write -P 2 3M 64k'\n\
                 $Q snapshot -c one disk\nio qcow2 disk 'write -P 3 64k 64k'\n$Q snapshot -c two disk"
            .into(),
    }
}
