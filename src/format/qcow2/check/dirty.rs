//! Images that were not closed properly: their refcounts were not kept up to date (lazy refcounts), so they are counted
//! anew before the first write. Specification: "Incompatible features", dirty bit.

use std::sync::Arc;

use super::{Checker, structures};
use crate::error::{Context, Error, Result};
use crate::format::qcow2::Meta;
use crate::format::qcow2::header::incompatible;
use crate::format::qcow2::tables::L1Table;
use crate::image::{CheckNote, Repair};
use crate::storage::Storage;

impl Meta {
    /// Counts all references anew, corrects refcounts and the flags that depend on them, and clears the dirty bit. Where
    /// anything else is wrong with the image nothing is changed, and it is an error: nobody has asked for such repairs.
    pub fn repair_dirty(&mut self, file: &Arc<dyn Storage>) -> Result<()> {
        let mut first = None;
        let repaired = self.recount(file, &mut |note| {
            if let CheckNote::Line(line) = note
                && line.starts_with("ERROR")
                && !line.starts_with("ERROR cluster")
            {
                first.get_or_insert_with(|| line.to_owned());
            }
        });
        let repaired = repaired.map_err(|error| match first {
            Some(line) => error.context(line),
            None => error,
        });
        repaired.context(|| "Could not repair dirty image")
    }

    fn recount(&mut self, file: &Arc<dyn Storage>, note: &mut dyn FnMut(CheckNote<'_>)) -> Result<()> {
        let mut checker = Checker::new(file, self, Repair::All, note)?;
        checker.snapshots = checker.meta.snapshots.clone();
        checker.judge_snapshots();
        checker.only_counts = true;
        checker.check_refcounts()?;
        if checker.found.corruptions > 0 || checker.found.check_errors > 0 {
            return Err(structures::unreadable());
        }
        let header = &mut self.header;
        header.incompatible &= !incompatible::DIRTY;
        file.flush()?;
        file.write_at(&header.incompatible.to_be_bytes(), 72)?;
        file.flush()?;
        self.l1 = L1Table::read(&**file, header.l1_offset, header.l1_size)?;
        self.l2.clear();
        Ok(())
    }
}

impl Checker<'_> {
    /// With [`Checker::only_counts`]: an error if more than refcounts has to be repaired.
    pub(super) fn refuse_damage(&self) -> Result<()> {
        match self.only_counts && self.found.corruptions > 0 {
            true => Err(Error::os(libc::EIO)),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "dirty_tests.rs"]
mod tests;
