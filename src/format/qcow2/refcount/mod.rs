//! Refcounts: how often each host cluster is used, and finding clusters that are not.
//!
//! Specification: "Host cluster management". The refcount table is in memory as a whole (at most 8 MiB), refcount
//! blocks in a bounded cache. Everything this module changes stays in memory until [`Refcounts::write_blocks`] and
//! [`Refcounts::write_table`] are called, with one exception: when the cache is full, dirty blocks are written early.
//! That is harmless at any time because only increments and decrements that are safe on disk are ever applied here:
//! decrements of clusters that tables on disk still mention are held back by [`super::txn`].

mod alloc;
mod cache;
mod moving;
mod protect;
mod tail;
pub(super) mod width;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use super::geometry::{Geometry, HostOffset};
use crate::error::{Error, Result};
use crate::storage::{DebugEvent, Storage};

pub use protect::MetadataKind;

/// Offset bits of an entry of the refcount table; the others are reserved.
pub(super) const TABLE_OFFSET: u64 = !0x1ff;
/// Longest refcount table the reference opens, in bytes.
pub const MAX_TABLE_BYTES: u64 = 8 << 20;

/// A run of host clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// Number of the first cluster.
    pub first: u64,
    /// How many.
    pub clusters: u64,
}

impl Run {
    /// The clusters that `len` bytes at `offset` touch.
    pub fn of_bytes(geometry: Geometry, offset: HostOffset, len: u64) -> Run {
        if len == 0 {
            return Run { first: offset.0 >> geometry.cluster_bits, clusters: 0 };
        }
        let first = offset.0 >> geometry.cluster_bits;
        let last = offset.0.saturating_add(len - 1) >> geometry.cluster_bits;
        Run { first, clusters: last - first + 1 }
    }

    /// Number of the cluster behind the last one.
    pub fn end(self) -> u64 {
        self.first + self.clusters
    }
}

/// The refcounts of one image. See the module documentation.
#[derive(Debug)]
pub struct Refcounts {
    file: Arc<dyn Storage>,
    geometry: Geometry,
    /// Offsets of the refcount blocks; 0 where all refcounts are zero.
    table: Vec<u64>,
    table_at: HostOffset,
    table_clusters: u64,
    /// Entries that differ from those on disk.
    table_dirty: Option<Range<usize>>,
    /// The place the table had before it moved, until the header that names the new one is on disk.
    table_before: Vec<Run>,
    cache: cache::Cache,
    /// No cluster below this is known to be free.
    cursor: u64,
    /// Where the next compressed cluster may go; 0 for nowhere in particular.
    byte_cursor: u64,
    protected: protect::Protected,
    /// Refcount blocks that several entries of the table on disk name.
    shared_blocks: HashSet<u64>,
    /// Clusters from this one on have never been written.
    untouched: u64,
    /// That border when the image was opened.
    untouched_before: u64,
    /// Something has been written since [`Refcounts::take_unflushed`].
    unflushed: bool,
    /// See [`Refcounts::begin_moving`].
    moving: Option<moving::Moving>,
}

impl Refcounts {
    /// Reads the refcount table of an image.
    pub fn open(file: Arc<dyn Storage>, geometry: Geometry, table_at: HostOffset, table_clusters: u64) -> Result<Self> {
        let bytes = table_clusters
            .checked_mul(geometry.cluster_size())
            .filter(|bytes| *bytes <= MAX_TABLE_BYTES.max(geometry.cluster_size()))
            .ok_or_else(|| Error::invalid("Image does not contain a reference count table"))?;
        let mut raw = vec![0; bytes as usize];
        file.event(DebugEvent::ReftableLoad);
        file.read_at(&mut raw, table_at.0)?;
        let table = raw.chunks_exact(8).map(|entry| u64::from_be_bytes(entry.try_into().expect("8 bytes"))).collect();
        let length = file.len()?;
        let mut refcounts = Refcounts {
            geometry,
            table,
            table_at,
            table_clusters,
            table_dirty: None,
            table_before: Vec::new(),
            cache: cache::Cache::new(geometry.cluster_size() as usize),
            cursor: 0,
            byte_cursor: 0,
            protected: protect::Protected::default(),
            shared_blocks: HashSet::new(),
            untouched: geometry.clusters(length),
            untouched_before: geometry.clusters(length),
            unflushed: false,
            moving: None,
            file,
        };
        refcounts.protect_own();
        Ok(refcounts)
    }

