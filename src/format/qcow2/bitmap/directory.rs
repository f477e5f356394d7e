//! The bitmap directory on disk. Specification: "Bitmap directory".

#![deny(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

use std::collections::HashSet;
use std::ops::RangeInclusive;

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{Context, Error, Result};
use crate::format::qcow2::geometry::Geometry;
use crate::format::qcow2::header::{BitmapsPointer, Header, autoclear};
use crate::image::BitmapInfo;
use crate::storage::Storage;
use crate::text;
use crate::units::index;

/// Most bitmaps an image may have, as in the reference.
pub const BITMAPS_MAX: u32 = 65535;
/// Largest directory in bytes, as in the reference.
pub const DIRECTORY_BYTES_MAX: u64 = 1024 * BITMAPS_MAX as u64;
/// Longest table in entries, as in the reference.
const TABLE_MAX: u32 = 0x800_0000;
/// Most bytes of clusters that one bitmap takes, as in the reference.
const DATA_BYTES_MAX: u64 = 512 << 20;
/// Longest name in bytes, as in the reference.
pub const NAME_MAX: usize = 1023;

/// What the log2 of a granularity may be, as in the reference.
pub const GRANULARITY_BITS: RangeInclusive<u32> = 9..=31;

const FLAG_IN_USE: u32 = 1 << 0;
const FLAG_AUTO: u32 = 1 << 1;
const TYPE_DIRTY_TRACKING: u8 = 1;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawEntry {
    table_offset: U64,
    table_size: U32,
    flags: U32,
    kind: u8,
    granularity_bits: u8,
    name_len: U16,
    extra_len: U32,
}

const ENTRY_LEN: usize = 24;
const _: () = assert!(size_of::<RawEntry>() == ENTRY_LEN);

/// One bitmap as the directory describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// Host offset of its table.
    pub table_offset: u64,
    /// Number of entries of its table.
    pub table_size: u32,
    /// Whether its bits are not to be trusted.
    pub in_use: bool,
    /// Whether writes are recorded in it.
    pub auto: bool,
    /// log2 of the bytes of the guest that one bit stands for.
    pub granularity_bits: u32,
    /// Its name.
    pub name: Vec<u8>,
}

impl Bitmap {
    /// The bitmap as the rest of the program sees it.
    pub fn info(&self) -> BitmapInfo {
        let flags = [(self.in_use, "in-use"), (self.auto, "auto")];
        BitmapInfo {
            name: text::from_bytes(&self.name),
            granularity: 1 << self.granularity_bits,
            flags: flags.into_iter().filter_map(|(set, name)| set.then_some(name)).collect(),
        }
    }

    /// How many bytes the bits of a disk of `size` bytes take.
    pub fn bytes(&self, size: u64) -> u64 {
        size.div_ceil(1 << self.granularity_bits).div_ceil(8)
    }
}

/// Reads the directory that `header` points to. Without the feature bit that says that bitmaps are consistent there are
/// none.
pub fn read(file: &dyn Storage, header: &Header) -> Result<Vec<Bitmap>> {
    let Some(pointer) = header.bitmaps.filter(|_| header.autoclear & autoclear::BITMAPS != 0) else {
        return Ok(Vec::new());
    };
    let geometry = header.geometry();
    check_pointer(&pointer, geometry)?;
    let mut bytes = vec![0; index(pointer.directory_size)];
    file.read_at(&mut bytes, pointer.directory_offset).context(|| "Failed to read bitmap directory")?;
    parse(&bytes, pointer.count, geometry)
}

fn check_pointer(pointer: &BitmapsPointer, geometry: Geometry) -> Result<()> {
    let BitmapsPointer { count, directory_size, directory_offset } = *pointer;
    if count == 0 {
        return Err(Error::invalid("found bitmaps extension with zero bitmaps"));
    }
    if count > BITMAPS_MAX {
        return Err(Error::invalid(format!(
            "bitmaps_ext: Image has {count} bitmaps, exceeding the QEMU supported maximum of {BITMAPS_MAX}"
        )));
    }
    if geometry.in_cluster(directory_offset) != 0 {
        return Err(Error::invalid("bitmaps_ext: invalid bitmap directory offset"));
    }
    if directory_size > DIRECTORY_BYTES_MAX {
        return Err(Error::invalid(format!(
            "bitmaps_ext: bitmap directory size ({directory_size}) exceeds the maximum supported size \
             ({DIRECTORY_BYTES_MAX})"
        )));
    }
    if directory_size == 0 {
        return Err(Error::invalid("Requested bitmap directory size is zero"));
    }
    if directory_offset > (i64::MAX as u64).saturating_sub(directory_size) {
        return Err(Error::os(libc::EIO).context("Failed to read bitmap directory"));
    }
    Ok(())
}

