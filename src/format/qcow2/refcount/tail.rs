//! The end of the file: which clusters there are free.

use super::{MetadataKind, Refcounts, Run, width};
use crate::error::Result;
use crate::format::qcow2::geometry::HostOffset;

/// How many refcount blocks in a row without a used cluster are looked at. More of them are not worth the time.
const BLOCKS_MAX: usize = 64;

impl Refcounts {
    /// Number of the cluster behind the last one in use. `None` if that takes too long to find out, or if there is none.
    pub fn used_end(&mut self) -> Result<Option<u64>> {
        let order = self.geometry.refcount_order;
        let entries = self.geometry.refcount_block_entries() as usize;
        let last = self.table.len().min(self.position(self.untouched).0.saturating_add(1));
        let mut looked = 0;
        for index in (0..last).rev() {
            let first = self.first_cluster(index);
            let Some(block) = self.block(index)? else { continue };
            let (mut at, mut end) = (0, None);
            while let Some(start) = width::find(&block.data, order, at..entries, true) {
                at = width::find(&block.data, order, start..entries, false).unwrap_or(entries);
                end = Some(first + at as u64);
            }
            looked += 1;
            if end.is_some() || looked == BLOCKS_MAX {
                return Ok(end);
            }
        }
        Ok(None)
    }

    /// Takes refcount blocks at the end of the table that count nothing, or nothing but themselves, out of it. Returns
    /// their clusters, and whether each is still counted by another block.
    pub fn drop_empty_blocks(&mut self) -> Result<Vec<(Run, bool)>> {
        let order = self.geometry.refcount_order;
        let entries = self.geometry.refcount_block_entries() as usize;
        let mut dropped = Vec::new();
        for index in (1..self.table.len()).rev() {
            let Some(offset) = self.block_offset(index)? else { continue };
            let run = Run::of_bytes(self.geometry, HostOffset(offset), 1);
            let (own, at) = self.position(run.first);
            let Some(block) = self.block(index)? else { continue };
            let used = width::find(&block.data, order, 0..entries, true);
            let counts_itself = own == index && used == Some(at);
            let others = match used {
                Some(first) if counts_itself => width::find(&block.data, order, first + 1..entries, true).is_some(),
                used => used.is_some(),
            };
            if others {
                break;
            }
            self.set_table_entry(index, 0);
            self.cache.remove(index);
            self.protected.remove(run.first, MetadataKind::RefcountBlock);
            dropped.push((run, !counts_itself));
        }
        Ok(dropped)
    }

    /// Where the next allocation of `clusters` clusters in a row would go, if that is as a whole below `border`.
    pub fn free_below(&mut self, clusters: u64, border: u64) -> Result<Option<u64>> {
        let first = self.find_free(self.cursor, clusters)?;
        Ok((first + clusters <= border).then_some(first))
    }

    /// Notes that the file has been cut at this cluster.
    pub fn cut(&mut self, cluster: u64) {
        self.untouched = self.untouched.min(cluster);
        self.untouched_before = self.untouched_before.min(cluster);
    }
}