    /// Says that no refcount will be changed: then a block that several entries of the table name is no danger.
    pub fn only_read(&mut self) {
        self.shared_blocks.clear();
    }

    /// Header, refcount table and refcount blocks.
    fn protect_own(&mut self) {
        self.protected.add(Run { first: 0, clusters: 1 }, MetadataKind::Header);
        let table = self.table_run();
        let mut seen = HashSet::new();
        for entry in &self.table {
            let offset = entry & TABLE_OFFSET;
            if offset != 0 {
                if !seen.insert(offset) {
                    self.shared_blocks.insert(offset);
                }
                let first = offset >> self.geometry.cluster_bits;
                self.protected.add(Run { first, clusters: 1 }, MetadataKind::RefcountBlock);
            }
        }
        self.protected.add(table, MetadataKind::RefcountTable);
    }

    fn table_run(&self) -> Run {
        Run { first: self.table_at.0 >> self.geometry.cluster_bits, clusters: self.table_clusters }
    }

    /// Where the refcount table is, and how many clusters it has: what the header must say.
    pub fn table_place(&self) -> (HostOffset, u64) {
        (self.table_at, self.table_clusters)
    }

    /// How many clusters the refcount table has entries for.
    pub fn span(&self) -> u64 {
        (self.table.len() as u64) << self.geometry.refcount_block_bits()
    }

    /// The clusters of the refcount table, and those of the refcount blocks.
    pub fn places(&self) -> Result<(Run, Vec<Run>)> {
        let mut blocks = Vec::new();
        for index in 0..self.table.len() {
            if let Some(offset) = self.block_offset(index)? {
                blocks.push(Run::of_bytes(self.geometry, HostOffset(offset), 1));
            }
        }
        Ok((self.table_run(), blocks))
    }

    /// Looks for free clusters from here on only, until one before it is set free.
    pub fn allocate_from(&mut self, cluster: u64) {
        self.cursor = cluster;
    }

    /// Says that a range holds metadata in use: allocation refuses to hand it out, whatever its refcount is.
    pub fn protect(&mut self, offset: HostOffset, len: u64, kind: MetadataKind) {
        self.protected.add(Run::of_bytes(self.geometry, offset, len), kind);
    }

    /// Takes back [`Refcounts::protect`] for the range that starts at `offset`.
    pub fn unprotect(&mut self, offset: HostOffset, kind: MetadataKind) {
        self.protected.remove(offset.0 >> self.geometry.cluster_bits, kind);
    }

    /// What of the metadata in use lies in a range.
    pub fn overlap(&self, offset: HostOffset, len: u64) -> Option<MetadataKind> {
        self.protected.overlap(Run::of_bytes(self.geometry, offset, len))
    }

    /// Refuses to write metadata of the kind `own` to a range in which other metadata lies, too.
    pub fn check_own(&self, offset: HostOffset, len: u64, own: MetadataKind) -> Result<()> {
        match self.protected.overlap_other(Run::of_bytes(self.geometry, offset, len), own) {
            None => Ok(()),
            Some(kind) => Err(overlap_error(kind)),
        }
    }

    /// The end of the last cluster that was taken behind the former end of the file, if there was any.
    pub fn new_end(&self) -> Option<u64> {
        (self.untouched > self.untouched_before).then(|| self.untouched << self.geometry.cluster_bits)
    }

    /// The refcount of one cluster.
    pub fn get(&mut self, cluster: u64) -> Result<u64> {
        let (index, at) = self.position(cluster);
        let order = self.geometry.refcount_order;
        Ok(match self.block(index)? {
            Some(block) => width::get(&block.data, order, at),
            None => 0,
        })
    }

