//! Header extensions. Specification: "Header extensions", "Feature name table".

#![deny(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

use super::{BitmapsPointer, CryptoPointer, Header, crypt_method};
use crate::error::{Error, Result};
use crate::units::index;

const EXT_END: u32 = 0;
const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXT_FEATURE_NAMES: u32 = 0x6803_f857;
const EXT_CRYPTO: u32 = 0x0537_be77;
const EXT_BITMAPS: u32 = 0x2385_2875;
const EXT_DATA_FILE: u32 = 0x4441_5441;

impl Header {
    /// Reads the extensions in `area`, which begins behind the header.
    pub(super) fn read_extensions(&mut self, area: &[u8]) -> Result<()> {
        for extension in Extensions(area) {
            let (magic, data) = extension?;
            self.read_extension(magic, data)?;
        }
        Ok(())
    }

    fn read_extension(&mut self, magic: u32, data: &[u8]) -> Result<()> {
        match magic {
            EXT_BACKING_FORMAT => {
                if data.len() >= 16 {
                    let text = format!("ERROR: ext_backing_format: len={} too large (>=16)", data.len());
                    return Err(Error::invalid(text));
                }
                self.backing_format = Some(c_string(data));
            }
            // The names are written anew with what this program knows.
            EXT_END | EXT_FEATURE_NAMES => {}
            EXT_CRYPTO => self.read_crypto_pointer(data)?,
            EXT_BITMAPS => {
                if data.len() != 24 {
                    return Err(Error::invalid("bitmaps_ext: Invalid extension length"));
                }
                let (counts, words) = data.split_at(8);
                self.bitmaps = Some(BitmapsPointer {
                    count: u32::from_be_bytes(counts[..4].try_into().expect("four bytes")),
                    directory_size: word(words, 0),
                    directory_offset: word(words, 1),
                });
                if counts[4..] != [0; 4] {
                    return Err(Error::invalid("bitmaps_ext: Reserved field is not zero"));
                }
            }
            EXT_DATA_FILE => self.data_file = Some(c_string(data)),
            _ => self.unknown_extensions.push((magic, data.to_vec())),
        }
        Ok(())
    }

    fn read_crypto_pointer(&mut self, data: &[u8]) -> Result<()> {
        if self.crypt_method != crypt_method::LUKS {
            let text = "CRYPTO header extension only expected with LUKS encryption method";
            return Err(Error::invalid(text));
        }
        if data.len() != 16 {
            let text = format!("CRYPTO header extension size {}, but expected size 16", data.len());
            return Err(Error::invalid(text));
        }
        let pointer = CryptoPointer { offset: word(data, 0), len: word(data, 1) };
        let cluster = self.geometry().cluster_size();
        if !pointer.offset.is_multiple_of(cluster) {
            let text =
                format!("Encryption header offset '{}' is not a multiple of cluster size '{cluster}'", pointer.offset);
            return Err(Error::invalid(text));
        }
        self.crypto = Some(pointer);
        Ok(())
    }

    /// Appends all extensions to the header's bytes, the names of features only if asked for.
    pub(super) fn put_extensions(&self, out: &mut Vec<u8>, names: bool) {
        if let Some(format) = &self.backing_format {
            put_extension(out, EXT_BACKING_FORMAT, format);
        }
        if let Some(name) = self.data_file.as_ref().filter(|_| self.has_data_file()) {
            put_extension(out, EXT_DATA_FILE, name);
        }
        if let Some(pointer) = self.crypto {
            let data = [pointer.offset.to_be_bytes(), pointer.len.to_be_bytes()].concat();
            put_extension(out, EXT_CRYPTO, &data);
        }
        // Small clusters have no room to spare for names; the reference draws the line here.
        if names && self.version >= 3 && self.cluster_bits > 12 {
            put_extension(out, EXT_FEATURE_NAMES, &feature_names());
        }
        if let Some(bitmaps) = self.bitmaps {
            let count = u64::from(bitmaps.count) << 32;
            let data = [count, bitmaps.directory_size, bitmaps.directory_offset].map(u64::to_be_bytes).concat();
            put_extension(out, EXT_BITMAPS, &data);
        }
        for (magic, data) in &self.unknown_extensions {
            put_extension(out, *magic, data);
        }
        put_extension(out, EXT_END, &[]);
    }
}

