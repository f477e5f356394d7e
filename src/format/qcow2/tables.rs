//! Mapping tables in memory: the active L1 table, and a bounded cache of L2 tables.
//!
//! Neither writes anything. Changed tables stay in memory, marked dirty, until `txn` brings them to disk in a safe order.

use std::ops::Range;
use std::sync::Arc;

use super::entry::{L1Entry, L2Entry};
use super::geometry::{Geometry, HostOffset};
use super::offset_map::OffsetMap;
use crate::error::Result;
use crate::storage::{DebugEvent, Storage};
use crate::units::MIB;

/// Bytes of L2 tables that are kept; the cache holds at least [`L2_TABLES_MIN`] tables whatever their size.
const L2_BYTES: u64 = 8 * MIB;
/// Reading one chain of extents and writing another at the same time touches this many tables.
const L2_TABLES_MIN: u64 = 4;

/// The active L1 table.
#[derive(Debug, Default)]
pub struct L1Table {
    entries: Vec<L1Entry>,
    dirty: Option<Range<usize>>,
}

impl L1Table {
    /// Reads `entries` entries at `offset`; what lies behind the end of the file reads as empty entries.
    pub fn read(file: &dyn Storage, offset: u64, entries: u32) -> Result<Self> {
        let mut bytes = vec![0; entries as usize * 8];
        file.read_at(&mut bytes, offset)?;
        Ok(Self::from_bytes(&bytes))
    }

    /// A table of these big-endian entries, not dirty.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let entry = |word: &[u8]| L1Entry(u64::from_be_bytes(word.try_into().expect("eight bytes")));
        L1Table { entries: bytes.chunks_exact(8).map(entry).collect(), dirty: None }
    }

    /// A table of these entries, all of them dirty.
    pub fn from_entries(entries: Vec<L1Entry>) -> Self {
        let dirty = (!entries.is_empty()).then_some(0..entries.len());
        L1Table { entries, dirty }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// All entries.
    pub fn entries(&self) -> &[L1Entry] {
        &self.entries
    }

    /// The entry at `index`; an empty one behind the end of the table.
    pub fn get(&self, index: u64) -> L1Entry {
        usize::try_from(index).ok().and_then(|index| self.entries.get(index).copied()).unwrap_or_default()
    }

    /// Changes the entry at `index`, which must exist, and marks it dirty.
    pub fn set(&mut self, index: u64, entry: L1Entry) {
        let index = usize::try_from(index).expect("an index into a table in memory");
        self.entries[index] = entry;
        let dirty = self.dirty.get_or_insert(index..index + 1);
        *dirty = dirty.start.min(index)..dirty.end.max(index + 1);
    }

    /// Adds empty entries up to `entries`, for a table that is about to get another place.
    pub fn grow(&mut self, entries: usize) {
        self.entries.resize(self.entries.len().max(entries), L1Entry::default());
    }

    /// Takes entries behind the first `entries` away, for a table that could not get another place.
    pub fn shorten(&mut self, entries: usize) {
        self.entries.truncate(entries);
    }

    /// The part that has to be written.
    pub fn dirty(&self) -> Option<Range<usize>> {
        self.dirty.clone()
    }

    /// Says that the dirty part has been written.
    pub fn set_clean(&mut self) {
        self.dirty = None;
    }

    /// Entries as they lie on disk.
    pub fn to_bytes(&self, range: Range<usize>) -> Vec<u8> {
        self.entries[range].iter().flat_map(|entry| entry.0.to_be_bytes()).collect()
    }
}

/// One L2 table, in its form on disk.
#[derive(Debug)]
pub struct L2Table {
    bytes: Box<[u8]>,
    extended: bool,
    dirty: bool,
    used: u64,
}

impl L2Table {
    /// A table in these bytes, which are as many as a cluster has.
    fn new(geometry: Geometry, bytes: Box<[u8]>) -> Self {
        L2Table { bytes, extended: geometry.extended_l2, dirty: false, used: 0 }
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    fn position(&self, index: u64) -> usize {
        // An index into a table of at most 2 MiB.
        index as usize * if self.extended { 16 } else { 8 }
    }

    /// The entry at `index`, which must be below the table's number of entries.
    pub fn get(&self, index: u64) -> L2Entry {
        let at = self.position(index);
        L2Entry { raw: self.word(at), bitmap: if self.extended { self.word(at + 8) } else { 0 } }
    }

    /// The bytes of `count` entries from the one at `index` on.
    pub fn entries(&self, index: u64, count: u64) -> &[u8] {
        &self.bytes[self.position(index)..self.position(index + count)]
    }

    /// Changes the entry at `index` and marks the table dirty.
    pub fn set(&mut self, index: u64, entry: L2Entry) {
        let at = self.position(index);
        self.bytes[at..at + 8].copy_from_slice(&entry.raw.to_be_bytes());
        if self.extended {
            self.bytes[at + 8..at + 16].copy_from_slice(&entry.bitmap.to_be_bytes());
        }
        self.dirty = true;
    }

    /// How many entries in a row are empty, from the one at `index` on, among `count`.
    pub fn empty_entries(&self, index: u64, count: u64) -> u64 {
        let words = self.entries(index, count).chunks_exact(8).take_while(|word| **word == [0; 8]).count();
        words as u64 / if self.extended { 2 } else { 1 }
    }

    /// Changes `count` entries from the one at `index` on, which are to point at as many clusters in a row, the first of
    /// them as `first` does, and marks the table dirty.
    pub fn set_run(&mut self, index: u64, count: u64, first: L2Entry, cluster_size: u64) {
        for number in 0..count {
            self.set(index + number, L2Entry { raw: first.raw + number * cluster_size, ..first });
        }
    }

    /// The table as it lies on disk.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Says that it has been written.
    pub fn set_clean(&mut self) {
        self.dirty = false;
    }
}

/// L2 tables by host offset. Clean ones are dropped when there are too many, the longest unused first; dirty ones stay
/// until `txn` has written them.
#[derive(Debug)]
pub struct L2Cache {
    file: Arc<dyn Storage>,
    geometry: Geometry,
    tables: OffsetMap<HostOffset, L2Table>,
    capacity: usize,
    clock: u64,
}

impl L2Cache {
    /// An empty cache of the tables of an image.
    pub fn new(file: Arc<dyn Storage>, geometry: Geometry) -> Self {
        let capacity = (L2_BYTES / geometry.cluster_size()).max(L2_TABLES_MIN) as usize;
        L2Cache { file, geometry, tables: OffsetMap::default(), capacity, clock: 0 }
    }

