//! Refcounts of another width.

use super::Qcow2;
use crate::error::{Error, Result};
use crate::format::qcow2::Meta;
use crate::format::qcow2::geometry::Geometry;

impl Qcow2 {
    pub(super) fn change_refcount_width(&self, order: u32) -> Result<()> {
        let mut meta = self.meta();
        let new = Geometry { refcount_order: order, ..meta.header.geometry() };
        let changed = meta.check_width(new).and_then(|()| meta.renew_refcounts(new));
        meta.guard(changed)?;
        meta.writer()?.cut_tail()
    }
}

impl Meta {
    /// Every count must fit.
    fn check_width(&mut self, new: Geometry) -> Result<()> {
        self.each_count(|cluster, count| {
            if count <= new.refcount_max() {
                return Ok(());
            }
            let offset = cluster << new.cluster_bits;
            Err(Error::invalid(format!(
                "Cannot decrease refcount entry width to {} bits: Cluster at offset {offset:#x} has a refcount of {count}",
                new.refcount_bits()
            )))
        })
    }
}
