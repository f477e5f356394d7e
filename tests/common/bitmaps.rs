//! Persistent bitmaps as they lie in an image file, read without the help of either tool.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// One bitmap: name, flags, log2 of the granularity, and its bits without zeros at the end.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    pub name: String,
    pub flags: u32,
    pub granularity: u8,
    pub bits: Vec<u8>,
}

/// The bitmaps of a qcow2 image; `None` where its header has no such extension, or says that they are not to be used.
pub fn read(path: &Path) -> Option<Vec<Stored>> {
    let file = File::open(path).ok()?;
    let bytes = |offset: u64, len: usize| {
        let mut buf = vec![0; len];
        file.read_exact_at(&mut buf, offset).ok()?;
        Some(buf)
    };
    let header = bytes(0, 104)?;
    if !header.starts_with(b"QFI\xfb\0\0\0\x03") || number(&header[88..96]) & 1 == 0 {
        return None;
    }
    let cluster = 1usize << number(&header[20..24]);
    let head = bytes(0, cluster)?;
    let mut at = number(&header[100..104]) as usize;
    let extension = loop {
        let (kind, len) = (number(&head[at..at + 4]), number(&head[at + 4..at + 8]) as usize);
        match kind {
            0 => return None,
            0x2385_2875 => break &head[at + 8..at + 8 + len],
            _ => at += 8 + len.next_multiple_of(8),
        }
    };
    let directory = bytes(number(&extension[16..24]), number(&extension[8..16]) as usize)?;
    let mut found = Vec::new();
    let mut rest = &directory[..];
    while !rest.is_empty() {
        let (name_len, extra) = (number(&rest[18..20]) as usize, number(&rest[20..24]) as usize);
        let table = bytes(number(&rest[..8]), number(&rest[8..12]) as usize * 8)?;
        let mut bits = Vec::new();
        for entry in table.chunks(8).map(number) {
            bits.extend(match entry {
                0 => vec![0; cluster],
                1 => vec![0xff; cluster],
                place => bytes(place, cluster)?,
            });
        }
        bits.truncate(bits.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        found.push(Stored {
            name: String::from_utf8_lossy(&rest[24 + extra..24 + extra + name_len]).into_owned(),
            flags: number(&rest[12..16]) as u32,
            granularity: rest[17],
            bits,
        });
        rest = &rest[(24 + extra + name_len).next_multiple_of(8)..];
    }
    Some(found)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}
