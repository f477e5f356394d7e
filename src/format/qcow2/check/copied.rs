//! The flags in L1 and L2 entries that say "refcount is exactly one". They are looked at in the active tables only: a
//! snapshot's tables are used as they are, and their flags are renewed when it is applied.

use super::Checker;
use super::walk::{EntryKind, OFFSET, TableReader, neighbours, plain_run};
use crate::error::Result;
use crate::format::qcow2::geometry::HostOffset;
use crate::format::qcow2::header::L1_BYTES_MAX;
use crate::format::qcow2::refcount::{MetadataKind, Refcounts};
use crate::image::Repair;

const COPIED: u64 = 1 << 63;

impl Checker<'_> {
    /// Checks the flags against the refcounts on disk. They are corrected with [`Repair::Leaks`], too, if nothing is
    /// wrong with the refcounts.
    pub(super) fn check_copied(&mut self) -> Result<()> {
        let repair = match self.repair {
            Repair::Nothing => false,
            Repair::Leaks => self.found.check_errors == 0 && self.found.corruptions == 0,
            // Where a refcount could not be read, what is on disk has not been compared, and may be too small.
            Repair::All => !self.unreadable,
        };
        let (l1_offset, l1_size) = (self.header().l1_offset, self.header().l1_size);
        let mut l1 = self.read_l1(l1_offset, l1_size)?;
        let file = self.file.clone();
        let cluster = self.geometry.cluster_size();
        let mut reader = TableReader::default();
        for index in 0..l1.len() {
            let table = l1[index] & OFFSET;
            if table == 0 {
                continue;
            }
            let count = match self.disk.get(table >> self.geometry.cluster_bits) {
                Ok(count) => count,
                // Has been reported for the cluster itself.
                Err(unknown) => {
                    self.announce(&unknown);
                    continue;
                }
            };
            if (count == 1) != (l1[index] & COPIED != 0) {
                let what =
                    format!("OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={:x} refcount={count}", l1[index]);
                if self.flag(&what, repair) {
                    l1[index] = with_copied(l1[index], count == 1);
                    self.write_l1_entry(l1_offset, index, l1[index])?;
                }
            }
            if table >= self.file_len {
                continue;
            }
            let bytes = match reader.table(&*file, table, cluster, |max| neighbours(&l1, index, cluster, max)) {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.say("ERROR: Could not read L2 table: Input/output error");
                    self.found.check_errors += 1;
                    return Err(super::structures::unreadable().caused_by(&error));
                }
            };
            self.check_table_flags(table, bytes, repair)?;
        }
        if repair { self.file.flush() } else { Ok(()) }
    }

    /// Reports a wrong flag; says whether it is to be corrected.
    fn flag(&mut self, what: &str, repair: bool) -> bool {
        self.say(&format!("{} {what}", if repair { "Repairing" } else { "ERROR" }));
        if repair {
            self.found.corruptions_fixed += 1;
        } else {
            self.found.corruptions += 1;
        }
        repair
    }

    fn check_table_flags(&mut self, table: u64, bytes: &mut [u8], repair: bool) -> Result<()> {
        let geometry = self.geometry;
        let step = geometry.l2_entry_size() as usize;
        let mut fixed = 0;
        // Entries of a run whose flags are right.
        let mut right = 0;
        for index in 0..bytes.len() / step {
            if right > 0 {
                right -= 1;
                continue;
            }
            let entry = &bytes[index * step..][..step];
            let raw = u64::from_be_bytes(entry[..8].try_into().expect("eight bytes"));
            let plain = raw & COPIED != 0 && raw & !(COPIED | OFFSET) == 0 && step == 8 && !geometry.external_data;
            if plain && geometry.in_cluster(raw & OFFSET) == 0 {
                let run = plain_run(bytes, index, geometry.cluster_size());
                right = self.disk.ones((raw & OFFSET) >> geometry.cluster_bits, run);
                if right > 0 {
                    right -= 1;
                    continue;
                }
            }
            if !matches!(EntryKind::of(raw, geometry), EntryKind::Normal | EntryKind::ZeroPlaced) {
                continue;
            }
            // A cluster of an external data file is used exactly once.
            let count = match geometry.external_data {
                true => Ok(1),
                false => self.disk.get((raw & OFFSET) >> geometry.cluster_bits),
            };
            let count = match count {
                Ok(count) => count,
                Err(unknown) => {
                    self.announce(&unknown);
                    continue;
                }
            };
            if (count == 1) != (raw & COPIED != 0) {
                let what = format!("OFLAG_COPIED data cluster: l2_entry={raw:x} refcount={count}");
                if self.flag(&what, repair) {
                    bytes[index * step..][..8].copy_from_slice(&with_copied(raw, count == 1).to_be_bytes());
                    fixed += 1;
                }
            }
        }
        if fixed == 0 {
            return Ok(());
        }
        if self.may_write_table(table)? {
            return self.file.write_at(bytes, table);
        }
        self.say("ERROR: Could not write L2 table; metadata overlap check failed: Input/output error");
        self.found.check_errors += 1;
        Err(super::structures::unreadable())
    }

    /// Writes an entry of the active L1 table, unless other metadata lies in its place, too.
    fn write_l1_entry(&mut self, l1_offset: u64, index: usize, entry: u64) -> Result<()> {
        let bytes = u64::from(self.header().l1_size) * 8;
        if self.places()?.check_own(HostOffset(l1_offset), bytes, MetadataKind::ActiveL1).is_err() {
            self.say("ERROR: Could not write L1 table; metadata overlap check failed: Input/output error");
            self.found.check_errors += 1;
            return Err(super::structures::unreadable());
        }
        self.file.write_at(&entry.to_be_bytes(), l1_offset + index as u64 * 8)
    }

    /// Whether an L2 table lies in a place of its own, so that writing it destroys no other metadata.
    pub(super) fn may_write_table(&mut self, table: u64) -> Result<bool> {
        let cluster = self.geometry.cluster_size();
        Ok(self.places()?.overlap(HostOffset(table), cluster).is_none())
    }

    /// Where metadata lies, found when it is first asked for.
    fn places(&mut self) -> Result<&Refcounts> {
        let places = match self.places.take() {
            Some(places) => places,
            None => self.find_places()?,
        };
        Ok(self.places.insert(places))
    }

    /// Where metadata lies, L2 tables left aside.
    fn find_places(&self) -> Result<Refcounts> {
        let header = self.header();
        let table = HostOffset(header.refcount_table_offset);
        let clusters = u64::from(header.refcount_table_clusters);
        let mut places = Refcounts::open(self.file.clone(), self.geometry, table, clusters)?;
        let l1_bytes = u64::from(header.l1_size) * 8;
        places.protect(HostOffset(header.l1_offset), l1_bytes, MetadataKind::ActiveL1);
        places.protect(HostOffset(header.snapshots_offset), self.snapshots.bytes, MetadataKind::SnapshotTable);
        for snapshot in &self.snapshots.entries {
            let bytes = u64::from(snapshot.l1_size) * 8;
            if bytes <= L1_BYTES_MAX {
                places.protect(HostOffset(snapshot.l1_offset), bytes, MetadataKind::InactiveL1);
            }
        }
        if let Some(bitmaps) = header.bitmaps.filter(|_| !self.meta.bitmaps.is_empty()) {
            let offset = HostOffset(bitmaps.directory_offset);
            places.protect(offset, bitmaps.directory_size, MetadataKind::BitmapDirectory);
            for (table, entries) in self.meta.bitmaps.tables() {
                places.protect(HostOffset(table), u64::from(entries) * 8, MetadataKind::BitmapDirectory);
            }
        }
        Ok(places)
    }
}

fn with_copied(entry: u64, copied: bool) -> u64 {
    if copied { entry | COPIED } else { entry & !COPIED }
}

#[cfg(test)]
#[path = "copied_tests.rs"]
mod tests;
