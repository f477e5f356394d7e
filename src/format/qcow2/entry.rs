//! Entries of the mapping tables as types: what a bit pattern means is decided here and nowhere else.
//!
//! Specification: "Cluster mapping", "L1 table entry", "L2 table entry", "Extended L2 Entries".

use std::fmt;

use super::geometry::{Geometry, HostOffset};
use super::refcount::hex;
use crate::error::{Error, Result};

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// The text of an event, with the place of the L2 entry in which the damage is.
pub fn at_entry(what: impl fmt::Display, table: HostOffset, index: u64) -> String {
    format!("{what} (L2 offset: {:#x}, L2 index: {})", table.0, hex(index))
}

/// An entry of the L1 table: where an L2 table lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct L1Entry(pub u64);

impl L1Entry {
    /// The entry of a table at `offset`; `copied` says that its refcount is exactly one.
    pub fn new(offset: HostOffset, copied: bool) -> Self {
        debug_assert_eq!(offset.0 & !OFFSET, 0, "L2 tables lie on sector borders below 2^56");
        L1Entry(offset.0 | if copied { COPIED } else { 0 })
    }

    /// Where the L2 table lies; `None` if there is none.
    pub fn table(self) -> Option<HostOffset> {
        (self.0 & OFFSET != 0).then_some(HostOffset(self.0 & OFFSET))
    }

    /// Whether the table's refcount is exactly one, so that it may be changed in place.
    pub fn copied(self) -> bool {
        self.0 & COPIED != 0
    }

    /// The same entry with the other flag.
    #[must_use]
    pub fn with_copied(self, copied: bool) -> Self {
        L1Entry(if copied { self.0 | COPIED } else { self.0 & !COPIED })
    }
}

/// An entry of an L2 table with its subcluster bitmap (0 where entries have none).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct L2Entry {
    /// The first 8 bytes.
    pub raw: u64,
    /// The second 8 bytes of an extended entry: allocation bits in the lower half, zero bits in the upper.
    pub bitmap: u64,
}

/// What an L2 entry says about its cluster, leaving subclusters aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Nothing here.
    Unallocated,
    /// A plain cluster.
    Normal(HostOffset),
    /// Reads as zeros (version 3 zero flag), with the space that is reserved for it.
    Zero(Option<HostOffset>),
    /// A compressed cluster.
    Compressed(CompressedRun),
}

/// Where the bytes of a compressed cluster lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressedRun {
    /// Offset of the first byte; any value.
    pub offset: HostOffset,
    /// Number of bytes up to the end of the last 512-byte sector it touches.
    pub len: u64,
}

impl L2Entry {
    /// A plain cluster, all subclusters allocated. With extended entries `bitmap` still has to be set.
    pub fn normal(offset: HostOffset, copied: bool) -> Self {
        L2Entry { raw: offset.0 | if copied { COPIED } else { 0 }, bitmap: 0 }
    }

    /// A cluster that reads as zeros, in an image without extended entries.
    pub fn zero(offset: Option<HostOffset>, copied: bool) -> Self {
        let place = offset.map_or(0, |offset| offset.0 | if copied { COPIED } else { 0 });
        L2Entry { raw: place | ZERO, bitmap: 0 }
    }

    /// A compressed cluster of `len` bytes at `offset`.
    pub fn compressed(geometry: Geometry, offset: HostOffset, len: u64) -> Self {
        let shift = geometry.compressed_shift();
        let sectors = ((offset.0 + len - 1) >> 9) - (offset.0 >> 9);
        L2Entry { raw: COMPRESSED | sectors << shift | offset.0, bitmap: 0 }
    }

    /// Whether the cluster's refcount is exactly one, so that it may be written in place.
    pub fn copied(self) -> bool {
        self.raw & COPIED != 0
    }

    /// Whether both entries say the same about the guest: all but the flag about the refcount.
    pub fn shows_same(self, other: L2Entry) -> bool {
        (self.raw ^ other.raw) & !COPIED == 0 && self.bitmap == other.bitmap
    }

    /// Whether this is a compressed cluster.
    pub fn is_compressed(self) -> bool {
        self.raw & COMPRESSED != 0
    }

    /// What the entry says. Fails for states the specification does not allow.
    pub fn mapping(self, geometry: Geometry) -> Result<Mapping> {
        if self.is_compressed() {
            let shift = geometry.compressed_shift();
            let offset = self.raw & ((1 << shift) - 1);
            let sectors = (self.raw & !(COPIED | COMPRESSED)) >> shift;
            let len = (sectors + 1) * 512 - (offset & 511);
            return Ok(Mapping::Compressed(CompressedRun { offset: HostOffset(offset), len }));
        }
        let offset = self.raw & OFFSET;
        if geometry.in_cluster(offset) != 0 {
            return Err(Error::corrupt(format!("Cluster allocation offset {offset:#x} unaligned")));
        }
        // In an external data file offset 0 is a place like any other; the flag tells it from "nothing here".
        let allocated = offset != 0 || (geometry.external_data && self.copied() && self.raw & ZERO == 0);
        let place = allocated.then_some(HostOffset(offset));
        if !geometry.extended_l2 && self.raw & ZERO != 0 {
            return Ok(Mapping::Zero(place));
        }
        Ok(place.map_or(Mapping::Unallocated, Mapping::Normal))
    }

    /// What in an entry of an image of this version excludes each other, in the reference's words.
    pub fn contradiction(self, geometry: Geometry, version: u32) -> Option<&'static str> {
        if self.is_compressed() {
            return None;
        }
        if !geometry.extended_l2 {
            return (self.raw & ZERO != 0 && version < 3).then_some("Zero cluster entry found in pre-v3 image");
        }
        // As in `mapping`: offset 0 may be a place.
        let placed = self.raw_offset() != 0 || (geometry.external_data && self.copied());
        let excluded = if placed { self.zero_bits() } else { u32::MAX };
        (self.allocated_bits() & excluded != 0).then_some("Invalid cluster entry found ")
    }

    /// Host offset bits of a standard entry whatever its flags say; for `check` and for freeing.
    pub fn raw_offset(self) -> u64 {
        self.raw & OFFSET
    }

    /// What kind of cluster a standard entry leads to, in the reference's words for one that cannot be written.
    pub fn noun(self) -> &'static str {
        if self.raw & ZERO != 0 { "Preallocated zero cluster" } else { "Data cluster" }
    }

    /// Whether all subclusters are of one kind.
    pub fn is_even(self) -> bool {
        matches!((self.allocated_bits(), self.zero_bits()), (0, 0 | u32::MAX) | (u32::MAX, 0))
    }

    /// Allocation bits of the subclusters.
    pub fn allocated_bits(self) -> u32 {
        self.bitmap as u32
    }

    /// Zero bits of the subclusters.
    pub fn zero_bits(self) -> u32 {
        (self.bitmap >> 32) as u32
    }
}
