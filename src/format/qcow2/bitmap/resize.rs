//! Bitmaps of a disk that changes its size.

use std::sync::Arc;

use super::{Bitmap, data, directory};
use crate::error::{Error, Result};
use crate::format::qcow2::Meta;
use crate::format::qcow2::geometry::HostOffset;
use crate::format::qcow2::header::BitmapsPointer;
use crate::format::qcow2::refcount::{MetadataKind, Run};
use crate::format::qcow2::txn::Discard;
use crate::storage::Storage;

impl Meta {
    /// Refuses a new size where a bitmap is one that nobody trusts: it cannot follow the disk.
    pub fn check_bitmaps_for_resize(&self) -> Result<()> {
        match self.bitmaps.list().iter().find(|bitmap| bitmap.flags.contains(&"in-use")) {
            None => Ok(()),
            Some(broken) => {
                let error = Error::invalid(format!("Bitmap '{}' is inconsistent and cannot be used", broken.name));
                Err(error.hint("Try block-dirty-bitmap-remove to delete this bitmap from disk"))
            }
        }
    }

    /// Gives all bitmaps up, trusted or not; the header that says so is still to be written.
    pub fn remove_all_bitmaps(&mut self, file: &Arc<dyn Storage>) -> Result<()> {
        self.store_bitmaps(file)?;
        let Some(pointer) = self.header.bitmaps.take() else { return Ok(()) };
        let geometry = self.header.geometry();
        let mut given_up = Vec::new();
        for bitmap in std::mem::take(&mut self.bitmaps).entries {
            given_up.extend(data::places(&**file, geometry, &bitmap)?);
            let table_len = u64::from(bitmap.table_size) * 8;
            given_up.push(Run::of_bytes(geometry, HostOffset(bitmap.table_offset), table_len));
        }
        let place = HostOffset(pointer.directory_offset);
        given_up.push(Run::of_bytes(geometry, place, pointer.directory_size));
        let writer = self.writer()?;
        writer.refcounts.unprotect(place, MetadataKind::BitmapDirectory);
        given_up.into_iter().for_each(|run| writer.free(run, Discard::Request));
        Ok(())
    }

    /// Writes the bitmaps of a disk of `old` bytes as those of a disk of `size` bytes to new places, and prepares the
    /// header to lead there. What is new of the disk counts as unchanged, as in the reference.
    pub fn resize_bitmaps(&mut self, file: &Arc<dyn Storage>, old: u64, size: u64) -> Result<()> {
        let Some(pointer) = self.header.bitmaps.filter(|_| !self.bitmaps.is_empty() && old != size) else {
            return Ok(());
        };
        let geometry = self.header.geometry();
        let (mut entries, mut given_up) = (Vec::new(), Vec::new());
        for bitmap in self.bitmaps.entries.clone() {
            given_up.extend(data::places(&**file, geometry, &bitmap)?);
            let table_len = u64::from(bitmap.table_size) * 8;
            given_up.push(Run::of_bytes(geometry, HostOffset(bitmap.table_offset), table_len));
            let mut bits = data::read(&**file, geometry, &bitmap, old)?;
            fit(&mut bits, &bitmap, size);
            let mut bitmap = Bitmap { table_size: data::table_len(geometry, &bitmap, size)?, ..bitmap };
            let table = data::store_new(self, geometry, &bitmap, &bits)?;
            bitmap.table_offset = self.write_new_table(&table, geometry)?.0;
            entries.push(bitmap);
        }
        let bytes = directory::to_bytes(&entries);
        let place = self.write_new_table(&bytes, geometry)?;
        let old_place = HostOffset(pointer.directory_offset);
        given_up.push(Run::of_bytes(geometry, old_place, pointer.directory_size));
        self.header.bitmaps =
            Some(BitmapsPointer { directory_size: bytes.len() as u64, directory_offset: place.0, ..pointer });
        self.bitmaps.entries = entries;
        let writer = self.writer()?;
        writer.refcounts.unprotect(old_place, MetadataKind::BitmapDirectory);
        writer.refcounts.protect(place, bytes.len() as u64, MetadataKind::BitmapDirectory);
        given_up.into_iter().for_each(|run| writer.free(run, Discard::Request));
        Ok(())
    }
}

/// Makes bits those of a disk of `size` bytes.
fn fit(bits: &mut Vec<u8>, bitmap: &Bitmap, size: u64) {
    // At most 512 MiB, as the directory's limits say.
    bits.resize(bitmap.bytes(size) as usize, 0);
    let used = size.div_ceil(1 << bitmap.granularity_bits) % 8;
    if let Some(last) = bits.last_mut().filter(|_| used != 0) {
        *last &= (1 << used) - 1;
    }
}
