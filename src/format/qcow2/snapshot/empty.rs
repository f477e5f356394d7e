//! Giving up everything that the present state of an image has of its own.
//!
//! The entries of the active L1 table go first. The caller has brought what they led to to the backing file, so that at
//! every moment on the way the guest sees the same. Only when no entry is left on stable storage are references given up,
//! those to clusters that snapshots share, too. What is left then moves to the beginning of the file, and the rest of it is
//! cut off.

use super::change::Change;
use super::reach::Tables;
use crate::error::Result;
use crate::format::qcow2::entry::L1Entry;
use crate::format::qcow2::refcount::{MetadataKind, Run};
use crate::format::qcow2::txn::Discard;
use crate::image::not_supported;
use crate::storage::ZeroMode;

impl Change<'_> {
    /// Makes the active L1 table empty.
    pub fn empty(&mut self) -> Result<()> {
        let geometry = self.geometry();
        let meta = self.meta();
        if meta.header.data_file_raw() {
            // The data file alone shows the disk, and so there is no backing file.
            return Err(not_supported());
        }
        let tables = Tables::of(meta.l1.entries(), geometry)?;
        for index in 0..meta.l1.len() as u64 {
            let Some(table) = meta.l1.get(index).table() else { continue };
            meta.writer()?.refcounts.unprotect(table, MetadataKind::ActiveL2);
            meta.l1.set(index, L1Entry::default());
        }
        meta.make_durable()?;
        if geometry.external_data {
            self.empty_data_file(&tables)?;
        } else {
            self.references().give_up(&tables)?;
            self.meta().flush()?;
        }
        self.settle_refcounts()
    }

    /// The clusters in an external data file are not counted, and nobody shares them.
    fn empty_data_file(&mut self, tables: &Tables) -> Result<()> {
        let geometry = self.geometry();
        let (size, data) = (self.image().virtual_size(), self.image().data.clone());
        let writer = self.meta().writer()?;
        tables.each(|table| writer.free(Run::of_bytes(geometry, table, 1), Discard::Snapshot));
        self.meta().flush()?;
        // Giving space back is a kindness; it must not make the operation fail.
        let end = size.min(data.len()?);
        let _ = data.zero(0, end, ZeroMode::Discard);
        Ok(())
    }
}
