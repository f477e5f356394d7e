//! The only writer of metadata: what reaches the disk in which order.
//!
//! All changes are made in memory first: in [`Refcounts`], in the L2 and L1 tables, in the header. [`Meta::commit`]
//! brings them to the disk in stages, each complete on stable storage before the next one begins:
//!
//! 1. payload and new metadata at places nobody refers to yet, refcount blocks
//! 2. the refcount table (and, if it moved, the header that says so)
//! 3. L2 tables
//! 4. the L1 table
//! 5. the header
//! 6. refcounts of clusters given up: only now may they be used for something else
//!
//! After a crash between any two writes everything that is referred to is there and counted; what is lost at worst is
//! the space of clusters that are counted although nobody refers to them ("leaks"). In cache mode `unsafe`, as for the
//! targets of conversions by default, the storage leaves the flushes between stages out.

mod tail;

use std::sync::Arc;

use super::Meta;
use super::geometry::{Geometry, HostOffset};
use super::header::{Header, autoclear, incompatible, replace_header};
use super::refcount::{MetadataKind, Refcounts, Run};
use crate::error::{Error, Result};
use crate::storage::{DebugEvent, Storage, ZeroMode};

/// Runs of clusters to be given back that are kept before a commit is due.
const DEFERRED_MAX: usize = 16 << 10;
/// Bytes that wait to be given back before a commit is due: until then they cannot be used again, and the file grows.
const DEFERRED_BYTES: u64 = 256 << 20;

/// Why clusters are given up, which decides whether their space goes back to the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// The guest's data is to read as zeros.
    Request,
    /// A snapshot is gone, or the state that it replaces.
    Snapshot,
    /// They lie somewhere else now.
    Other,
}

/// What the run-time options say about space that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscardPolicy {
    /// `pass-discard-request`: see [`Discard::Request`].
    pub request: bool,
    /// `pass-discard-snapshot`: see [`Discard::Snapshot`].
    pub snapshot: bool,
    /// `pass-discard-other`: see [`Discard::Other`].
    pub other: bool,
    /// `discard-no-unref`: clusters of zeroed guest data keep their places, only their space is given back.
    pub keep_places: bool,
}

impl Default for DiscardPolicy {
    fn default() -> Self {
        DiscardPolicy { request: true, snapshot: true, other: false, keep_places: false }
    }
}

/// What a writable image needs besides its tables.
#[derive(Debug)]
pub struct Writer {
    /// Refcounts.
    pub refcounts: Refcounts,
    /// What becomes of space that is given up.
    pub discards: DiscardPolicy,
    file: Arc<dyn Storage>,
    data: Arc<dyn Storage>,
    geometry: Geometry,
    header_dirty: bool,
    /// Clusters that tables on disk may still mention, and whether their space shall go back to the file system.
    deferred: Vec<(Run, bool)>,
    /// How many clusters those are.
    deferred_clusters: u64,
    /// Number of the cluster behind the last one that became free.
    freed_end: u64,
    /// Something has been written since the last flush.
    unflushed: bool,
    /// The image has been marked as corrupt: nothing must be written any more.
    broken: bool,
}

impl Writer {
    /// What is needed to write to the image with this header.
    pub fn open(file: &Arc<dyn Storage>, data: &Arc<dyn Storage>, header: &Header) -> Result<Self> {
        let geometry = header.geometry();
        let table = HostOffset(header.refcount_table_offset);
        let clusters = u64::from(header.refcount_table_clusters);
        Ok(Writer {
            refcounts: Refcounts::open(Arc::clone(file), geometry, table, clusters)?,
            discards: DiscardPolicy::default(),
            file: Arc::clone(file),
            data: Arc::clone(data),
            geometry,
            header_dirty: false,
            deferred: Vec::new(),
            deferred_clusters: 0,
            freed_end: 0,
            unflushed: false,
            broken: false,
        })
    }

    /// Notes that the header in memory differs from the one on disk.
    pub fn header_changed(&mut self) {
        self.header_dirty = true;
    }

