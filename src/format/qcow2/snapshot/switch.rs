//! Taking and deleting a snapshot in one step, for which there is no moment between before and after.
//!
//! Refcounts and the flags in tables that say "refcount is exactly one" cannot change in one write where they lie. So new
//! refcount structures are written beside the old ones, and new L2 tables beside those whose flags change, and one write of
//! a sector, the header, leads to all of them. Until then the image on disk is what it was; what is replaced is given up
//! afterwards. That takes as much more space, for a moment, as tables and refcount blocks have: where it cannot be had, the
//! caller changes them in their places.

use std::collections::HashMap;

use super::change::{Change, DELETED, TAKEN, offset_of};
use super::reach::Tables;
use super::table::{Snapshot, SnapshotTable};
use crate::error::{Error, Result};
use crate::format::qcow2::Meta;
use crate::format::qcow2::entry::L1Entry;
use crate::format::qcow2::geometry::HostOffset;
use crate::format::qcow2::header::Header;
use crate::format::qcow2::refcount::{MetadataKind, Run};
use crate::format::qcow2::tables::L1Table;
use crate::format::qcow2::txn::Discard;

/// Runs of clusters that are kept in memory until they can be given up.
const RUNS_MAX: usize = 1 << 20;

/// The active tables as they will be.
struct NewTables {
    /// The L1 table, and where it lies.
    l1: L1Table,
    place: Run,
    /// L2 tables that others take the place of, as often as they are referred to and counted for that.
    replaced: Vec<Run>,
}