    /// The table at `offset`, which must be on a cluster border; read from disk if it is not here.
    pub fn get(&mut self, offset: HostOffset) -> Result<&mut L2Table> {
        self.clock += 1;
        if !self.tables.contains_key(&offset) {
            let mut bytes = self.make_room().unwrap_or_else(|| self.zeros());
            self.file.event(DebugEvent::L2Load);
            self.file.read_at(&mut bytes, offset.0)?;
            self.tables.insert(offset, L2Table::new(self.geometry, bytes));
        }
        let table = self.tables.get_mut(&offset).expect("it is there by now");
        table.used = self.clock;
        Ok(table)
    }

    /// A new, empty, dirty table at `offset`; takes the place of what was cached there.
    pub fn insert_new(&mut self, offset: HostOffset) -> &mut L2Table {
        self.clock += 1;
        let bytes = match self.make_room() {
            Some(mut bytes) => {
                bytes.fill(0);
                bytes
            }
            None => self.zeros(),
        };
        let mut table = L2Table::new(self.geometry, bytes);
        (table.dirty, table.used) = (true, self.clock);
        self.tables.insert(offset, table);
        self.tables.get_mut(&offset).expect("just inserted")
    }

    /// A copy of the table at `from`, dirty, at `to`.
    pub fn insert_copy(&mut self, from: HostOffset, to: HostOffset) -> Result<&mut L2Table> {
        let bytes = self.get(from)?.bytes.clone();
        let table = self.insert_new(to);
        table.bytes = bytes;
        Ok(table)
    }

    /// Forgets all tables, dirty or not.
    pub fn clear(&mut self) {
        self.tables.clear();
    }

    /// Whether so many tables are dirty that they should be written before the next change.
    pub fn is_crowded(&self) -> bool {
        self.tables.values().filter(|table| table.dirty).count() * 2 >= self.capacity
    }

    /// The dirty tables in the order of their offsets.
    pub fn dirty_tables(&mut self) -> Vec<(HostOffset, &mut L2Table)> {
        let mut dirty: Vec<_> =
            self.tables.iter_mut().filter(|(_, table)| table.dirty).map(|(offset, table)| (*offset, table)).collect();
        dirty.sort_unstable_by_key(|(offset, _)| *offset);
        dirty
    }

    /// Drops tables until there is room for one more, and returns the memory of one of them.
    fn make_room(&mut self) -> Option<Box<[u8]>> {
        let mut bytes = None;
        while self.tables.len() >= self.capacity {
            let oldest = self.tables.iter().filter(|(_, table)| !table.dirty).min_by_key(|(_, table)| table.used);
            let Some((&offset, _)) = oldest else { break };
            bytes = self.tables.remove(&offset).map(|table| table.bytes);
        }
        bytes
    }

    fn zeros(&self) -> Box<[u8]> {
        vec![0; self.geometry.cluster_size() as usize].into_boxed_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_entries() {
        for extended_l2 in [false, true] {
            let geometry = Geometry { cluster_bits: 16, extended_l2, refcount_order: 4, external_data: false };
            let mut table = L2Table::new(geometry, vec![0; geometry.cluster_size() as usize].into());
            let entries = geometry.l2_entries();
            assert_eq!(table.empty_entries(0, entries), entries);
            assert_eq!(table.empty_entries(entries, 0), 0);
            let first =
                L2Entry { bitmap: if extended_l2 { 0xffff_ffff } else { 0 }, ..L2Entry::normal(HostOffset(MIB), true) };
            table.set_run(5, 3, first, geometry.cluster_size());
            for number in 0..3 {
                let entry = L2Entry::normal(HostOffset(MIB + number * geometry.cluster_size()), true);
                assert_eq!(table.get(5 + number), L2Entry { bitmap: first.bitmap, ..entry });
            }
            assert_eq!([0, 2, 5, 7, 8].map(|index| table.empty_entries(index, 10)), [5, 3, 0, 0, 10]);
            // Half of an extended entry is enough.
            if extended_l2 {
                table.set(20, L2Entry { bitmap: 1, ..L2Entry::default() });
                assert_eq!([8, 20].map(|index| table.empty_entries(index, 20)), [12, 0]);
            }
        }
    }
}