    /// Gives up one use of each cluster of a run once no table on disk mentions it any more.
    pub fn free(&mut self, run: Run, why: Discard) {
        if run.clusters == 0 {
            return;
        }
        let discard = match why {
            Discard::Request => self.discards.request,
            Discard::Snapshot => self.discards.snapshot,
            Discard::Other => self.discards.other,
        };
        self.deferred_clusters += run.clusters;
        if let Some((last, same)) = self.deferred.last_mut()
            && last.end() == run.first
            && *same == discard
        {
            last.clusters += run.clusters;
            return;
        }
        self.deferred.push((run, discard));
    }

    /// Gives up clusters that have just been allocated and that no table mentions, in memory or on disk.
    pub fn give_back(&mut self, run: Run) -> Result<()> {
        if self.broken { Ok(()) } else { self.refcounts.decrease(run, |_| ()) }
    }

    /// Takes out what [`Writer::free`] was told, for tables that are written past [`Meta::commit`].
    pub fn take_deferred(&mut self) -> Vec<(Run, bool)> {
        self.deferred_clusters = 0;
        std::mem::take(&mut self.deferred)
    }

    /// Puts back what [`Writer::take_deferred`] took out, once those tables are written.
    pub fn put_deferred(&mut self, runs: Vec<(Run, bool)>) {
        self.deferred_clusters += runs.iter().map(|(run, _)| run.clusters).sum::<u64>();
        self.deferred.extend(runs);
    }

    /// Writes metadata to a place that nothing on disk refers to yet. It is on stable storage before anything that
    /// [`Meta::commit`] writes.
    pub fn write_new(&mut self, offset: HostOffset, bytes: &[u8]) -> Result<()> {
        self.file.write_at(bytes, offset.0)?;
        self.unflushed = true;
        Ok(())
    }

    /// The same for what is much: it is on its way to stable storage from now on, while there is other work to do.
    pub fn write_new_soon(&mut self, offset: HostOffset, bytes: &[u8]) -> Result<()> {
        self.write_new(offset, bytes)?;
        self.file.start_writeback(offset.0, bytes.len() as u64)
    }

    /// Writes tables that are in use and differ from what is on disk only in flags that may be wrong for a while.
    pub fn write_flags(&mut self, offset: HostOffset, bytes: &[u8]) -> Result<()> {
        self.file.write_at(bytes, offset.0)?;
        self.unflushed = true;
        Ok(())
    }

    /// Notes that payload was written that tables in memory now refer to.
    pub fn payload_written(&mut self) {
        self.unflushed = true;
    }

    /// The border between two stages.
    fn barrier(&mut self) -> Result<()> {
        let unflushed = self.refcounts.take_unflushed() | std::mem::take(&mut self.unflushed);
        if !unflushed {
            return Ok(());
        }
        let flushed = self.flush_storages();
        self.unflushed = flushed.is_err();
        flushed
    }

    fn flush_storages(&self) -> Result<()> {
        self.file.flush()?;
        if !Arc::ptr_eq(&self.file, &self.data) {
            self.data.flush()?;
        }
        Ok(())
    }

    fn write_header(&mut self, header: &Header) -> Result<()> {
        self.unflushed = true;
        replace_header(&*self.file, header)
    }

    /// Brings everything written so far to stable storage, before a header that leads to it.
    pub fn settle_before_switch(&mut self) -> Result<()> {
        self.unflushed = true;
        self.barrier()
    }

    /// Writes a header that leads to other tables, and returns when it is on stable storage. If that fails, nobody knows
    /// which header is there: then nothing is written any more.
    pub fn switch_header(&mut self, header: &Header) -> Result<()> {
        let written = self.write_header(header).and_then(|()| self.barrier());
        self.broken |= written.is_err();
        written
    }

