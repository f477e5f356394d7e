//! A new refcount table with new blocks, made of the counts in memory, where the old ones cannot be corrected in place.
//!
//! The new structures go to clusters that nothing uses, and the header names them when they are complete. The old ones
//! are still counted as used then; they become free as leaks do.

use std::collections::BTreeMap;

use super::counts::PIECE;
use super::disk::DiskCounts;
use super::{Checker, Found};
use crate::error::{Error, Result};
use crate::format::qcow2::header::REFCOUNT_TABLE_BYTES_MAX;
use crate::format::qcow2::refcount::width;
use crate::image::Repair;
use crate::storage::RangeKind;

/// Where new structures lie.
#[derive(Debug, Default)]
struct Plan {
    /// First cluster of the refcount table.
    table: u64,
    table_clusters: u64,
    /// The cluster of each block, by index.
    blocks: BTreeMap<u64, u64>,
}

impl Checker<'_> {
    /// Makes new refcount structures, and counts and compares again.
    pub(super) fn rebuild_refcounts(&mut self) -> Result<()> {
        self.say("Rebuilding refcount structure");
        let before = self.found;
        if self.keeps_leaks() {
            self.keep_counts()?;
        }
        let plan = self.plan()?;
        self.write_structures(&plan)?;
        self.disk = DiskCounts::read(&self.file, &self.meta.header)?;
        self.places = None;
        self.file_len = self.file.len()?;
        self.rebuild = false;
        self.found = Found { corruptions: 0, leaks: 0, check_errors: 0, ..before };
        self.count_all()?;
        let counted = self.found;
        // What is too great now are the old structures, which are no leaks of the image as it was. Too small can only be
        // what garbage in tables leads to, now that the file is longer.
        self.compare(Repair::All)?;
        let leaks = self.found.leaks;
        if self.rebuild {
            self.say("ERROR rebuilt refcount structure is still broken");
        }
        self.found = Found { leaks, ..counted };
        self.found.corruptions_fixed += before.corruptions.saturating_sub(counted.corruptions);
        if !self.keeps_leaks() {
            self.found.leaks_fixed += before.leaks;
        }
        Ok(())
    }

    /// What must not become free is counted: clusters with a refcount, and those whose refcount cannot be read unless they
    /// are holes of the file.
    fn keep_counts(&mut self) -> Result<()> {
        let bits = self.geometry.refcount_block_bits();
        let order = self.geometry.refcount_order;
        let clusters = self.geometry.clusters(self.file_len);
        let mut unknown = 0..0;
        for index in 0..clusters.div_ceil(1 << bits) {
            let range = index << bits..((index + 1) << bits).min(clusters);
            match self.disk.block(index) {
                Ok(Some(block)) => {
                    for (at, cluster) in range.enumerate() {
                        self.counts.raise(cluster, width::get(block, order, at));
                    }
                }
                Ok(None) | Err(_) if unknown.end == range.start => unknown.end = range.end,
                Ok(None) | Err(_) => self.keep_data(std::mem::replace(&mut unknown, range))?,
            }
        }
        self.keep_data(unknown)
    }

    /// Counts all clusters of a range in which the file has data.
    fn keep_data(&mut self, range: std::ops::Range<u64>) -> Result<()> {
        let bits = self.geometry.cluster_bits;
        let (mut at, end) = (range.start << bits, (range.end << bits).min(self.file_len));
        while at < end {
            let (kind, len) = self.file.extent(at, end - at)?;
            if kind == RangeKind::Data {
                for cluster in at >> bits..self.geometry.clusters(at + len) {
                    self.counts.raise(cluster, 1);
                }
            }
            at += len;
        }
        Ok(())
    }

    /// Finds places. Where something else is wrong with the image, what seems free may be what got lost: then everything
    /// goes behind the end.
    fn plan(&mut self) -> Result<Plan> {
        let bits = self.geometry.refcount_block_bits();
        let mut from = if self.keeps_leaks() { self.clusters } else { 0 };
        let mut plan = Plan::default();
        loop {
            let missing: Vec<u64> =
                self.used_blocks().into_iter().filter(|index| !plan.blocks.contains_key(index)).collect();
            for index in &missing {
                let cluster = self.find_unused(from, 1)?;
                from = cluster + 1;
                self.counts.add(cluster);
                plan.blocks.insert(*index, cluster);
            }
            let last = plan.blocks.last_key_value().map_or(0, |(index, _)| *index);
            let clusters = self.geometry.clusters((last + 1) * 8);
            if clusters << self.geometry.cluster_bits > REFCOUNT_TABLE_BYTES_MAX.max(self.geometry.cluster_size()) {
                return Err(Error::os(libc::EFBIG));
            }
            if missing.is_empty() && plan.table_clusters >= clusters {
                debug_assert!(plan.blocks.contains_key(&(plan.table >> bits)));
                return Ok(plan);
            }
            if missing.is_empty() {
                for cluster in plan.table..plan.table + plan.table_clusters {
                    self.counts.undo(cluster);
                }
                plan.table = self.find_unused(from, clusters)?;
                plan.table_clusters = clusters;
                for cluster in plan.table..plan.table + clusters {
                    self.counts.add(cluster);
                }
            }
        }
    }

    /// The indices of the blocks in which any refcount is not zero.
    fn used_blocks(&self) -> Vec<u64> {
        let bits = self.geometry.refcount_block_bits();
        let mut indices = Vec::new();
        let step = PIECE.min(1 << bits);
        for number in self.counts.numbers() {
            for first in (number * PIECE..(number + 1) * PIECE).step_by(step as usize) {
                let counts = self.counts.bytes(first, step as usize);
                let used = counts.is_some_and(|counts| counts.iter().any(|count| *count != 0));
                if used && indices.last() != Some(&(first >> bits)) {
                    indices.push(first >> bits);
                }
            }
        }
        indices
    }

    /// The first `clusters` clusters in a row from `from` on that nothing uses.
    fn find_unused(&self, from: u64, clusters: u64) -> Result<u64> {
        let (mut start, mut at) = (from, from);
        while at - start < clusters {
            at += 1;
            if self.counts.get(at - 1) != 0 {
                start = at;
            }
        }
        if (start + clusters).checked_shl(self.geometry.cluster_bits).is_none_or(|end| end >= 1 << 56) {
            return Err(Error::os(libc::EFBIG));
        }
        Ok(start)
    }

    fn write_structures(&mut self, plan: &Plan) -> Result<()> {
        let geometry = self.geometry;
        let bits = geometry.cluster_bits;
        let entries = geometry.refcount_block_entries();
        let mut table = vec![0; (plan.table_clusters << bits) as usize];
        for (index, cluster) in &plan.blocks {
            let mut block = vec![0; geometry.cluster_size() as usize];
            for at in 0..entries {
                let count = self.counts.get(index * entries + at);
                if count != 0 {
                    width::set(&mut block, geometry.refcount_order, at as usize, count);
                }
            }
            self.file.write_at(&block, cluster << bits)?;
            let at = *index as usize * 8;
            table[at..at + 8].copy_from_slice(&(cluster << bits).to_be_bytes());
        }
        self.file.write_at(&table, plan.table << bits)?;
        self.file.flush()?;
        let (offset, clusters) = (plan.table << bits, plan.table_clusters as u32);
        let fields = [&offset.to_be_bytes()[..], &clusters.to_be_bytes()].concat();
        self.file.write_at(&fields, 48)?;
        self.file.flush()?;
        let header = &mut self.meta.header;
        (header.refcount_table_offset, header.refcount_table_clusters) = (offset, clusters);
        Ok(())
    }
}
