//! Counting what L1 and L2 tables use. Specification: "L1 table entry", "L2 table entry", "Extended L2 Entries".

use super::structures::unreadable;
use super::{Checker, Fragmentation};
use crate::error::Result;
use crate::format::qcow2::geometry::Geometry;
use crate::image::Repair;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const L1_RESERVED: u64 = !(COPIED | OFFSET);
/// Bit 0 is reserved, too, in extended entries.
const L2_RESERVED: u64 = !(COPIED | COMPRESSED | OFFSET | ZERO);
/// Tables that follow each other are read together up to this many bytes.
const PIECE: u64 = 256 << 10;

/// What an L2 entry is, judged by its flags alone: the check looks at entries that readers refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    Unallocated,
    /// Reads as zeros and has no place.
    ZeroPlain,
    /// Reads as zeros and has a place.
    ZeroPlaced,
    Normal,
    Compressed,
}

impl EntryKind {
    pub fn of(raw: u64, geometry: Geometry) -> Self {
        let offset = raw & OFFSET;
        if raw & COMPRESSED != 0 {
            EntryKind::Compressed
        } else if raw & ZERO != 0 && !geometry.extended_l2 {
            if offset == 0 { EntryKind::ZeroPlain } else { EntryKind::ZeroPlaced }
        } else if offset != 0 || (geometry.external_data && raw & COPIED != 0) {
            EntryKind::Normal
        } else {
            EntryKind::Unallocated
        }
    }
}

/// Reads L2 tables, those that follow each other in one request.
#[derive(Debug, Default)]
pub(super) struct TableReader {
    bytes: Vec<u8>,
    at: u64,
}

impl TableReader {
    /// The table at `offset`, one cluster long. `next` says how many tables follow it directly on the host.
    pub fn table(
        &mut self,
        file: &dyn crate::storage::Storage,
        offset: u64,
        cluster: u64,
        next: impl FnOnce(u64) -> u64,
    ) -> Result<&mut [u8]> {
        let inside = offset >= self.at && offset + cluster <= self.at + self.bytes.len() as u64;
        if !inside {
            let tables = 1 + next((PIECE / cluster).saturating_sub(1));
            self.bytes.resize((tables * cluster) as usize, 0);
            self.at = offset;
            if let Err(error) = file.read_at(&mut self.bytes, offset) {
                self.bytes.clear();
                return Err(error);
            }
        }
        let start = (offset - self.at) as usize;
        Ok(&mut self.bytes[start..start + cluster as usize])
    }

    /// Forgets what was read.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// How many of the entries behind `index` name the cluster directly behind their predecessor's, at most `max`.
pub(super) fn neighbours(l1: &[u64], index: usize, cluster: u64, max: u64) -> u64 {
    let offset = l1[index] & OFFSET;
    let rest = l1[index + 1..].iter().take(max as usize);
    rest.zip(1..).take_while(|(entry, number)| **entry & OFFSET == offset + number * cluster).count() as u64
}

/// How many entries of a table of short entries, from `index` on, hold the same flags and one place behind the other; at
/// least 1.
pub(super) fn plain_run(bytes: &[u8], index: usize, cluster: u64) -> u64 {
    let mut words =
        bytes[index * 8..].chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().expect("8 bytes")));
    let first = words.next().unwrap_or(0);
    // No carry goes into the flags.
    let max = (OFFSET - (first & OFFSET)) / cluster;
    1 + words.zip(1..=max).take_while(|(word, number)| *word == first + number * cluster).count() as u64
}

