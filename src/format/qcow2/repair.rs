//! Images that were not closed properly: their refcounts were not kept up to date (lazy refcounts), so they are counted
//! anew from everything that uses clusters before the first write. Specification: "Incompatible features", dirty bit.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Meta;
use super::entry::{L1Entry, L2Entry, Mapping};
use super::geometry::{Geometry, HostOffset};
use super::header::{BitmapsPointer, Header, incompatible};
use super::refcount::Run;
use super::snapshot::refs::References;
use super::tables::L1Table;
use crate::error::{Context, Error, Result};
use crate::storage::Storage;

/// Counts kept in one piece.
const PIECE: u64 = 4096;
/// Longest directory of bitmaps, as the reference limits it.
const DIRECTORY_MAX: u64 = 64 << 20;
/// Most entries of one bitmap's table, as the reference limits it.
const BITMAP_TABLE_MAX: u32 = 128 << 20 >> 3;

/// How often each cluster of the file is used. Memory is bounded by the length of the file: 4 bytes per cluster of it.
struct Counter<'a> {
    file: &'a dyn Storage,
    geometry: Geometry,
    /// Clusters that the file has.
    clusters: u64,
    counts: BTreeMap<u64, Vec<u32>>,
}

impl Meta {
    /// Counts all references anew, corrects refcounts and the flags that depend on them, and clears the dirty bit.
    pub fn repair_dirty(&mut self, file: &Arc<dyn Storage>) -> Result<()> {
        let repaired = self.recount(file);
        repaired.context(|| "Could not repair dirty image")
    }

    fn recount(&mut self, file: &Arc<dyn Storage>) -> Result<()> {
        let geometry = self.header.geometry();
        let clusters = geometry.clusters(file.len()?);
        let mut counter = Counter { file: &**file, geometry, clusters, counts: BTreeMap::new() };
        counter.count_all(self)?;
        let refcounts = &mut self.writer()?.refcounts;
        // Free clusters cannot be told from used ones yet.
        refcounts.allocate_from(clusters);
        let wrong = counter.compare(|cluster, max| refcounts.get_run(cluster, max))?;
        // Increments first: they may need new blocks, which must not go into clusters that a decrement has just freed
        // while others around them are not right yet.
        for &(cluster, count) in wrong.iter().filter(|(_, count)| *count > 0) {
            refcounts.set(cluster, count)?;
        }
        for &(cluster, _) in wrong.iter().filter(|(_, count)| *count == 0) {
            refcounts.set(cluster, 0)?;
        }
        References { meta: self, file, geometry }.renew_copied()?;
        self.l2.clear();
        self.header.incompatible &= !incompatible::DIRTY;
        self.writer()?.header_changed();
        self.flush()
    }
}