    /// Stages 1 and 2.
    fn write_refcounts(&mut self, header: &mut Header) -> Result<()> {
        self.refcounts.write_blocks()?;
        if self.refcounts.table_is_dirty() {
            self.barrier()?;
            self.refcounts.write_table()?;
        }
        if self.refcounts.table_moved() {
            self.barrier()?;
            let (offset, clusters) = self.refcounts.table_place();
            header.refcount_table_offset = offset.0;
            header.refcount_table_clusters = u32::try_from(clusters).map_err(|_| Error::os(libc::EFBIG))?;
            self.write_table_place(header)?;
            for run in self.refcounts.take_table_before() {
                self.free(run, Discard::Other);
            }
        }
        Ok(())
    }

    /// Writes only the header fields that name the refcount table: other changes of the header are not due yet.
    fn write_table_place(&mut self, header: &Header) -> Result<()> {
        let mut bytes = header.refcount_table_offset.to_be_bytes().to_vec();
        bytes.extend_from_slice(&header.refcount_table_clusters.to_be_bytes());
        self.file.write_at(&bytes, 48)?;
        self.unflushed = true;
        Ok(())
    }

    /// Stage 6.
    fn apply_frees(&mut self) -> Result<()> {
        if self.deferred.is_empty() {
            return Ok(());
        }
        self.barrier()?;
        let mut discarded = Vec::new();
        self.deferred_clusters = 0;
        // Where one of them cannot be given up, refcounts are wrong, and what seems to be free may be in use: then no
        // space at all goes back.
        for (run, discard) in std::mem::take(&mut self.deferred) {
            self.refcounts.decrease(run, |freed| {
                if discard {
                    discarded.push(freed);
                }
            })?;
        }
        let size = self.geometry.cluster_bits;
        let end = self.file.len()?;
        for run in discarded {
            self.freed_end = self.freed_end.max(run.end());
            let from = (run.first << size).min(end);
            let to = (run.end() << size).min(end).max(from);
            // In a broken image metadata may have been counted as something else.
            let metadata = self.refcounts.overlap(HostOffset(from), to - from).is_some();
            if from < to && !metadata {
                // Giving space back is a kindness; a storage that cannot must not make the operation fail.
                let _ = self.file.zero(from, to - from, ZeroMode::Discard);
            }
        }
        Ok(())
    }

    /// Takes empty refcount blocks for the end of the file out of the refcount table. Once that is on stable storage,
    /// [`Writer::empty`] is due for what is returned.
    pub fn drop_empty_blocks(&mut self) -> Result<Vec<Run>> {
        let dropped = self.refcounts.drop_empty_blocks()?;
        for (run, counted) in &dropped {
            if *counted {
                self.free(*run, Discard::Request);
            }
        }
        Ok(dropped.into_iter().map(|(run, _)| run).collect())
    }

    /// Gives back the space of refcount blocks that nobody refers to any more.
    pub fn empty(&mut self, runs: &[Run]) {
        for run in runs {
            self.freed_end = self.freed_end.max(run.end());
            let (offset, len) = (run.first << self.geometry.cluster_bits, run.clusters << self.geometry.cluster_bits);
            // A kindness, as everywhere.
            if self.discards.request && self.file.len().is_ok_and(|end| offset + len <= end) {
                let _ = self.file.zero(offset, len, ZeroMode::Discard);
            }
        }
    }

    /// Marks the image as corrupt on disk (version 3), and refuses everything from now on.
    fn mark_corrupt(&mut self, header: &mut Header) {
        if std::mem::replace(&mut self.broken, true) || header.version < 3 {
            return;
        }
        header.incompatible |= incompatible::CORRUPT;
        // Whatever else changed in the header must not reach the disk; and if this fails, there is already an error to
        // report.
        let mut bits = [0; 8];
        let _ = self.file.read_at(&mut bits, 72).and_then(|()| {
            let bits = u64::from_be_bytes(bits) | incompatible::CORRUPT;
            self.file.write_at(&bits.to_be_bytes(), 72)?;
            self.file.flush()
        });
    }
}