    /// The refcount of a cluster, and for how many clusters from there on (at most `max`, at least 1) it is the same.
    pub fn get_run(&mut self, cluster: u64, max: u64) -> Result<(u64, u64)> {
        let (index, at) = self.position(cluster);
        let entries = self.geometry.refcount_block_entries();
        let order = self.geometry.refcount_order;
        let limit = max.clamp(1, entries - at as u64);
        Ok(match self.block(index)? {
            Some(block) => {
                let len = width::equal_run(&block.data, order, at..at + limit as usize);
                (width::get(&block.data, order, at), len as u64)
            }
            None => (0, limit),
        })
    }

    /// Whether [`Refcounts::increase_used`] is possible for a run.
    pub fn check_increase(&mut self, run: Run) -> Result<()> {
        let mut at = run.first;
        while at < run.end() {
            let (count, len) = self.get_run(at, run.end() - at)?;
            if count == 0 || count == self.geometry.refcount_max() {
                let delta = if count == 0 { -1 } else { 1 };
                return Err(bad_count(delta, at << self.geometry.cluster_bits));
            }
            at += len;
        }
        Ok(())
    }

    /// Fails where a cluster of a run, which is in use, counts as free.
    pub fn check_used(&mut self, run: Run) -> Result<()> {
        match self.first_unused(run)? {
            Some(cluster) => Err(bad_count(-1, cluster << self.geometry.cluster_bits)),
            None => Ok(()),
        }
    }

    /// The first cluster of a run whose refcount is zero.
    fn first_unused(&mut self, run: Run) -> Result<Option<u64>> {
        let order = self.geometry.refcount_order;
        for (index, range) in self.pieces(run) {
            let first = self.first_cluster(index);
            let unused = match self.block(index)? {
                Some(block) => width::find(&block.data, order, range, false),
                None => Some(range.start),
            };
            if let Some(at) = unused {
                return Ok(Some(first + at as u64));
            }
        }
        Ok(None)
    }

    /// Shows the parts of a run whose refcount is `wanted`.
    pub fn each_with(&mut self, run: Run, wanted: u64, mut visit: impl FnMut(Run)) -> Result<()> {
        let mut at = run.first;
        while at < run.end() {
            let (count, clusters) = self.get_run(at, run.end() - at)?;
            if count == wanted {
                visit(Run { first: at, clusters });
            }
            at += clusters;
        }
        Ok(())
    }

    /// Adds one to the refcounts of a run of clusters that are in use, that is, whose refcounts are not zero. On an error
    /// nothing is changed.
    pub fn increase_used(&mut self, run: Run) -> Result<()> {
        self.check_used(run)?;
        self.add(run, 1)
    }

    /// Takes one from the refcounts of a run and tells which clusters are free now. On an error nothing is changed.
    ///
    /// Only for clusters that no table on disk mentions any more; see [`super::txn`].
    pub fn decrease(&mut self, run: Run, mut freed: impl FnMut(Run)) -> Result<()> {
        self.add(run, -1)?;
        let order = self.geometry.refcount_order;
        for (index, range) in self.pieces(run) {
            let first = self.first_cluster(index);
            let block = self.block(index)?.expect("refcounts above zero have just been read from it");
            let mut runs = Vec::new();
            let mut at = range.start;
            while let Some(start) = width::find(&block.data, order, at..range.end, false) {
                let end = width::find(&block.data, order, start..range.end, true).unwrap_or(range.end);
                runs.push(Run { first: first + start as u64, clusters: (end - start) as u64 });
                at = end;
            }
            for run in runs {
                self.note_free(run);
                freed(run);
            }
        }
        Ok(())
    }

