//! Taking, applying and deleting snapshots, each in an order in which every moment leaves a valid image: references are
//! counted and new tables written before the header leads to them; what the header no longer leads to is given up last.
//!
//! Taking and deleting are done in one step where there is room for that ([`super::switch`]). In the order used here without
//! it, a crash can leave flags behind that do not say that a refcount is one although it is.

use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::reach::Tables;
use super::refs::References;
use super::table::{NAME_MAX, Snapshot, SnapshotTable};
use crate::error::{Context, Error, Result};
use crate::format::qcow2::entry::L1Entry;
use crate::format::qcow2::geometry::{Geometry, HostOffset};
use crate::format::qcow2::header::{Header, L1_BYTES_MAX, SNAPSHOTS_MAX, check_table};
use crate::format::qcow2::refcount::{MetadataKind, Run};
use crate::format::qcow2::tables::L1Table;
use crate::format::qcow2::txn::Discard;
use crate::format::qcow2::{Meta, Qcow2};
use crate::image::not_supported;
use crate::storage::Storage;
use crate::text;
use crate::units::SECTOR;

/// How far an operation is, see [`Change::done`].
pub(super) const TAKEN: &str = "The snapshot has been taken";
/// The same.
pub(super) const DELETED: &str = "The snapshot has been deleted";
/// What can still fail when an operation counts as done, for the user to know.
const REST: &str = "but space that is no longer needed could not be given up; 'qemu-img check' shows what is wrong";

impl Qcow2 {
    /// Takes a snapshot of the present state.
    pub(super) fn create_snapshot(&self, name: &str) -> Result<()> {
        self.change(|change| change.create(name))
    }

    /// Makes the state of a snapshot the present one.
    pub(super) fn apply_snapshot(&self, name_or_id: &str) -> Result<()> {
        // Bitmaps would have to record what changes with the snapshot; the reference refuses, too.
        if !self.meta().bitmaps.is_empty() {
            return Err(Error::os(libc::EBUSY).replace("Device has active dirty bitmaps"));
        }
        self.change(|change| change.apply(name_or_id)).context(|| "Failed to load snapshot")
    }

    /// Deletes a snapshot.
    pub(super) fn delete_snapshot(&self, name: &str) -> Result<()> {
        self.change(|change| change.delete(name))
    }

    /// See [`crate::image::Layer::make_empty`].
    pub(in super::super) fn give_up_everything(&self) -> Result<()> {
        self.change(|change| change.empty())
    }

    fn change(&self, operation: impl FnOnce(&mut Change<'_>) -> Result<()>) -> Result<()> {
        let mut meta = self.meta();
        meta.writer()?;
        meta.flush()?;
        // From here on tables are read and written past the cache.
        meta.l2.clear();
        let references = References { meta: &mut meta, file: &self.file, geometry: self.geometry };
        let mut change = Change { references, image: self, done: None };
        let result = operation(&mut change).and_then(|()| change.settle());
        let result = result.map_err(|error| error.advise(change.done.map(|done| format!("{done}, {REST}."))));
        meta.l2.clear();
        meta.guard(result)
    }
}

/// One operation on the snapshots of an image whose tables are all on disk.
pub(super) struct Change<'a> {
    references: References<'a>,
    image: &'a Qcow2,
    /// What of the operation is on stable storage, whatever becomes of the rest of it.
    done: Option<&'static str>,
}

impl<'a> Change<'a> {
    pub(super) fn meta(&mut self) -> &mut Meta {
        self.references.meta
    }

