//! L2 tables that may be changed.

use super::super::entry::L1Entry;
use super::super::geometry::{Geometry, HostOffset};
use super::super::refcount::{MetadataKind, Run, hex};
use super::super::txn::Discard;
use super::Meta;
use crate::error::{Error, Result};

impl Meta {
    /// The L2 table of an L1 entry, ready to be changed: made if there is none, copied if a snapshot shares it.
    pub fn writable_table(&mut self, geometry: Geometry, l1_index: u64) -> Result<HostOffset> {
        let entry = self.l1.get(l1_index);
        let cluster = geometry.cluster_size();
        if let Some(table) = entry.table() {
            if geometry.in_cluster(table.0) != 0 {
                let text = format!("L2 table offset {:#x} unaligned (L1 index: {})", table.0, hex(l1_index));
                return Err(Error::fatal_corruption(text));
            }
            if entry.copied() {
                self.writer()?.refcounts.check_own(table, cluster, MetadataKind::ActiveL2)?;
                return Ok(table);
            }
        }
        let place = self.writer()?.refcounts.allocate(1)?.offset;
        match entry.table() {
            None => {
                self.l2.insert_new(place);
            }
            Some(shared) => {
                if let Err(error) = self.l2.insert_copy(shared, place) {
                    self.writer()?.give_back(Run::of_bytes(geometry, place, cluster))?;
                    return Err(error);
                }
                let writer = self.writer()?;
                writer.free(Run::of_bytes(geometry, shared, cluster), Discard::Other);
                writer.refcounts.unprotect(shared, MetadataKind::ActiveL2);
            }
        }
        self.l1.set(l1_index, L1Entry::new(place, true));
        self.writer()?.refcounts.protect(place, cluster, MetadataKind::ActiveL2);
        Ok(place)
    }
}
