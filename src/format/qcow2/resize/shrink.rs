//! A disk that gets smaller, and clusters behind the end of a disk.

use std::sync::Arc;

use super::*;
use crate::format::qcow2::Meta;
use crate::format::qcow2::entry::{L1Entry, L2Entry};
use crate::format::qcow2::refcount::MetadataKind;
use crate::format::qcow2::snapshot::reach::Tables;
use crate::format::qcow2::snapshot::refs::References;
use crate::format::qcow2::txn::Discard;
use crate::storage::Storage;

impl Qcow2 {
    pub(super) fn shrink_disk(&self, old: u64, size: u64) -> Result<()> {
        self.publish_size(old, size)?;
        let mut meta = self.meta();
        let cut = meta.cut_beyond(&self.file, size);
        meta.guard(cut)?;
        meta.flush()?;
        if self.geometry.external_data && !self.data.limits().fixed_len {
            self.data.set_len(size)?;
        }
        let empty = meta.writer()?.drop_empty_blocks()?;
        meta.flush()?;
        let writer = meta.writer()?;
        writer.empty(&empty);
        writer.cut_tail()
    }
}

impl Meta {
    /// Gives up all clusters that lie behind a disk of `size` bytes as a whole.
    pub(super) fn cut_beyond(&mut self, file: &Arc<dyn Storage>, size: u64) -> Result<()> {
        let geometry = self.header.geometry();
        let first = geometry.clusters(size);
        let entries = geometry.l2_entries();
        self.cut_table(geometry, first)?;
        // Tables that map nothing but what lies behind the end.
        let beyond = first.div_ceil(entries).min(self.l1.len() as u64);
        let gone = Tables::of(&self.l1.entries()[beyond as usize..], geometry)?;
        for index in beyond..self.l1.len() as u64 {
            let Some(table) = self.l1.get(index).table() else { continue };
            self.l1.set(index, L1Entry::default());
            self.writer()?.refcounts.unprotect(table, MetadataKind::ActiveL2);
        }
        self.make_durable()?;
        // From here on they are read past the cache.
        self.l2.clear();
        References { meta: self, file, geometry }.give_up(&gone)
    }

    /// Empties the entries from guest cluster `first` on of the L2 table that maps it.
    fn cut_table(&mut self, geometry: Geometry, first: u64) -> Result<()> {
        let entries = geometry.l2_entries();
        let (l1_index, start) = (first / entries, first % entries);
        let Some(table) = self.l1.get(l1_index).table().filter(|_| start != 0) else { return Ok(()) };
        let empty = L2Entry::default();
        let l2 = self.l2.get(table)?;
        if (start..entries).all(|index| l2.get(index) == empty) {
            return Ok(());
        }
        let table = self.writable_table(geometry, l1_index)?;
        for index in start..entries {
            let entry = self.l2.get(table)?.get(index);
            if entry != empty {
                let guest = (l1_index * entries + index) << geometry.cluster_bits;
                self.free_entry(geometry, guest, entry, Discard::Request)?;
                self.l2.get(table)?.set(index, empty);
            }
        }
        self.commit()
    }
}