    pub(super) fn references(&mut self) -> &mut References<'a> {
        &mut self.references
    }

    pub(super) fn image(&self) -> &'a Qcow2 {
        self.image
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.references.geometry
    }

    /// Notes that from now on only the giving up of space can fail. `what` is the beginning of a sentence.
    pub(super) fn done(&mut self, what: &'static str) {
        self.done = Some(what);
    }

    fn create(&mut self, name: &str) -> Result<()> {
        let geometry = self.geometry();
        let meta = self.meta();
        if meta.header.has_data_file() {
            return Err(not_supported());
        }
        if u64::from(meta.header.nb_snapshots) >= SNAPSHOTS_MAX {
            return Err(Error::os(libc::EFBIG));
        }
        let mut snapshots = meta.snapshots.clone();
        let mut new = new_snapshot(name, &meta.header);
        new.id = snapshots.new_id()?;
        let tables = Tables::of(meta.l1.entries(), geometry)?;
        snapshots.entries.push(new.clone());
        self.check_shareable(&tables)?;
        if self.create_at_once(&snapshots, &tables)? {
            return Ok(());
        }
        snapshots.entries.pop();
        let meta = self.meta();
        // Flags are not looked at in the tables of snapshots; none is the value that is never wrong.
        let l1: Vec<_> = meta.l1.entries().iter().map(|entry| entry.with_copied(false)).collect();
        let l1 = L1Table::from_entries(l1);
        let l1_place = self.write_new(&l1.to_bytes(0..l1.len()))?;
        new.l1_offset = offset_of(l1_place, geometry);
        snapshots.entries.push(new);
        let table_place = match self.write_snapshots(&mut snapshots) {
            Ok(place) => place,
            Err(error) => return Err(self.give_back(&[l1_place], error)),
        };
        if let Err(error) = self.share(&tables) {
            return Err(self.give_back(&[l1_place, table_place], error));
        }
        self.protect(l1_place, MetadataKind::InactiveL1)?;
        self.publish(snapshots, table_place)?;
        self.done(TAKEN);
        Ok(())
    }

    /// Fails where a reference to everything in the active `tables` cannot be added.
    fn check_shareable(&mut self, tables: &Tables) -> Result<()> {
        let meta = self.meta();
        let (place, len) = (HostOffset(meta.header.l1_offset), u64::from(meta.header.l1_size) * 8);
        meta.writer()?.refcounts.check_own(place, len, MetadataKind::ActiveL1)?;
        self.references.check(tables)
    }

    /// Adds a reference to everything in the active `tables`, and brings that and the flags that follow to the disk. The
    /// flags come first, so that none ever says "refcount is exactly one" where that is too low.
    fn share(&mut self, tables: &Tables) -> Result<()> {
        let cleared = self.clear_active(tables);
        let added = cleared.and_then(|()| self.references.add(tables));
        let shared = added.and_then(|()| {
            let stored = self.meta().commit();
            if stored.is_err() {
                let _ = self.references.take_back(tables);
            }
            stored
        });
        if shared.is_err() {
            // What can be undone is; the first error is the one to report.
            let _ = self.meta().make_durable();
            let _ = self.references.renew_copied();
            let _ = self.meta().commit();
        }
        shared
    }

    fn clear_active(&mut self, tables: &Tables) -> Result<()> {
        self.references.clear_copied(tables)?;
        let l1 = &mut self.meta().l1;
        for index in 0..l1.len() as u64 {
            let entry = l1.get(index);
            if entry.copied() {
                l1.set(index, entry.with_copied(false));
            }
        }
        self.meta().make_durable()
    }

    fn apply(&mut self, name_or_id: &str) -> Result<()> {
        let geometry = self.geometry();
        let meta = self.meta();
        if meta.header.has_data_file() {
            return Err(not_supported());
        }
        let found = meta.snapshots.find_id_or_name(name_or_id).ok_or_else(|| Error::os(libc::ENOENT))?;
        let snapshot = meta.snapshots.entries[found].clone();
        let current = meta.header.guest_size();
        let size = snapshot.disk_size.unwrap_or(current);
        check_resize(&meta.header, size)?;
        let mut l1 = read_l1(&*self.image.file, &snapshot, geometry).map_err(announce)?.entries().to_vec();
        let entries = new_l1_len(&snapshot, size, geometry)?;
        l1.iter_mut().for_each(|entry| *entry = entry.with_copied(false));
        l1.resize(entries, L1Entry::default());
        let theirs = Tables::of(&l1, geometry)?;
        let ours = Tables::of(self.meta().l1.entries(), geometry)?;
        let (gone, added) = ours.differences(&theirs);
        let (common, _) = theirs.differences(&added);
        self.references.check_used(&common)?;
        self.references.check(&added)?;
        let l1 = L1Table::from_entries(l1);
        let place = self.write_new(&l1.to_bytes(0..l1.len()))?;
        if let Err(error) = self.borrow(&added) {
            return Err(self.give_back(&[place], error));
        }
        let old = self.switch(&snapshot, l1, place, size)?;
        self.meta().make_durable()?;
        self.done("The snapshot has been applied");
        self.check_tables_apart(&gone)?;
        self.meta().writer()?.free(old, Discard::Snapshot);
        self.references.give_up(&gone)?;
        self.meta().flush()
    }

    /// Adds a reference to everything in `tables`, which so far only snapshots refer to, and brings that to the disk. It has
    /// been checked that this can be done.
    fn borrow(&mut self, tables: &Tables) -> Result<()> {
        self.references.clear_copied(tables)?;
        self.meta().make_durable()?;
        self.references.add(tables)?;
        let borrowed = self.meta().commit();
        if borrowed.is_err() {
            let _ = self.references.take_back(tables);
            let _ = self.meta().commit();
        }
        borrowed
    }

    /// Makes `l1` at `place` the active L1 table, and returns where the former one is.
    fn switch(&mut self, snapshot: &Snapshot, mut l1: L1Table, place: Run, size: u64) -> Result<Run> {
        let geometry = self.geometry();
        let image = self.image;
        let meta = self.meta();
        let old = Run::of_bytes(geometry, HostOffset(meta.header.l1_offset), u64::from(meta.header.l1_size) * 8);
        l1.set_clean();
        meta.unprotect_active();
        meta.header.l1_offset = offset_of(place, geometry);
        meta.header.l1_size = l1.len() as u32;
        if snapshot.disk_size.is_some() {
            meta.header.size = size;
        }
        meta.l1 = l1;
        image.size.store(meta.header.guest_size(), Ordering::Release);
        meta.protect_active();
        meta.writer()?.header_changed();
        meta.commit()?;
        Ok(old)
    }

    fn delete(&mut self, name: &str) -> Result<()> {
        let geometry = self.geometry();
        let mut snapshots = self.meta().snapshots.clone();
        let Some(found) = snapshots.find(None, Some(name)) else {
            return Err(Error::not_found("snapshot not found"));
        };
        let snapshot = snapshots.entries.remove(found);
        let l1 = read_l1(&*self.image.file, &snapshot, geometry)?;
        let tables = Tables::of(l1.entries(), geometry)?;
        let l1_place = Run::of_bytes(geometry, HostOffset(snapshot.l1_offset), u64::from(snapshot.l1_size) * 8);
        if !geometry.external_data {
            // Those that are the snapshot's, too, are looked at before anything is written.
            let (others, _) = Tables::of(self.meta().l1.entries(), geometry)?.differences(&tables);
            self.references.check_used(&others)?;
        }
        if !geometry.external_data && self.delete_at_once(&snapshots, &tables, l1_place)? {
            return Ok(());
        }
        let table_place = self.write_snapshots(&mut snapshots)?;
        self.publish(snapshots, table_place)?;
        self.done(DELETED);
        let writer = self.meta().writer()?;
        writer.refcounts.unprotect(HostOffset(snapshot.l1_offset), MetadataKind::InactiveL1);
        writer.free(l1_place, Discard::Snapshot);
        self.references.give_up(&tables)?;
        // Refcounts are one before flags say so.
        self.meta().make_durable()?;
        self.references.renew_copied()?;
        self.meta().flush()
    }

    /// Writes a snapshot table to a new place; nothing refers to it yet.
    pub(super) fn write_snapshots(&mut self, snapshots: &mut SnapshotTable) -> Result<Run> {
        let size = self.meta().header.guest_size();
        let bytes = snapshots.to_bytes(size)?;
        snapshots.bytes = bytes.len() as u64;
        self.write_new(&bytes)
    }

    /// Makes `snapshots`, which lie at `place`, the snapshots of the image, and gives up the former table.
    fn publish(&mut self, snapshots: SnapshotTable, place: Run) -> Result<()> {
        let geometry = self.geometry();
        let meta = self.meta();
        let old = HostOffset(meta.header.snapshots_offset);
        let old_place = Run::of_bytes(geometry, old, meta.snapshots.bytes);
        // As many as were counted when the table was made.
        meta.header.nb_snapshots = snapshots.entries.len() as u32;
        meta.header.snapshots_offset = offset_of(place, geometry);
        meta.snapshots = snapshots;
        let writer = meta.writer()?;
        if old_place.clusters > 0 {
            writer.refcounts.unprotect(old, MetadataKind::SnapshotTable);
            writer.free(old_place, Discard::Snapshot);
        }
        writer.header_changed();
        self.protect(place, MetadataKind::SnapshotTable)?;
        self.meta().flush()
    }

    /// Writes metadata to free clusters; nothing refers to it yet.
    pub(super) fn write_new(&mut self, bytes: &[u8]) -> Result<Run> {
        let geometry = self.geometry();
        let clusters = geometry.clusters(bytes.len() as u64);
        if clusters == 0 {
            return Ok(Run { first: 0, clusters: 0 });
        }
        let writer = self.meta().writer()?;
        let offset = writer.refcounts.allocate(clusters)?.offset;
        let place = Run { first: offset.0 >> geometry.cluster_bits, clusters };
        match writer.write_new(offset, bytes) {
            Ok(()) => Ok(place),
            Err(error) => Err(self.give_back(&[place], error)),
        }
    }

    /// Gives back new places after an error, which it returns.
    fn give_back(&mut self, places: &[Run], error: Error) -> Error {
        if self.meta().writer().is_ok_and(|writer| writer.refcounts.is_moving()) {
            // Then everything is forgotten.
            return error;
        }
        for place in places {
            // They are leaks if that fails; the first error is the one to report.
            let _ = self.meta().writer().and_then(|writer| writer.give_back(*place));
        }
        let _ = self.meta().commit();
        error
    }

    pub(super) fn protect(&mut self, place: Run, kind: MetadataKind) -> Result<()> {
        let bits = self.geometry().cluster_bits;
        let writer = self.meta().writer()?;
        writer.refcounts.protect(HostOffset(place.first << bits), place.clusters << bits, kind);
        Ok(())
    }
}