impl Change<'_> {
    /// Adds the last one of `snapshots`, which is the present state, to the image. `false` as in [`Change::at_once`].
    pub(super) fn create_at_once(&mut self, snapshots: &SnapshotTable, tables: &Tables) -> Result<bool> {
        self.at_once(|change| {
            let geometry = change.geometry();
            let mut snapshots = snapshots.clone();
            let moved = change.references().share(tables)?;
            let before = change.meta().snapshots.entries.clone();
            let new = change.renew_l1(moved, &before)?;
            // Flags are not looked at in the tables of snapshots; none is the value that is never wrong.
            let mut own =
                L1Table::from_entries(new.l1.entries().iter().map(|entry| entry.with_copied(false)).collect());
            own.set_clean();
            let own_place = change.write_new(&own.to_bytes(0..own.len()))?;
            if let Some(snapshot) = snapshots.entries.last_mut() {
                snapshot.l1_offset = offset_of(own_place, geometry);
            }
            let mut replaced = change.switch_to(snapshots, &new)?;
            change.done(TAKEN);
            replaced.extend(new.replaced);
            change.protect(own_place, MetadataKind::InactiveL1)?;
            Ok(replaced)
        })
    }

    /// Makes `snapshots`, which are those of the image but for one, all of them. That one referred to `tables`, and its L1
    /// table lies at `l1_place`. `false` as in [`Change::at_once`].
    pub(super) fn delete_at_once(&mut self, snapshots: &SnapshotTable, tables: &Tables, l1_place: Run) -> Result<bool> {
        self.at_once(|change| {
            let mut given_up = change.references().give_up_shared(tables, RUNS_MAX)?;
            let geometry = change.geometry();
            let active = Tables::of(change.meta().l1.entries(), geometry)?;
            change.check_apart(&mut given_up, &snapshots.entries)?;
            let moved = change.references().rewrite(&active)?;
            let new = change.renew_l1(moved, &snapshots.entries)?;
            given_up.extend(change.switch_to(snapshots.clone(), &new)?);
            change.done(DELETED);
            given_up.extend(new.replaced);
            given_up.push(l1_place);
            let l1_offset = HostOffset(offset_of(l1_place, change.geometry()));
            change.meta().writer()?.refcounts.unprotect(l1_offset, MetadataKind::InactiveL1);
            Ok(given_up)
        })
    }

    /// Runs `operation` while refcount structures move. It ends with [`Change::switch_to`] and returns what is given up then.
    /// `false` where there is no room for new tables beside the old ones: then everything is as it was.
    fn at_once(&mut self, operation: impl FnOnce(&mut Self) -> Result<Vec<Run>>) -> Result<bool> {
        let len = self.meta().file_len()?;
        let begun = self.meta().writer().and_then(|writer| writer.refcounts.begin_moving());
        match begun.and_then(|()| operation(self)) {
            Ok(mut given_up) => {
                // In the order of refcount blocks, so that each is changed once.
                given_up.sort_unstable();
                let writer = self.meta().writer()?;
                given_up.into_iter().for_each(|run| writer.free(run, Discard::Snapshot));
                self.meta().flush()?;
                Ok(true)
            }
            Err(error) => {
                self.meta().abandon(len);
                // Where the header itself could not be written, nobody knows which one is there.
                let known = self.meta().writer().is_ok();
                if known && lacks_space(&error) { Ok(false) } else { Err(error) }
            }
        }
    }

    /// Brings everything to the disk, and then the header that leads to it. Returns what it no longer leads to.
    fn switch_to(&mut self, mut snapshots: SnapshotTable, new: &NewTables) -> Result<Vec<Run>> {
        let geometry = self.geometry();
        let table = self.write_snapshots(&mut snapshots)?;
        let meta = self.meta();
        let mut header = meta.header.clone();
        // As many as were counted when the table was made.
        header.nb_snapshots = snapshots.entries.len() as u32;
        header.snapshots_offset = offset_of(table, geometry);
        if new.place.clusters > 0 {
            header.l1_offset = offset_of(new.place, geometry);
        }
        let old = HostOffset(meta.header.snapshots_offset);
        let old_table = Run::of_bytes(geometry, old, meta.snapshots.bytes);
        let old_l1 = HostOffset(meta.header.l1_offset);
        let old_l1 = Run::of_bytes(geometry, old_l1, u64::from(meta.header.l1_size) * 8);
        let mut replaced = meta.switch_header(header, &new.l1)?;
        meta.writer()?.refcounts.unprotect(old, MetadataKind::SnapshotTable);
        meta.snapshots = snapshots;
        self.protect(table, MetadataKind::SnapshotTable)?;
        replaced.extend([old_table, old_l1]);
        Ok(replaced)
    }

    /// Writes a new L1 table, which refers to the new ones of the L2 tables that have `moved`, and has the right flags.
    /// `snapshots` may refer to the old ones.
    fn renew_l1(&mut self, moved: Vec<(HostOffset, HostOffset)>, snapshots: &[Snapshot]) -> Result<NewTables> {
        let bits = self.geometry().cluster_bits;
        let mut moved: HashMap<_, _> = moved.into_iter().map(|(old, new)| (old, (new, None))).collect();
        let shared = self.uses(snapshots, &moved);
        let entries = self.meta().l1.entries().to_vec();
        let mut replaced = Vec::new();
        let mut renewed = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(old) = entry.table() else {
                renewed.push(entry);
                continue;
            };
            let refcounts = &mut self.meta().writer()?.refcounts;
            let Some((new, uses)) = moved.get_mut(&old) else {
                let copied = refcounts.get(old.0 >> bits)? == 1;
                renewed.push(entry.with_copied(copied));
                continue;
            };
            renewed.push(L1Entry::new(*new, refcounts.get(new.0 >> bits)? == 1));
            // In a damaged image more entries may refer to it than are counted; then it is kept for the snapshots.
            let counted = refcounts.get(old.0 >> bits)?;
            let left = uses.get_or_insert(counted.saturating_sub(shared.get(&old).copied().unwrap_or(0)));
            if *left > 0 {
                *left -= 1;
                replaced.push(Run { first: old.0 >> bits, clusters: 1 });
            }
        }
        let mut l1 = L1Table::from_entries(renewed);
        l1.set_clean();
        let place = self.write_new(&l1.to_bytes(0..l1.len()))?;
        Ok(NewTables { l1, place, replaced })
    }
}

/// Whether there is no room for new tables beside the old ones.
fn lacks_space(error: &Error) -> bool {
    matches!(error.errno(), libc::ENOSPC | libc::EDQUOT | libc::EFBIG)
}

impl Meta {
    /// The last step of an operation during which refcount structures have moved: writes them, and when all of it is on
    /// stable storage the header. Returns the places of the old structures.
    fn switch_header(&mut self, mut header: Header, l1: &L1Table) -> Result<Vec<Run>> {
        let writer = self.writer()?;
        writer.refcounts.write_blocks()?;
        writer.refcounts.write_table()?;
        writer.settle_before_switch()?;
        let (offset, clusters) = writer.refcounts.table_place();
        header.refcount_table_offset = offset.0;
        header.refcount_table_clusters = u32::try_from(clusters).map_err(|_| Error::os(libc::EFBIG))?;
        writer.switch_header(&header)?;
        let before = writer.refcounts.end_moving();
        self.unprotect_active();
        self.header = header;
        self.l1 = L1Table::from_entries(l1.entries().to_vec());
        self.l1.set_clean();
        self.protect_active();
        Ok(before)
    }
}
