//! The end of the file: which clusters there are free.

use super::{Refcounts, width};
use crate::error::Result;

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