/// A snapshot of an image with this header, taken now, without an ID or an L1 table.
fn new_snapshot(name: &str, header: &Header) -> Snapshot {
    let mut name = text::to_bytes(name);
    name.truncate(NAME_MAX);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Snapshot {
        l1_offset: 0,
        l1_size: header.l1_size,
        id: Vec::new(),
        name,
        // The field has 32 bits, which last until 2106.
        date_sec: now.as_secs() as u32,
        date_nsec: now.subsec_nanos(),
        vm_clock_nsec: 0,
        vm_state_size: 0,
        disk_size: Some(header.guest_size()),
        icount: Some(0),
        unknown_extra: Vec::new(),
    }
}

/// The L1 table of a snapshot. Fails where it cannot be right.
pub fn read_l1(file: &dyn Storage, snapshot: &Snapshot, geometry: Geometry) -> Result<L1Table> {
    let bytes = u64::from(snapshot.l1_size) * 8;
    check_table(geometry, "Snapshot L1 table", snapshot.l1_offset, bytes, L1_BYTES_MAX)?;
    L1Table::read(file, snapshot.l1_offset, snapshot.l1_size)
}

/// Writes the snapshot table to a new place, to which nothing leads yet.
pub fn write_table(meta: &mut Meta) -> Result<HostOffset> {
    let geometry = meta.header.geometry();
    let bytes = meta.snapshots.to_bytes(meta.header.guest_size())?;
    let clusters = geometry.clusters(bytes.len() as u64);
    let writer = meta.writer()?;
    let place = writer.refcounts.allocate(clusters)?.offset;
    if let Err(error) = writer.write_new(place, &bytes) {
        let _ = writer.give_back(Run { first: place.0 >> geometry.cluster_bits, clusters });
        return Err(error);
    }
    meta.snapshots.bytes = bytes.len() as u64;
    Ok(place)
}