    /// Sets the refcount of one cluster, for repairs.
    pub fn set(&mut self, cluster: u64, value: u64) -> Result<()> {
        if value > self.geometry.refcount_max() {
            return Err(bad_count(1, cluster << self.geometry.cluster_bits));
        }
        let run = Run { first: cluster, clusters: 1 };
        if value != 0 {
            self.ensure_blocks(run)?;
        }
        let order = self.geometry.refcount_order;
        let (index, at) = self.position(cluster);
        if let Some(block) = self.block(index)? {
            width::set(&mut block.data, order, at, value);
            block.dirty = true;
        }
        if value == 0 {
            self.note_free(run);
        }
        Ok(())
    }

    fn note_free(&mut self, run: Run) {
        self.cursor = self.cursor.min(run.first);
        let partial = self.byte_cursor >> self.geometry.cluster_bits;
        // The cluster that compressed runs were being appended to is gone.
        if self.byte_cursor != 0 && (run.first..run.end()).contains(&partial) {
            self.byte_cursor = 0;
        }
    }

    /// Adds `delta` (1 or -1); the blocks for increments exist.
    fn add(&mut self, run: Run, delta: i64) -> Result<()> {
        let order = self.geometry.refcount_order;
        let max = self.geometry.refcount_max();
        let pieces = self.pieces(run);
        // Not only when they are written: until then much would be done that cannot be brought to the disk.
        for (index, _) in &pieces {
            self.check_block(*index)?;
            self.move_block(*index)?;
        }
        for (done, (index, range)) in pieces.iter().enumerate() {
            let failed = match self.block(*index) {
                Ok(Some(block)) => match width::add(&mut block.data, order, range.clone(), delta, max) {
                    Ok(()) => {
                        block.dirty = true;
                        continue;
                    }
                    Err(at) => bad_count(delta, (self.first_cluster(*index) + at as u64) << self.geometry.cluster_bits),
                },
                Ok(None) => bad_count(delta, self.first_cluster(*index) << self.geometry.cluster_bits),
                Err(error) => error,
            };
            for (index, range) in &pieces[..done] {
                if let Some(block) = self.block(*index)? {
                    let undone = width::add(&mut block.data, order, range.clone(), -delta, max);
                    debug_assert!(undone.is_ok(), "what was added can be taken away");
                }
            }
            return Err(failed);
        }
        Ok(())
    }

    /// Index of the refcount block of a cluster, and its place in there.
    fn position(&self, cluster: u64) -> (usize, usize) {
        let bits = self.geometry.refcount_block_bits();
        let index = usize::try_from(cluster >> bits).unwrap_or(usize::MAX);
        (index, (cluster & ((1 << bits) - 1)) as usize)
    }

    fn first_cluster(&self, index: usize) -> u64 {
        (index as u64) << self.geometry.refcount_block_bits()
    }

    /// A run cut at the borders of refcount blocks.
    fn pieces(&self, run: Run) -> Vec<(usize, Range<usize>)> {
        let entries = self.geometry.refcount_block_entries();
        let mut pieces = Vec::new();
        let mut cluster = run.first;
        while cluster < run.end() {
            let (index, at) = self.position(cluster);
            let len = (entries - at as u64).min(run.end() - cluster);
            pieces.push((index, at..at + len as usize));
            cluster += len;
        }
        pieces
    }

    /// The offset of a refcount block; `None` where there is none.
    fn block_offset(&self, index: usize) -> Result<Option<u64>> {
        let Some(&entry) = self.table.get(index) else { return Ok(None) };
        let offset = entry & TABLE_OFFSET;
        if offset == 0 {
            return Ok(None);
        }
        if self.geometry.in_cluster(offset) != 0 {
            let index = hex(index as u64);
            return Err(Error::fatal_corruption(format!(
                "Refblock offset {offset:#x} unaligned (reftable index: {index})"
            )));
        }
        if self.shared_blocks.contains(&offset) {
            // Counting for one of the entries would count for the other, too.
            return Err(overlap_error(MetadataKind::RefcountBlock));
        }
        Ok(Some(offset))
    }