/// The big-endian number of 64 bits that is the `number`th of `data`; 0 behind the end.
fn word(data: &[u8], number: usize) -> u64 {
    data.as_chunks().0.get(number).map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

pub(super) fn c_string(data: &[u8]) -> Vec<u8> {
    data.split(|&byte| byte == 0).next().unwrap_or(&[]).to_vec()
}

#[expect(clippy::cast_possible_truncation, reason = "extensions fit into a cluster, or the header is refused")]
fn put_extension(out: &mut Vec<u8>, magic: u32, data: &[u8]) {
    out.extend_from_slice(&magic.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
    // What is filled up is the data: a header of an odd length leaves everything behind it at odd offsets.
    out.extend(std::iter::repeat_n(0, data.len().wrapping_neg() % 8));
}

/// Kind (0 incompatible, 1 compatible, 2 autoclear), bit number and name of every feature.
const FEATURES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

const FEATURE_LEN: usize = 48;
const FEATURES_LEN: usize = FEATURES.len() * FEATURE_LEN;

fn feature_names() -> Vec<u8> {
    let mut data = vec![0; FEATURES_LEN];
    for (record, (kind, bit, name)) in data.chunks_exact_mut(FEATURE_LEN).zip(FEATURES) {
        let (head, text) = record.split_at_mut(2);
        head.copy_from_slice(&[kind, bit]);
        text[..name.len()].copy_from_slice(name.as_bytes());
    }
    data
}

/// Names for unknown incompatible bits out of the image's own feature name table, the rest as a bit mask.
pub(super) fn unknown_feature_names(unknown: u64, extensions: &[u8]) -> String {
    let mut names = Vec::new();
    let mut left = unknown;
    for record in find_extension(extensions, EXT_FEATURE_NAMES).unwrap_or(&[]).chunks_exact(FEATURE_LEN) {
        let (kind, bit) = (record[0], record[1]);
        if kind == 0 && bit < 64 && left & (1 << bit) != 0 {
            names.push(crate::text::from_bytes(&c_string(&record[2..])));
            left &= !(1 << bit);
        }
    }
    if left != 0 {
        names.push(format!("Unknown incompatible feature: {left:x}"));
    }
    names.join(", ")
}

fn find_extension(area: &[u8], wanted: u32) -> Option<&[u8]> {
    Extensions(area).map_while(Result::ok).find(|(magic, _)| *magic == wanted).map(|(_, data)| data)
}

/// Whether `head`, which is the beginning of the file, has all that belongs to the header. `backing_end`: where the backing
/// file name ends, which comes behind the extensions; 0 without one.
pub(super) fn is_complete(head: &[u8], header_length: u64, backing_end: u64) -> bool {
    let area = head.get(index(header_length)..).unwrap_or(&[]);
    backing_end <= head.len() as u64 && find_extension(area, EXT_END).is_some()
}

/// Magic number and data of each extension in a range of bytes, up to the one that says it is the last, or to the end.
struct Extensions<'a>(&'a [u8]);

impl<'a> Extensions<'a> {
    fn take(&mut self) -> Option<(u32, &'a [u8])> {
        let (head, body) = std::mem::take(&mut self.0).split_at_checked(8)?;
        let magic = u32::from_be_bytes(head[..4].try_into().expect("four bytes"));
        let len = index(u32::from_be_bytes(head[4..].try_into().expect("four bytes")).into());
        let data = body.get(..len)?;
        if magic != EXT_END {
            self.0 = body.get(len.next_multiple_of(8)..).unwrap_or(&[]);
        }
        Some((magic, data))
    }
}

impl<'a> Iterator for Extensions<'a> {
    type Item = Result<(u32, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        Some(self.take().ok_or_else(|| Error::invalid("Header extension too large")))
    }
}