impl Counter<'_> {
    fn count_all(&mut self, meta: &mut Meta) -> Result<()> {
        self.add(0, self.geometry.cluster_size())?;
        let (table, blocks) = meta.writer()?.refcounts.places()?;
        self.add_run(table)?;
        for block in blocks {
            self.add_run(block)?;
        }
        let header = &meta.header;
        self.add(header.l1_offset, u64::from(header.l1_size) * 8)?;
        self.add_tables(meta.l1.entries())?;
        self.add(header.snapshots_offset, meta.snapshots.bytes)?;
        for snapshot in &meta.snapshots.entries {
            let bytes = u64::from(snapshot.l1_size) * 8;
            super::header::check_table(
                self.geometry,
                "Snapshot L1 table",
                snapshot.l1_offset,
                bytes,
                super::header::L1_BYTES_MAX,
            )?;
            self.add(snapshot.l1_offset, bytes)?;
            let l1 = L1Table::read(self.file, snapshot.l1_offset, snapshot.l1_size)?;
            self.add_tables(l1.entries())?;
        }
        self.add_extensions(header)
    }

    fn add_extensions(&mut self, header: &Header) -> Result<()> {
        if let Some(crypto) = header.crypto {
            self.add(crypto.offset, crypto.len)?;
        }
        match header.bitmaps {
            Some(bitmaps) => self.add_bitmaps(bitmaps),
            None => Ok(()),
        }
    }

    /// Counts one use of every cluster that a range touches.
    fn add(&mut self, offset: u64, len: u64) -> Result<()> {
        self.add_run(Run::of_bytes(self.geometry, HostOffset(offset), len))
    }

    fn add_run(&mut self, run: Run) -> Result<()> {
        if run.clusters > self.clusters || run.first > self.clusters - run.clusters {
            let offset = run.first << self.geometry.cluster_bits;
            return Err(
                Error::os(libc::EIO).context(format!("The cluster at {offset:#x} lies behind the end of the file"))
            );
        }
        for cluster in run.first..run.end() {
            let piece = self.counts.entry(cluster / PIECE).or_insert_with(|| vec![0; PIECE as usize]);
            let count = &mut piece[(cluster % PIECE) as usize];
            *count = count.checked_add(1).ok_or_else(|| Error::os(libc::EIO))?;
        }
        Ok(())
    }

    fn add_tables(&mut self, l1: &[L1Entry]) -> Result<()> {
        let mut bytes = vec![0; self.geometry.cluster_size() as usize];
        for table in l1.iter().filter_map(|entry| entry.table()) {
            if self.geometry.in_cluster(table.0) != 0 {
                return Err(Error::os(libc::EIO).context(format!("L2 table offset {:#x} unaligned", table.0)));
            }
            self.add_run(Run::of_bytes(self.geometry, table, 1))?;
            self.file.read_at(&mut bytes, table.0)?;
            for entry in bytes.chunks_exact(self.geometry.l2_entry_size() as usize) {
                let raw = u64::from_be_bytes(entry[..8].try_into().expect("eight bytes"));
                self.add_entry(L2Entry { raw, bitmap: 0 })?;
            }
        }
        Ok(())
    }

    fn add_entry(&mut self, entry: L2Entry) -> Result<()> {
        if self.geometry.external_data {
            return Ok(());
        }
        match entry.mapping(self.geometry)? {
            Mapping::Unallocated | Mapping::Zero(None) => Ok(()),
            Mapping::Normal(host) | Mapping::Zero(Some(host)) => self.add(host.0, 1),
            Mapping::Compressed(run) => self.add(run.offset.0, run.len),
        }
    }

    /// The bitmap directory, the table of each bitmap, and its clusters. Specification: "Bitmaps".
    fn add_bitmaps(&mut self, pointer: BitmapsPointer) -> Result<()> {
        if pointer.directory_size > DIRECTORY_MAX {
            return Err(Error::os(libc::EIO).context("The bitmap directory is too large"));
        }
        self.add(pointer.directory_offset, pointer.directory_size)?;
        let mut directory = vec![0; pointer.directory_size as usize];
        self.file.read_at(&mut directory, pointer.directory_offset)?;
        let mut rest = &directory[..];
        for _ in 0..pointer.count {
            let (fixed, behind) = rest.split_at_checked(24).ok_or_else(|| Error::os(libc::EIO))?;
            let number =
                |from: usize, len: usize| fixed[from..from + len].iter().fold(0, |n, b| n << 8 | u64::from(*b));
            let variable = (number(18, 2) + number(20, 4)).next_multiple_of(8);
            rest = behind.get(variable as usize..).ok_or_else(|| Error::os(libc::EIO))?;
            self.add_bitmap(number(0, 8), number(8, 4) as u32)?;
        }
        Ok(())
    }

    fn add_bitmap(&mut self, table: u64, entries: u32) -> Result<()> {
        if entries > BITMAP_TABLE_MAX {
            return Err(Error::os(libc::EIO).context("A bitmap table is too large"));
        }
        let len = u64::from(entries) * 8;
        self.add(table, len)?;
        let mut bytes = vec![0; len as usize];
        self.file.read_at(&mut bytes, table)?;
        for entry in bytes.chunks_exact(8) {
            // The same bits as in an L1 entry.
            let entry = L1Entry(u64::from_be_bytes(entry.try_into().expect("eight bytes")));
            if let Some(cluster) = entry.table() {
                self.add(cluster.0, 1)?;
            }
        }
        Ok(())
    }

    fn count(&self, cluster: u64) -> u64 {
        self.counts.get(&(cluster / PIECE)).map_or(0, |piece| u64::from(piece[(cluster % PIECE) as usize]))
    }

    /// The clusters of the file whose refcount is not what was counted, with the right value.
    fn compare(&self, mut get_run: impl FnMut(u64, u64) -> Result<(u64, u64)>) -> Result<Vec<(u64, u64)>> {
        let mut wrong = Vec::new();
        let mut cluster = 0;
        while cluster < self.clusters {
            let (found, len) = get_run(cluster, self.clusters - cluster)?;
            let run = cluster..cluster + len;
            wrong.extend(run.map(|cluster| (cluster, self.count(cluster))).filter(|(_, count)| *count != found));
            cluster += len;
        }
        Ok(wrong)
    }
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
