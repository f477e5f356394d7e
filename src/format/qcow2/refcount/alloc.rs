//! Finding free clusters, and growing the refcount structures to cover them.

use super::{MAX_TABLE_BYTES, MetadataKind, Refcounts, Run, TABLE_OFFSET, overlap_error, width};
use crate::error::{Error, Result};
use crate::format::qcow2::geometry::HostOffset;

/// Host offsets have 56 bits in all tables.
const MAX_OFFSET_BITS: u32 = 56;

/// Clusters that have been found for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Where they are.
    pub offset: HostOffset,
    /// Whether nothing was ever written there.
    pub untouched: bool,
}

impl Refcounts {
    /// Finds `clusters` free clusters in a row and sets their refcounts to one.
    pub fn allocate(&mut self, clusters: u64) -> Result<Allocation> {
        let first = self.find_free(self.cursor, clusters)?;
        let run = Run { first, clusters };
        self.check_free(run)?;
        self.claim(run);
        self.ensure_blocks(run)?;
        self.add(run, 1)?;
        let untouched = self.touch(run);
        // Gaps too small for this run stay behind until something is freed or the image is opened anew: looking at
        // them again for every allocation would be quadratic.
        self.cursor = run.end();
        Ok(Allocation { offset: self.offset(first), untouched })
    }

    /// Finds room for `len` bytes, at most one cluster, of a compressed cluster. Compressed clusters share host
    /// clusters: each counts once in the refcount of every cluster that it touches.
    pub fn allocate_bytes(&mut self, len: u64) -> Result<HostOffset> {
        let cluster_size = self.geometry.cluster_size();
        debug_assert!(len > 0 && len <= cluster_size);
        let mut offset = self.byte_cursor;
        if offset != 0 {
            let count = self.get(offset >> self.geometry.cluster_bits)?;
            if count == 0 || count == self.geometry.refcount_max() {
                offset = 0;
            }
        }
        let room = cluster_size - self.geometry.in_cluster(offset);
        if offset == 0 || room < len {
            let next = self.find_free(self.cursor, 1)?;
            self.check_free(Run { first: next, clusters: 1 })?;
            let follows = offset != 0 && (offset >> self.geometry.cluster_bits) + 1 == next;
            if !follows {
                offset = next << self.geometry.cluster_bits;
            }
        }
        let run = Run::of_bytes(self.geometry, HostOffset(offset), len);
        self.ensure_blocks(run)?;
        self.add(run, 1)?;
        self.touch(run);
        self.cursor = self.cursor.max(run.first);
        let end = offset + len;
        self.byte_cursor = if self.geometry.in_cluster(end) == 0 { 0 } else { end };
        Ok(HostOffset(offset))
    }

    fn offset(&self, cluster: u64) -> HostOffset {
        HostOffset(cluster << self.geometry.cluster_bits)
    }

    /// Notes that a run is about to be written; says whether it never was before.
    pub(super) fn touch(&mut self, run: Run) -> bool {
        let untouched = run.first >= self.untouched;
        self.untouched = self.untouched.max(run.end());
        untouched
    }

    /// The first of `clusters` clusters in a row, from `from` on, whose refcounts are zero.
    pub(super) fn find_free(&mut self, from: u64, clusters: u64) -> Result<u64> {
        let entries = self.geometry.refcount_block_entries();
        let order = self.geometry.refcount_order;
        let limit = 1u64 << (MAX_OFFSET_BITS - self.geometry.cluster_bits);
        let (mut start, mut at) = (from, from);
        loop {
            if at - start >= clusters {
                return Ok(start);
            }
            if start.checked_add(clusters).is_none_or(|end| end > limit) {
                return Err(Error::os(libc::EFBIG));
            }
            let (index, in_block) = self.position(at);
            if index >= self.table.len() {
                return Ok(start);
            }
            let Some(block) = self.block(index)? else {
                at += entries - in_block as u64;
                continue;
            };
            let wanted = (clusters - (at - start)).min(entries - in_block as u64) as usize;
            match width::find(&block.data, order, in_block..in_block + wanted, true) {
                None => at += wanted as u64,
                Some(used) => {
                    let free = width::find(&block.data, order, used..entries as usize, false);
                    at += (free.unwrap_or(entries as usize) - in_block) as u64;
                    start = at;
                }
            }
        }
    }

    /// Refuses clusters that are in use in spite of their refcount.
    pub(super) fn check_free(&self, run: Run) -> Result<()> {
        match self.protected.overlap(run) {
            None => Ok(()),
            Some(kind) => Err(overlap_error(kind)),
        }
    }