/// An error whose message is announced beforehand, so that the system's text is what the operation fails with.
fn announce(error: Error) -> Error {
    error.number().notice(format!("qemu-img: {error}"))
}

/// Whether the disk may get `size` bytes.
fn check_resize(header: &Header, size: u64) -> Result<()> {
    let refuse = |errno, text: &str| Err(Error::os(errno).notice(format!("qemu-img: {text}")));
    if size == header.guest_size() {
        return Ok(());
    }
    if i64::try_from(size).is_err() {
        return refuse(libc::EINVAL, "Image size cannot be negative");
    }
    if !size.is_multiple_of(SECTOR) {
        return refuse(libc::EINVAL, "The new size must be a multiple of 512");
    }
    if header.version < 3 {
        return refuse(libc::ENOTSUP, "Can't resize a v2 image which has snapshots");
    }
    Ok(())
}

/// How many entries the L1 table needs that makes a snapshot the present state.
fn new_l1_len(snapshot: &Snapshot, size: u64, geometry: Geometry) -> Result<usize> {
    let entries = geometry.l1_entries(size).max(u64::from(snapshot.l1_size));
    if entries > L1_BYTES_MAX / 8 {
        let error = Error::os(libc::EFBIG);
        let notice = format!("qemu-img: Failed to grow the L1 table: {error}");
        return Err(error.notice(notice));
    }
    Ok(entries as usize)
}

pub(super) fn offset_of(place: Run, geometry: Geometry) -> u64 {
    place.first << geometry.cluster_bits
}
