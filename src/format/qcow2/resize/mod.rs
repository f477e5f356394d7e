//! Another virtual size.
//!
//! The one moment that counts is the write of the header with the new size, which also leads to bitmaps of that size.
//! Before it, a disk that grows gets a longer L1 table and whatever its new part needs, all of it behind the end of the
//! disk that the header still states. After it, a disk that shrinks gives back what lies behind its new end. A crash
//! leaves the disk before or after, at worst with clusters behind its end; they are given back when it grows again,
//! so that what they hold is never seen.

mod grow;
mod shrink;

#[cfg(test)]
mod fault_tests;

use std::sync::atomic::Ordering;

pub use self::grow::extend_data_file;

use super::Qcow2;
use super::geometry::{Geometry, HostOffset};
use super::header::{Header, L1_BYTES_MAX};
use crate::error::{Context, Error, Result};
use crate::image::{Preallocation, Resize};
use crate::units::SECTOR;

impl Qcow2 {
    /// See [`crate::image::Layer::resize`].
    pub(super) fn resize_disk(&self, resize: &Resize<'_>) -> Result<()> {
        let old = self.virtual_size();
        {
            let mut meta = self.meta();
            meta.writer()?;
            check(&meta.header, resize)?;
            meta.check_bitmaps_for_resize()?;
            meta.flush()?;
            meta.store_bitmaps(&self.file)?;
        }
        if resize.size < old { self.shrink_disk(old, resize.size) } else { self.grow_disk(old, resize) }
    }

    /// What a disk of this size needs to be there has been written: the header says so.
    fn publish_size(&self, old: u64, size: u64) -> Result<()> {
        let mut meta = self.meta();
        let published = meta.resize_bitmaps(&self.file, old, size).and_then(|()| {
            meta.header.size = size;
            meta.writer()?.header_changed();
            meta.flush()
        });
        meta.guard(published).context(|| "Failed to update the image size")?;
        self.size.store(size, Ordering::Release);
        Ok(())
    }
}

/// Refuses what cannot be done, in the reference's order.
fn check(header: &Header, resize: &Resize<'_>) -> Result<()> {
    if !resize.size.is_multiple_of(SECTOR) {
        return Err(Error::invalid("The new size must be a multiple of 512"));
    }
    if header.nb_snapshots > 0 && header.version < 3 {
        return Err(Error::unsupported("Can't resize a v2 image which has snapshots"));
    }
    Ok(())
}

/// Refuses what cannot be done when a disk grows.
fn check_growth(header: &Header, resize: &Resize<'_>) -> Result<()> {
    if header.geometry().l1_entries(resize.size) > L1_BYTES_MAX / 8 {
        return Err(Error::os(libc::EFBIG).context("Failed to grow the L1 table"));
    }
    let needs_zero_clusters = resize.covers_backing && !resize.preallocation.takes_space();
    if needs_zero_clusters && header.version < 3 {
        // Version 2 has no clusters that read as zeros without taking space.
        return Err(super::not_supported().context("Failed to zero out new clusters"));
    }
    Ok(())
}