    /// Makes sure that every cluster of `run` has a place for its refcount. New refcount blocks go elsewhere, as the
    /// run may be about to be taken.
    pub(super) fn ensure_blocks(&mut self, run: Run) -> Result<()> {
        if run.clusters == 0 {
            return Ok(());
        }
        let (last, _) = self.position(run.end() - 1);
        if last >= self.table.len() {
            self.grow_table(last, run)?;
        }
        let (first, _) = self.position(run.first);
        for index in first..=last {
            if self.block_offset(index)?.is_none() {
                self.add_block(index, run)?;
            }
        }
        Ok(())
    }

    /// Makes the refcount block `index`, outside of `taken`, unless it is there.
    fn add_block(&mut self, index: usize, taken: Run) -> Result<()> {
        if self.block_offset(index)?.is_some() {
            return Ok(());
        }
        let cluster = self.find_outside(1, taken)?;
        let run = Run { first: cluster, clusters: 1 };
        self.check_free(run)?;
        self.claim(run);
        let (own, _) = self.position(cluster);
        if own != index {
            if own >= self.table.len() {
                // The table may take the place just found, and may need this very block.
                self.grow_table(own, taken)?;
                return self.add_block(index, taken);
            }
            if self.block_offset(own)?.is_none() {
                // The block that counts the new one comes first; it takes the place just found and counts itself.
                self.add_block(own, taken)?;
                return self.add_block(index, taken);
            }
        }
        self.make_room()?;
        self.cache.insert(index, vec![0; self.geometry.cluster_size() as usize].into_boxed_slice(), true);
        self.set_table_entry(index, cluster << self.geometry.cluster_bits);
        self.note_new_block(index);
        self.add(run, 1)?;
        self.touch(run);
        self.protected.add(run, MetadataKind::RefcountBlock);
        Ok(())
    }

    pub(super) fn set_table_entry(&mut self, index: usize, offset: u64) {
        debug_assert_eq!(offset & !TABLE_OFFSET, 0);
        self.table[index] = offset;
        self.table_dirty = Some(match self.table_dirty.take() {
            None => index..index + 1,
            Some(range) => range.start.min(index)..range.end.max(index + 1),
        });
    }

    /// Free clusters that do not touch `taken`.
    fn find_outside(&mut self, clusters: u64, taken: Run) -> Result<u64> {
        let found = self.find_free(self.cursor, clusters)?;
        if found < taken.end() && taken.first < found + clusters {
            self.find_free(taken.end(), clusters)
        } else {
            Ok(found)
        }
    }

    /// Moves the refcount table to a bigger place, with room for entry `index` and half as much again.
    fn grow_table(&mut self, index: usize, taken: Run) -> Result<()> {
        let per_cluster = self.geometry.cluster_size() / 8;
        let wanted = (index as u64 + 1).max(self.table.len() as u64 * 3 / 2);
        // The new table and its blocks have to be counted themselves.
        let margin = wanted.div_ceil(per_cluster) / self.geometry.refcount_block_entries() + 2;
        let clusters = (wanted + margin).div_ceil(per_cluster);
        if clusters * self.geometry.cluster_size() > MAX_TABLE_BYTES.max(self.geometry.cluster_size()) {
            return Err(Error::os(libc::EFBIG));
        }
        let entries = (clusters * per_cluster) as usize;
        self.table.resize(entries, 0);
        let first = self.find_outside(clusters, taken)?;
        let run = Run { first, clusters };
        self.check_free(run)?;
        let (last, _) = self.position(run.end().max(taken.end()) - 1);
        if last >= entries {
            return Err(Error::os(libc::EFBIG));
        }
        self.move_table(run, taken)
    }

    pub(super) fn move_table(&mut self, run: Run, taken: Run) -> Result<()> {
        self.claim(run);
        let before = self.table_run();
        // Blocks that the new table needs must lie neither in it nor in what the caller is about to take.
        let both = Run { first: run.first.min(taken.first), clusters: 0 };
        let both = Run { clusters: run.end().max(taken.end()) - both.first, ..both };
        for (index, _) in self.pieces(run) {
            self.add_block(index, both)?;
        }
        if self.table_run() != before {
            // One of the blocks needed a still larger table, which is in use by now.
            return Ok(());
        }
        self.add(run, 1)?;
        self.touch(run);
        self.table_before.push(before);
        self.protected.remove(before.first, MetadataKind::RefcountTable);
        self.table_at = self.offset(run.first);
        self.table_clusters = run.clusters;
        self.table_dirty = Some(0..self.table.len());
        self.protected.add(run, MetadataKind::RefcountTable);
        Ok(())
    }
}
