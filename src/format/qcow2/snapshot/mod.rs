//! Internal snapshots: what their table holds, and the operations on them.
//!
//! A snapshot is a copy of the L1 table. Everything reachable from it carries one reference more, so that a later write
//! to the disk goes elsewhere. Specification: "Snapshots".

mod table;

use super::Qcow2;
use crate::error::{Error, Result};
use crate::image::{SnapshotInfo, Snapshots};

pub use table::SnapshotTable;

impl Snapshots for Qcow2 {
    fn list(&self) -> Result<Vec<SnapshotInfo>> {
        let meta = self.meta();
        let disk_size = meta.header.guest_size();
        Ok(meta.snapshots.entries.iter().map(|snapshot| snapshot.info(disk_size)).collect())
    }

    fn create(&self, _name: &str) -> Result<()> {
        Err(Error::unsupported("Taking snapshots is not implemented yet"))
    }

    fn apply(&self, _name_or_id: &str) -> Result<()> {
        Err(Error::unsupported("Applying snapshots is not implemented yet"))
    }

    fn delete(&self, _name: &str) -> Result<()> {
        Err(Error::unsupported("Deleting snapshots is not implemented yet"))
    }

    fn view(&self, _id: Option<&str>, _name: Option<&str>) -> Result<()> {
        Err(Error::unsupported("Reading snapshots is not implemented yet"))
    }
}