fn parse(bytes: &[u8], count: u32, geometry: Geometry) -> Result<Vec<Bitmap>> {
    let broken = || Error::invalid("Broken bitmap directory");
    let mut bitmaps = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (raw, body) = RawEntry::read_from_prefix(rest).map_err(|_| broken())?;
        if bitmaps.len() as u64 == u64::from(count) {
            return Err(Error::invalid("More bitmaps found than specified in header extension"));
        }
        let name_len = usize::from(raw.name_len.get());
        let extra_len = index(raw.extra_len.get().into());
        let len = name_len
            .saturating_add(ENTRY_LEN)
            .saturating_add(extra_len)
            .checked_next_multiple_of(8)
            .ok_or_else(broken)?;
        let following = rest.get(len..).ok_or_else(broken)?;
        if extra_len != 0 {
            return Err(Error::unsupported("Bitmap extra data is not supported"));
        }
        let name = body.get(..name_len).ok_or_else(broken)?.to_vec();
        bitmaps.push(entry(&raw, name, geometry)?);
        rest = following;
    }
    if (bitmaps.len() as u64) < u64::from(count) {
        return Err(Error::invalid("Less bitmaps found than specified in header extension"));
    }
    let mut names = HashSet::new();
    if let Some(twin) = bitmaps.iter().find(|bitmap| !names.insert(&bitmap.name)) {
        return Err(Error::invalid(format!("Bitmap already exists: {}", text::from_bytes(&twin.name))));
    }
    Ok(bitmaps)
}

fn entry(raw: &RawEntry, name: Vec<u8>, geometry: Geometry) -> Result<Bitmap> {
    let (flags, offset, size) = (raw.flags.get(), raw.table_offset.get(), raw.table_size.get());
    let sound = size != 0
        && size <= TABLE_MAX
        && u64::from(size).saturating_mul(geometry.cluster_size()) <= DATA_BYTES_MAX
        && offset != 0
        && geometry.in_cluster(offset) == 0
        && i64::try_from(offset).is_ok()
        && flags & !(FLAG_IN_USE | FLAG_AUTO) == 0
        && raw.kind == TYPE_DIRTY_TRACKING
        && GRANULARITY_BITS.contains(&u32::from(raw.granularity_bits))
        && (1..=NAME_MAX).contains(&name.len());
    if !sound {
        return Err(Error::invalid(format!("Bitmap '{}' doesn't satisfy the constraints", text::from_bytes(&name))));
    }
    // A name ends at a NUL byte, as everywhere.
    let name = name.split(|byte| *byte == 0).next().unwrap_or(&[]).to_vec();
    Ok(Bitmap {
        table_offset: offset,
        table_size: size,
        in_use: flags & FLAG_IN_USE != 0,
        auto: flags & FLAG_AUTO != 0,
        granularity_bits: u32::from(raw.granularity_bits),
        name,
    })
}

/// Whether the bits of a disk of `size` bytes stay within the limits.
pub fn has_room(geometry: Geometry, size: u64, granularity_bits: u32) -> bool {
    let limit = DATA_BYTES_MAX.min(u64::from(TABLE_MAX) << geometry.cluster_bits);
    size.div_ceil(1 << granularity_bits).div_ceil(8) <= limit
}

/// The length of the entry of a bitmap of this name.
pub fn entry_len(name: &str) -> u64 {
    ENTRY_LEN.saturating_add(text::to_bytes(name).len()).next_multiple_of(8) as u64
}

/// The directory as it lies on disk.
#[expect(clippy::cast_possible_truncation, reason = "names and granularities have been checked")]
pub fn to_bytes(bitmaps: &[Bitmap]) -> Vec<u8> {
    let mut out = Vec::new();
    for bitmap in bitmaps {
        let flag = |set, flag| if set { flag } else { 0 };
        let raw = RawEntry {
            table_offset: bitmap.table_offset.into(),
            table_size: bitmap.table_size.into(),
            flags: U32::new(flag(bitmap.in_use, FLAG_IN_USE) | flag(bitmap.auto, FLAG_AUTO)),
            kind: TYPE_DIRTY_TRACKING,
            granularity_bits: bitmap.granularity_bits as u8,
            name_len: U16::new(bitmap.name.len() as u16),
            extra_len: U32::new(0),
        };
        out.extend_from_slice(raw.as_bytes());
        out.extend_from_slice(&bitmap.name);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
