//! Counting everything that uses clusters.

use super::Checker;
use super::counts::{Counts, PIECE as PIECE_CLUSTERS};
use super::trust::Doubt;
use crate::error::{Error, Result};
use crate::format::qcow2::geometry::HostOffset;
use crate::format::qcow2::header::L1_BYTES_MAX;
use crate::format::qcow2::refcount::{Run, TABLE_OFFSET};
use crate::image::Repair;
use crate::text;

/// Bits of an entry of a bitmap table: where its cluster lies, and "all ones".
const BITMAP_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const BITMAP_ALL_ONES: u64 = 1;
const BITMAP_RESERVED: u64 = !(BITMAP_OFFSET | BITMAP_ALL_ONES);
/// Bytes of a bitmap table that are read at a time.
const PIECE: u64 = 1 << 20;

impl Checker<'_> {
    /// Counts anew what every structure uses, and reports what is wrong with the structures.
    pub(super) fn count_all(&mut self) -> Result<()> {
        let before = self.found.corruptions;
        self.counts = Counts::default();
        self.count(0, self.geometry.cluster_size());
        let (offset, size) = (self.header().l1_offset, self.header().l1_size);
        self.count_l1(offset, size, true)?;
        self.count_snapshots()?;
        if let Some(crypto) = self.header().crypto {
            self.count(crypto.offset, crypto.len);
        }
        self.count_bitmaps()?;
        if self.found.corruptions > before {
            self.doubt(Doubt::Damage);
        }
        let bytes = u64::from(self.header().refcount_table_clusters) << self.geometry.cluster_bits;
        self.count(self.header().refcount_table_offset, bytes);
        self.count_blocks();
        Ok(())
    }

    /// As [`Checker::count`], for a table: where the file ends inside it, what its end led to is lost.
    pub(super) fn count_table_place(&mut self, offset: u64, len: u64) {
        self.count(offset, len);
        if offset.saturating_add(len) > self.file_len {
            self.doubt(Doubt::Truncated);
        }
    }

    /// Counts one use of every cluster that a range touches.
    pub(super) fn count(&mut self, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let cluster = self.geometry.cluster_size();
        let end = u128::from(offset) + u128::from(len);
        if end >= u128::from(self.file_len) + u128::from(cluster) {
            self.corruption(&format!(
                "ERROR: counting reference for region exceeding the end of the file by one cluster or more: \
                 offset {offset:#x} size {len:#x}"
            ));
            return;
        }
        let run = Run::of_bytes(self.geometry, HostOffset(offset), len);
        self.clusters = self.clusters.max(run.end());
        self.count_run(run.first, run.clusters);
    }

    /// Counts one use of each of some clusters that may be used.
    pub(super) fn count_run(&mut self, first: u64, clusters: u64) {
        let (mut at, end, max) = (first, first + clusters, self.geometry.refcount_max());
        while at < end {
            let len = (PIECE_CLUSTERS - at % PIECE_CLUSTERS).min(end - at);
            if !self.counts.add_all(at, len, max) {
                (at..at + len).for_each(|number| self.count_cluster(number));
            }
            at += len;
        }
    }

    /// Counts one use of a cluster that may be used.
    pub(super) fn count_cluster(&mut self, number: u64) {
        let max = self.geometry.refcount_max();
        if self.counts.add(number) > max {
            self.counts.undo(number);
            let offset = number << self.geometry.cluster_bits;
            self.corruption(&format!(
                "ERROR: overflow cluster offset={offset:#x}\nUse qemu-img amend to increase the refcount entry width or \
                 qemu-img convert to create a clean copy if the image cannot be opened for writing"
            ));
        }
    }

    fn count_snapshots(&mut self) -> Result<()> {
        if self.geometry.external_data && !self.snapshots.entries.is_empty() {
            let number = self.snapshots.entries.len();
            self.corruption(&format!("ERROR {number} snapshots in image with data file"));
        }
        for index in 0..self.snapshots.entries.len() {
            let snapshot = &self.snapshots.entries[index];
            let (offset, size) = (snapshot.l1_offset, snapshot.l1_size);
            let show = |bytes: &[u8]| text::from_bytes(bytes.split(|byte| *byte == 0).next().unwrap_or(&[]));
            let name = format!("{} ({})", show(&snapshot.id), show(&snapshot.name));
            if self.geometry.in_cluster(offset) != 0 {
                self.corruption(&format!(
                    "ERROR snapshot {name} l1_offset={offset:#x}: L1 table is not cluster aligned; snapshot table entry \
                     corrupted"
                ));
                continue;
            }
            if u64::from(size) * 8 > L1_BYTES_MAX {
                self.corruption(&format!(
                    "ERROR snapshot {name} l1_size={size:#x}: L1 table is too large; snapshot table entry corrupted"
                ));
                continue;
            }
            self.count_l1(offset, size, false)?;
        }
        self.count_table_place(self.header().snapshots_offset, self.snapshots.bytes);
        Ok(())
    }

    /// The bitmap directory, the table of each bitmap, and its clusters.
    fn count_bitmaps(&mut self) -> Result<()> {
        let Some(pointer) = self.header().bitmaps.filter(|_| !self.meta.bitmaps.is_empty()) else { return Ok(()) };
        self.count_table_place(pointer.directory_offset, pointer.directory_size);
        for (table, entries) in self.meta.bitmaps.tables() {
            let len = u64::from(entries) * 8;
            self.count_table_place(table, len);
            let mut at = table;
            while at < table + len {
                let mut bytes = vec![0; PIECE.min(table + len - at) as usize];
                self.file.read_at(&mut bytes, at)?;
                for entry in bytes.chunks_exact(8) {
                    self.count_bitmap_cluster(u64::from_be_bytes(entry.try_into().expect("eight bytes")));
                }
                at += bytes.len() as u64;
            }
        }
        Ok(())
    }

    fn count_bitmap_cluster(&mut self, entry: u64) {
        let offset = entry & BITMAP_OFFSET;
        let sound = entry & BITMAP_RESERVED == 0
            && (offset == 0 || entry & BITMAP_ALL_ONES == 0)
            && self.geometry.in_cluster(offset) == 0;
        if !sound {
            self.found.corruptions += 1;
        } else if offset != 0 {
            self.count(offset, self.geometry.cluster_size());
        }
    }

    /// Counts the refcount blocks and looks at the entries that name them.
    fn count_blocks(&mut self) {
        let cluster = self.geometry.cluster_size();
        for index in 0..self.disk.table.len() {
            let entry = self.disk.table[index];
            let offset = entry & TABLE_OFFSET;
            if entry & !TABLE_OFFSET != 0 {
                self.rebuild = true;
                self.corruption(&format!("ERROR refcount table entry {index} has reserved bits set"));
                continue;
            }
            if offset == 0 {
                continue;
            }
            if self.geometry.in_cluster(offset) != 0 {
                self.rebuild = true;
                self.corruption(&format!(
                    "ERROR refcount block {index} is not cluster aligned; refcount table entry corrupted"
                ));
                continue;
            }
            let number = offset >> self.geometry.cluster_bits;
            if number >= self.clusters {
                self.block_outside(index);
                continue;
            }
            self.count(offset, cluster);
            let count = self.counts.get(number);
            if count != 1 {
                self.rebuild = true;
                self.corruption(&format!("ERROR refcount block {index} refcount={count}"));
            }
        }
    }

    /// A refcount block behind the end of the file: what it should hold is lost, so nothing leads to it from now on.
    fn block_outside(&mut self, index: usize) {
        if self.repair == Repair::All && !self.only_counts {
            self.say(&format!("Repairing refcount block {index} is outside image"));
            self.found.corruptions_fixed += 1;
            self.rebuild = true;
        } else {
            self.corruption(&format!("ERROR refcount block {index} is outside image"));
        }
    }
}

/// The error of structures that cannot be read any further.
pub(super) fn unreadable() -> Error {
    Error::os(libc::EIO)
}