    /// A refcount block; `None` where there is none.
    fn block(&mut self, index: usize) -> Result<Option<&mut cache::Block>> {
        // Not `if let Some(block) = self.cache.get(index)`: the borrow would last over the other branch.
        if self.cache.get(index).is_some() {
            return Ok(self.cache.get(index));
        }
        let Some(offset) = self.block_offset(index)? else { return Ok(None) };
        let mut data = vec![0; self.geometry.cluster_size() as usize].into_boxed_slice();
        self.file.event(DebugEvent::RefblockLoad);
        self.file.read_at(&mut data, offset)?;
        self.make_room()?;
        self.cache.insert(index, data, false);
        Ok(self.cache.get(index))
    }

    /// Writes and forgets old blocks when the cache is full.
    fn make_room(&mut self) -> Result<()> {
        let old = self.cache.overflow();
        for index in &old {
            self.write_block(*index)?;
        }
        for index in old {
            self.cache.remove(index);
        }
        Ok(())
    }

    /// Refuses a block that lies on other metadata.
    fn check_block(&self, index: usize) -> Result<()> {
        match self.block_offset(index)? {
            Some(offset) => self.check_own(HostOffset(offset), 1, MetadataKind::RefcountBlock),
            None => Ok(()),
        }
    }

    fn write_block(&mut self, index: usize) -> Result<()> {
        self.check_block(index)?;
        let offset = self.block_offset(index)?;
        let file = Arc::clone(&self.file);
        if let (Some(block), Some(offset)) = (self.cache.get(index), offset)
            && block.dirty
        {
            file.event(DebugEvent::RefblockUpdate);
            file.write_at(&block.data, offset)?;
            block.dirty = false;
            self.unflushed = true;
        }
        Ok(())
    }

    /// Writes all dirty blocks; says whether there were any.
    pub fn write_blocks(&mut self) -> Result<bool> {
        let dirty = self.cache.dirty();
        for index in &dirty {
            self.write_block(*index)?;
        }
        Ok(!dirty.is_empty())
    }

    /// Writes the dirty part of the table; says whether there was any.
    pub fn write_table(&mut self) -> Result<bool> {
        let Some(range) = self.table_dirty.clone() else { return Ok(false) };
        let bytes: Vec<u8> = self.table[range.clone()].iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let place = self.table_at.0 + range.start as u64 * 8;
        self.check_own(HostOffset(place), bytes.len() as u64, MetadataKind::RefcountTable)?;
        self.file.event(DebugEvent::ReftableUpdate);
        self.file.write_at(&bytes, place)?;
        self.table_dirty = None;
        self.unflushed = true;
        Ok(true)
    }

    /// Whether the table differs from what is on disk.
    pub fn table_is_dirty(&self) -> bool {
        self.table_dirty.is_some()
    }

    /// Whether anything was written since this was asked last, also behind the caller's back when the cache was full.
    pub fn take_unflushed(&mut self) -> bool {
        std::mem::take(&mut self.unflushed)
    }

    /// Whether the table has moved, so that the header must be written before its old place is given back.
    pub fn table_moved(&self) -> bool {
        !self.table_before.is_empty()
    }

    /// The old places of the table, which the caller gives back once the header is on disk.
    pub fn take_table_before(&mut self) -> Vec<Run> {
        std::mem::take(&mut self.table_before)
    }
}

/// Writes a count into a refcount block of another width; it has been checked that it fits.
pub fn put_count(block: &mut [u8], order: u32, index: usize, count: u64) {
    width::set(block, order, index, count);
}

/// The error of a write that would destroy metadata of that kind.
pub(super) fn overlap_error(kind: MetadataKind) -> Error {
    Error::fatal_corruption(format!("Preventing invalid write on metadata (overlaps with {})", kind.name()))
}

/// Hexadecimal as C prints it with `%#x`: zero has no prefix.
pub(in crate::format::qcow2) fn hex(value: u64) -> String {
    if value == 0 { "0".to_owned() } else { format!("{value:#x}") }
}

fn bad_count(delta: i64, offset: u64) -> Error {
    let what = if delta > 0 { "has reached its limit" } else { "is zero although the cluster is in use" };
    Error::os(libc::EINVAL).advise(format!("The refcount of the cluster at {offset:#x} {what}."))
}
