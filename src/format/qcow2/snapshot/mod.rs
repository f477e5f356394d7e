//! Internal snapshots: what their table holds, and the operations on them.
//!
//! A snapshot is a copy of the L1 table. Everything reachable from it carries one reference more, so that a later write
//! to the disk goes elsewhere. Specification: "Snapshots".

mod apart;
mod change;
mod details;
mod diff;
mod empty;
pub(super) mod reach;
pub(super) mod refs;
mod settle;
mod switch;
mod table;

use std::sync::atomic::Ordering;

use super::Qcow2;
use crate::error::{Error, Result};
use crate::image::{Difference, Layer, SnapshotDetails, SnapshotInfo, Snapshots};
use crate::units::{SECTOR, align_down};

pub use table::{RawEntry, Snapshot, SnapshotTable};

impl Snapshots for Qcow2 {
    fn list(&self) -> Result<Vec<SnapshotInfo>> {
        // Images with an external data file cannot have snapshots; what their table holds means nothing.
        if self.geometry.external_data {
            return Ok(Vec::new());
        }
        let meta = self.meta();
        let disk_size = meta.header.guest_size();
        Ok(meta.snapshots.entries.iter().map(|snapshot| snapshot.info(disk_size)).collect())
    }

    fn details(&self) -> Result<Vec<SnapshotDetails>> {
        self.snapshot_details()
    }

    fn differences(
        &self,
        from: &str,
        to: Option<&str>,
        visit: &mut dyn FnMut(&Difference) -> Result<()>,
    ) -> Result<()> {
        self.snapshot_differences(from, to, visit)
    }

    fn create(&self, name: &str) -> Result<()> {
        self.create_snapshot(name)
    }

    fn apply(&self, name_or_id: &str) -> Result<()> {
        self.apply_snapshot(name_or_id)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.delete_snapshot(name)
    }

    fn view(&self, id: Option<&str>, name: Option<&str>) -> Result<()> {
        let mut meta = self.meta();
        let found = meta.snapshots.find(id, name).ok_or_else(|| Error::not_found("Can't find snapshot"))?;
        let snapshot = meta.snapshots.entries[found].clone();
        let l1 = change::read_l1(&*self.file, &snapshot, self.geometry)?;
        // The disk keeps its present size, as in the reference, unless that would hide a part of the snapshot. A size
        // beyond what the L1 table reaches is wrong.
        let reach = self.geometry.l2_span().saturating_mul(l1.len() as u64);
        let size = align_down(snapshot.disk_size.unwrap_or(0).min(reach), SECTOR).max(self.size());
        meta.l1 = l1;
        meta.l2.clear();
        self.size.store(size, Ordering::Release);
        Ok(())
    }
}

pub use change::{read_l1 as read_snapshot_l1, write_table as write_snapshot_table};

#[cfg(test)]
pub(super) mod fault_tests;