impl Checker<'_> {
    /// Reads an L1 table; what lies behind the end of the file reads as zeros.
    pub(super) fn read_l1(&mut self, offset: u64, entries: u32) -> Result<Vec<u64>> {
        // At most 32 MiB, checked by whoever asks.
        let mut bytes = vec![0; entries as usize * 8];
        if let Err(error) = self.file.read_at(&mut bytes, offset) {
            self.say("ERROR: I/O error in check_refcounts_l1");
            self.found.check_errors += 1;
            return Err(unreadable().caused_by(&error));
        }
        Ok(bytes.chunks_exact(8).map(|entry| u64::from_be_bytes(entry.try_into().expect("8 bytes"))).collect())
    }

    /// Counts what an L1 table and everything below it uses. Of the active one, fragmentation is counted, too.
    pub(super) fn count_l1(&mut self, offset: u64, entries: u32, active: bool) -> Result<()> {
        if active {
            self.fragmentation = Fragmentation::default();
        }
        if entries == 0 {
            return Ok(());
        }
        self.count_table_place(offset, u64::from(entries) * 8);
        let l1 = self.read_l1(offset, entries)?;
        self.maps_anything |= active && l1.iter().any(|entry| *entry != 0);
        let cluster = self.geometry.cluster_size();
        let file = self.file.clone();
        let mut reader = TableReader::default();
        for (index, entry) in l1.iter().enumerate() {
            if *entry == 0 {
                continue;
            }
            if entry & L1_RESERVED != 0 {
                self.corruption(&format!("ERROR found L1 entry with reserved bits set: {entry:x}"));
            }
            let table = entry & OFFSET;
            self.count_table_place(table, cluster);
            if self.geometry.in_cluster(table) != 0 {
                self.corruption(&format!(
                    "ERROR l2_offset={table:x}: Table is not cluster aligned; L1 entry corrupted"
                ));
            }
            if table >= self.file_len {
                // All of it reads as zeros.
                continue;
            }
            let next = |max| neighbours(&l1, index, cluster, max);
            let bytes = match reader.table(&*file, table, cluster, next) {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.say("ERROR: I/O error in check_refcounts_l2");
                    self.found.check_errors += 1;
                    return Err(unreadable().caused_by(&error));
                }
            };
            if self.count_table(table, bytes, active)? {
                reader.clear();
            }
        }
        Ok(())
    }

    /// Counts what the entries of one L2 table use. Says whether entries were changed on disk.
    fn count_table(&mut self, table: u64, bytes: &[u8], active: bool) -> Result<bool> {
        let geometry = self.geometry;
        let step = geometry.l2_entry_size() as usize;
        let cluster = geometry.cluster_size();
        let word = |bytes: &[u8]| u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
        // What lies wholly inside the file needs no further questions.
        let inside = self.file_len.saturating_sub(cluster - 1);
        let mut next = None;
        let mut changed = false;
        // Entries of a run that has been counted as a whole.
        let mut counted = 0;
        for (index, entry) in bytes.chunks_exact(step).enumerate() {
            if counted > 0 {
                counted -= 1;
                continue;
            }
            let raw = word(entry);
            let bitmap = if geometry.extended_l2 { word(&entry[8..]) } else { 0 };
            if raw == 0 && bitmap == 0 {
                continue;
            }
            let offset = raw & OFFSET;
            let plain = raw & !(COPIED | OFFSET) == 0 && bitmap == 0 && offset != 0 && !geometry.external_data;
            if plain && offset < inside && geometry.in_cluster(offset) == 0 {
                let inside = (inside - offset).div_ceil(cluster);
                let run = if step == 8 { plain_run(bytes, index, cluster).min(inside) } else { 1 };
                self.note_places(active, offset, run, &mut next);
                self.count_run(offset >> geometry.cluster_bits, run);
                counted = run - 1;
                continue;
            }
            changed |= self.count_entry(table, index, (raw, bitmap), active, &mut next)?;
        }
        Ok(changed)
    }

    /// Notes that guest clusters have places of their own, one behind the other, and whether the first one follows its
    /// predecessor.
    fn note_places(&mut self, active: bool, offset: u64, clusters: u64, next: &mut Option<u64>) {
        if active {
            self.fragmentation.allocated += clusters;
            if next.is_some_and(|next| next != offset) {
                self.fragmentation.fragmented += 1;
            }
            *next = Some(offset + clusters * self.geometry.cluster_size());
        }
    }

    /// One entry that is not a plain cluster inside the file. Says whether it was changed on disk.
    fn count_entry(
        &mut self,
        table: u64,
        index: usize,
        (raw, bitmap): (u64, u64),
        active: bool,
        next: &mut Option<u64>,
    ) -> Result<bool> {
        let kind = EntryKind::of(raw, self.geometry);
        if kind != EntryKind::Compressed && raw & L2_RESERVED != 0 {
            self.corruption(&format!("ERROR found l2 entry with reserved bits set: {raw:x}"));
        }
        match kind {
            EntryKind::Compressed => self.count_compressed(index, (raw, bitmap), active),
            EntryKind::ZeroPlaced | EntryKind::Normal => {
                return self.count_placed(table, index, (raw, bitmap), active, next);
            }
            EntryKind::ZeroPlain => {}
            EntryKind::Unallocated => {
                if bitmap as u32 != 0 {
                    self.corruption("ERROR: Unallocated cluster has non-zero subcluster allocation map");
                }
            }
        }
        Ok(false)
    }

    fn count_compressed(&mut self, index: usize, (raw, bitmap): (u64, u64), active: bool) {
        let shift = self.geometry.compressed_shift();
        let offset = raw & ((1 << shift) - 1);
        if raw & COPIED != 0 {
            self.corruption(&format!(
                "ERROR: coffset={offset:#x}: copied flag must never be set for compressed clusters"
            ));
        }
        let raw = raw & !COPIED;
        if self.geometry.external_data {
            self.corruption(&format!("ERROR compressed cluster {index} with data file, entry={raw:#x}"));
            return;
        }
        if bitmap != 0 {
            self.corruption(&format!(
                "ERROR compressed cluster {index} with non-zero subcluster allocation bitmap, entry={raw:#x}"
            ));
            return;
        }
        let sectors = (raw & !COMPRESSED) >> shift;
        self.count(offset, (sectors + 1) * 512 - (offset & 511));
        if active {
            // Compressed clusters do not fill their places: they are fragmented by nature.
            self.fragmentation.allocated += 1;
            self.fragmentation.compressed += 1;
            self.fragmentation.fragmented += 1;
        }
    }

    /// An entry with a place. Says whether it was changed on disk.
    fn count_placed(
        &mut self,
        table: u64,
        index: usize,
        (raw, bitmap): (u64, u64),
        active: bool,
        next: &mut Option<u64>,
    ) -> Result<bool> {
        let offset = raw & OFFSET;
        let mut has_data = EntryKind::of(raw, self.geometry) == EntryKind::Normal;
        if self.geometry.extended_l2 {
            let (allocated, zero) = (bitmap as u32, (bitmap >> 32) as u32);
            if allocated & zero != 0 {
                self.corruption(&format!(
                    "ERROR offset={offset:x}: Allocated cluster has corrupted subcluster allocation bitmap"
                ));
                has_data = true;
            } else {
                has_data = allocated != 0;
            }
        }
        if self.geometry.in_cluster(offset) != 0 {
            if has_data {
                self.corruption(&format!(
                    "ERROR offset={offset:x}: Data cluster is not properly aligned; L2 entry corrupted."
                ));
            } else {
                let repair = self.repair == Repair::All && !self.only_counts;
                let word = if repair { "Repairing" } else { "ERROR" };
                self.corruption(&format!(
                    "{word} offset={offset:x}: Preallocated cluster is not properly aligned; L2 entry corrupted."
                ));
                if repair && self.forget_place(table, index)? {
                    return Ok(true);
                }
            }
        }
        self.note_places(active, offset, 1, next);
        if !self.geometry.external_data {
            self.count(offset, self.geometry.cluster_size());
        }
        Ok(false)
    }

    /// Makes an entry without data one that reads as zeros and has no place. Says whether that was done.
    fn forget_place(&mut self, table: u64, index: usize) -> Result<bool> {
        if !self.may_write_table(table)? {
            self.say("ERROR: Overlap check failed");
            return Ok(false);
        }
        let step = self.geometry.l2_entry_size();
        let (raw, bitmap) = if self.geometry.extended_l2 { (0, 0xffff_ffff_u64 << 32) } else { (ZERO, 0u64) };
        let bytes = [raw.to_be_bytes(), bitmap.to_be_bytes()].concat();
        self.file.write_at(&bytes[..step as usize], table + index as u64 * step)?;
        self.found.corruptions -= 1;
        self.found.corruptions_fixed += 1;
        Ok(true)
    }
}