impl Meta {
    /// Makes the image ready to be written: refcounts are read, or rebuilt if they were not kept up to date; tables in
    /// use are protected; feature bits that must not survive a write are cleared.
    pub fn open_writer(&mut self, file: &Arc<dyn Storage>, data: &Arc<dyn Storage>) -> Result<()> {
        if self.header.incompatible & incompatible::DIRTY != 0 {
            self.repair_dirty(file)?;
        }
        self.start_writer(file, data)?;
        self.clear_unknown_bits();
        self.forget_stale_bitmaps();
        Ok(())
    }

    /// As [`Meta::open_writer`], for an image whose refcounts are known to be right: nothing is repaired or cleared.
    pub fn start_writer(&mut self, file: &Arc<dyn Storage>, data: &Arc<dyn Storage>) -> Result<()> {
        self.writer = Some(Writer::open(file, data, &self.header)?);
        self.protect_tables();
        Ok(())
    }

    /// The writer of an image that was opened for writing.
    pub fn writer(&mut self) -> Result<&mut Writer> {
        match &mut self.writer {
            Some(writer) if !writer.broken => Ok(writer),
            Some(_) => Err(Error::os(libc::EIO)),
            None => Err(Error::os(libc::EACCES)),
        }
    }

    /// Goes on with the refcounts that the header on disk names by now. Everything must have been flushed.
    pub fn replace_refcounts(&mut self) -> Result<()> {
        let header = self.header.clone();
        let writer = self.writer()?;
        let table = HostOffset(header.refcount_table_offset);
        let clusters = u64::from(header.refcount_table_clusters);
        writer.geometry = header.geometry();
        writer.refcounts = Refcounts::open(Arc::clone(&writer.file), header.geometry(), table, clusters)?;
        self.protect_tables();
        Ok(())
    }

    /// The length of the image file.
    pub fn file_len(&mut self) -> Result<u64> {
        self.writer()?.file.len()
    }

    /// Forgets all refcounts in memory, for an operation that failed before the header led to anything that it wrote. The
    /// file had `len` bytes before.
    pub fn abandon(&mut self, len: u64) {
        let Ok(writer) = self.writer() else { return };
        writer.take_deferred();
        if !writer.file.limits().fixed_len && writer.file.len().is_ok_and(|now| now > len) {
            // A kindness: nobody refers to what is there.
            let _ = writer.file.set_len(len);
        }
        let renewed = self.replace_refcounts();
        if let Some(writer) = &mut self.writer {
            writer.broken |= renewed.is_err();
        }
    }

    /// Protects the tables in use from being handed out as free clusters.
    fn protect_tables(&mut self) {
        self.protect_active();
        let Meta { header, snapshots, writer: Some(writer), .. } = self else { return };
        let refcounts = &mut writer.refcounts;
        for snapshot in &snapshots.entries {
            let len = u64::from(snapshot.l1_size) * 8;
            refcounts.protect(HostOffset(snapshot.l1_offset), len, MetadataKind::InactiveL1);
        }
        refcounts.protect(HostOffset(header.snapshots_offset), snapshots.bytes, MetadataKind::SnapshotTable);
        if let Some(bitmaps) = header.bitmaps {
            let offset = HostOffset(bitmaps.directory_offset);
            refcounts.protect(offset, bitmaps.directory_size, MetadataKind::BitmapDirectory);
        }
    }

    /// Protects the active L1 table and its L2 tables.
    pub fn protect_active(&mut self) {
        let Meta { header, l1, writer: Some(writer), .. } = self else { return };
        let cluster = writer.geometry.cluster_size();
        let refcounts = &mut writer.refcounts;
        for table in l1.entries().iter().filter_map(|entry| entry.table()) {
            refcounts.protect(table, cluster, MetadataKind::ActiveL2);
        }
        refcounts.protect(HostOffset(header.l1_offset), u64::from(header.l1_size) * 8, MetadataKind::ActiveL1);
    }

    /// Takes back [`Meta::protect_active`], before another L1 table becomes the active one.
    pub fn unprotect_active(&mut self) {
        let Meta { header, l1, writer: Some(writer), .. } = self else { return };
        let refcounts = &mut writer.refcounts;
        for table in l1.entries().iter().filter_map(|entry| entry.table()) {
            refcounts.unprotect(table, MetadataKind::ActiveL2);
        }
        refcounts.unprotect(HostOffset(header.l1_offset), MetadataKind::ActiveL1);
    }

    /// Autoclear bits that this program does not know go away before the first write.
    fn clear_unknown_bits(&mut self) {
        let Meta { header, writer: Some(writer), .. } = self else { return };
        if header.autoclear & !autoclear::KNOWN != 0 {
            header.autoclear &= autoclear::KNOWN;
            writer.header_changed();
        }
    }

    /// Bitmaps that some other program has made wrong by writing to the image go away with the next change of the header.
    /// Their clusters stay as they are: that program may have used them for something else.
    fn forget_stale_bitmaps(&mut self) {
        let Meta { header, writer: Some(writer), .. } = self else { return };
        if header.autoclear & autoclear::BITMAPS == 0 && header.bitmaps.take().is_some() {
            writer.header_changed();
        }
    }

    /// Whether so much has changed in memory that it should be committed before going on.
    pub fn needs_commit(&self) -> bool {
        let deferred = |writer: &Writer| {
            let bytes = writer.deferred_clusters << writer.geometry.cluster_bits;
            writer.deferred.len() >= DEFERRED_MAX || bytes >= DEFERRED_BYTES
        };
        self.writer.as_ref().is_some_and(deferred) || self.l2.is_crowded()
    }

    /// Brings all changes to the disk. See the module documentation. After an error what was not written is still in
    /// memory, and the image on disk is valid.
    pub fn commit(&mut self) -> Result<()> {
        self.writer()?;
        let result = self.commit_stages();
        self.guard(result)
    }

    fn commit_stages(&mut self) -> Result<()> {
        let Meta { header, l1, l2, writer: Some(writer), .. } = self else { return Ok(()) };
        debug_assert!(!writer.refcounts.is_moving(), "the header would lead to half of an operation");
        writer.write_refcounts(header)?;
        let mut tables = l2.dirty_tables();
        if !tables.is_empty() {
            writer.barrier()?;
            for (offset, table) in &mut tables {
                writer.file.event(DebugEvent::L2Update);
                writer.file.write_at(table.bytes(), offset.0)?;
                table.set_clean();
                writer.unflushed = true;
            }
        }
        if let Some(range) = l1.dirty() {
            let place = HostOffset(header.l1_offset + range.start as u64 * 8);
            writer.refcounts.check_own(place, range.len() as u64 * 8, MetadataKind::ActiveL1)?;
            writer.barrier()?;
            writer.file.event(DebugEvent::L1Update);
            writer.file.write_at(&l1.to_bytes(range), place.0)?;
            l1.set_clean();
            writer.unflushed = true;
        }
        if writer.header_dirty {
            writer.barrier()?;
            writer.write_header(header)?;
            writer.header_dirty = false;
        }
        writer.apply_frees()
    }

    /// Commits, and returns when everything written so far is on stable storage.
    pub fn make_durable(&mut self) -> Result<()> {
        self.commit()?;
        let flushed = self.writer()?.barrier();
        self.guard(flushed)
    }

    /// Commits, writes the refcounts of what was given up, and returns when all of it is on stable storage.
    pub fn flush(&mut self) -> Result<()> {
        self.commit()?;
        let result = self.flush_rest();
        self.guard(result)
    }

    fn flush_rest(&mut self) -> Result<()> {
        let Meta { header, writer: Some(writer), .. } = self else { return Ok(()) };
        // Giving up the old place of a refcount table may leave more to write, but never moves the table again.
        writer.write_refcounts(header)?;
        writer.apply_frees()?;
        writer.refcounts.write_blocks()?;
        writer.extend_file()?;
        writer.refcounts.take_unflushed();
        writer.unflushed = false;
        writer.flush_storages()
    }

    /// Passes a result on; an error that shows damage also marks the image as corrupt.
    pub fn guard<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && error.is_fatal_corruption()
            && let Meta { header, writer: Some(writer), .. } = self
        {
            writer.mark_corrupt(header);
        }
        result
    }
}
