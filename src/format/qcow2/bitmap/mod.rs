//! Persistent bitmaps: reading them, recording writes in those that ask for it, adding new ones.
//!
//! While writes are being recorded the bitmaps concerned are marked on disk as in use, so that a run that ends too early
//! leaves bitmaps nobody trusts rather than bitmaps that miss a write. Specification: "Bitmaps".

mod data;
mod directory;
mod resize;

use std::sync::Arc;

use super::geometry::{Geometry, HostOffset};
use super::header::{BitmapsPointer, Header, autoclear};
use super::refcount::{MetadataKind, Run};
use super::txn::Discard;
use super::{Meta, Qcow2};
use crate::error::{Error, Result};
use crate::image::bitmaps::bits;
use crate::image::{BitmapChange, BitmapInfo, Bitmaps};
use crate::storage::Storage;
use crate::text;

use directory::Bitmap;

/// The bitmaps of an opened image.
#[derive(Debug, Default)]
pub struct BitmapSet {
    entries: Vec<Bitmap>,
    /// The bits of the bitmaps in which writes are being recorded, by index; empty until the first write.
    recording: Vec<(usize, Vec<u8>)>,
}

impl BitmapSet {
    /// Reads the directory of an image, and checks that each bitmap has the size of the disk.
    pub fn read(file: &dyn Storage, header: &Header) -> Result<Self> {
        let entries = directory::read(file, header)?;
        for bitmap in entries.iter().filter(|bitmap| !bitmap.in_use) {
            data::check(file, header.geometry(), bitmap, header.guest_size())?;
        }
        Ok(BitmapSet { entries, recording: Vec::new() })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The offset and the number of entries of each bitmap's table.
    pub fn tables(&self) -> Vec<(u64, u32)> {
        self.entries.iter().map(|bitmap| (bitmap.table_offset, bitmap.table_size)).collect()
    }

    /// What `info` shows.
    pub fn list(&self) -> Vec<BitmapInfo> {
        self.entries.iter().map(Bitmap::info).collect()
    }

    /// Whether a write has to be recorded anywhere.
    pub fn records(&self) -> bool {
        self.entries.iter().any(|bitmap| bitmap.auto && !bitmap.in_use) || !self.recording.is_empty()
    }
}

/// What a user has to be told about the bitmaps of an image with this header.
pub fn warning(header: &Header) -> Option<&'static str> {
    if header.bitmaps.is_none() || header.autoclear & autoclear::BITMAPS != 0 {
        return None;
    }
    Some(if header.version < 3 {
        "This qcow2 v2 image contains bitmaps, but they may have been modified by software without persistent bitmap \
         support; so now these bitmaps must be considered inconsistent"
    } else {
        "a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent\n\
         Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix."
    })
}

impl Meta {
    /// Records that a guest range is about to change. The first time, bitmaps that record writes are marked as in use.
    pub fn record_write(&mut self, file: &Arc<dyn Storage>, guest: u64, len: u64) -> Result<()> {
        if len == 0 || !self.bitmaps.records() {
            return Ok(());
        }
        if self.bitmaps.recording.is_empty() {
            self.start_recording(file)?;
        }
        for (index, recorded) in &mut self.bitmaps.recording {
            let granularity = self.bitmaps.entries[*index].granularity_bits;
            bits::set_range(recorded, guest >> granularity, (guest + (len - 1)) >> granularity);
        }
        Ok(())
    }

    fn start_recording(&mut self, file: &Arc<dyn Storage>) -> Result<()> {
        let geometry = self.header.geometry();
        let size = self.header.guest_size();
        let mut recording = Vec::new();
        for (index, bitmap) in self.bitmaps.entries.iter().enumerate() {
            if bitmap.auto && !bitmap.in_use {
                recording.push((index, data::read(&**file, geometry, bitmap, size)?));
            }
        }
        for (index, _) in &recording {
            self.bitmaps.entries[*index].in_use = true;
        }
        self.rewrite_directory(file)?;
        self.bitmaps.recording = recording;
        Ok(())
    }

    /// Writes the directory with changed flags in its place, and flushes: what follows relies on it.
    fn rewrite_directory(&mut self, file: &Arc<dyn Storage>) -> Result<()> {
        let Some(pointer) = self.header.bitmaps else { return Ok(()) };
        file.write_at(&directory::to_bytes(&self.bitmaps.entries), pointer.directory_offset)?;
        file.flush()
    }

    /// Stores what was recorded, and says on disk that the bitmaps are right again. All guest data that was recorded must
    /// be on disk.
    pub fn store_bitmaps(&mut self, file: &Arc<dyn Storage>) -> Result<()> {
        if self.bitmaps.recording.is_empty() {
            return Ok(());
        }
        let geometry = self.header.geometry();
        let mut tables = Vec::new();
        for (index, bits) in std::mem::take(&mut self.bitmaps.recording) {
            let bitmap = self.bitmaps.entries[index].clone();
            tables.push((bitmap.table_offset, data::store(self, file, geometry, &bitmap, &bits)?));
            self.bitmaps.entries[index].in_use = false;
        }
        // New clusters are counted before a table mentions them, and tables are right before they are trusted.
        self.flush()?;
        for (offset, table) in tables {
            file.write_at(&table, offset)?;
        }
        file.flush()?;
        self.rewrite_directory(file)
    }

    /// Makes `wanted` all the bitmaps. New tables and bits, and a new directory, are on disk before the header leads to
    /// them; only then what they replace is given up.
    fn replace_bitmaps(&mut self, file: &Arc<dyn Storage>, wanted: &[BitmapChange]) -> Result<()> {
        if self.header.bitmaps.is_none() && !wanted.is_empty() {
            // Whether the header has room is known before anything is written.
            let pointer = BitmapsPointer { count: 1, directory_size: 0, directory_offset: 0 };
            Header { bitmaps: Some(pointer), ..self.header.clone() }.to_bytes()?;
        }
        self.store_bitmaps(file)?;
        let mut given_up: Vec<_> = self.bitmaps.entries.iter().cloned().map(Some).collect();
        let mut entries = Vec::with_capacity(wanted.len());
        for change in wanted {
            entries.push(match &change.bits {
                Some(bits) => self.new_bitmap(&change.info, bits)?,
                None => {
                    let present = self.position(&change.info.name)?;
                    let kept = given_up[present].take().ok_or_else(|| Error::os(libc::EINVAL))?;
                    Bitmap { auto: change.info.flags.contains(&"auto"), ..kept }
                }
            });
        }
        let geometry = self.header.geometry();
        let mut runs = Vec::new();
        for bitmap in given_up.into_iter().flatten() {
            match data::clusters(&**file, geometry, &bitmap) {
                Ok(clusters) => runs.extend(clusters),
                // The table of a bitmap that was never trusted may be anything; what it holds is lost then.
                Err(error) if error.errno() == libc::EINVAL => {}
                Err(error) => return Err(error),
            }
        }
        runs.extend(self.replace_directory(&entries, geometry)?);
        self.bitmaps.entries = entries;
        let writer = self.writer()?;
        writer.header_changed();
        runs.into_iter().for_each(|run| writer.free(run, Discard::Request));
        self.flush()
    }

    /// Writes a new directory, and notes in the header (in memory) where it is. The result is what the former one held.
    fn replace_directory(&mut self, entries: &[Bitmap], geometry: Geometry) -> Result<Option<Run>> {
        let mut pointer = None;
        if !entries.is_empty() {
            let directory = directory::to_bytes(entries);
            if directory.len() as u64 > directory::DIRECTORY_BYTES_MAX {
                return Err(Error::invalid("Not enough space in the bitmap directory"));
            }
            let (len, place) = (directory.len() as u64, self.write_new_table(&directory, geometry)?);
            self.writer()?.refcounts.protect(place, len, MetadataKind::BitmapDirectory);
            let count = entries.len() as u32;
            pointer = Some(BitmapsPointer { count, directory_size: len, directory_offset: place.0 });
        }
        let old = std::mem::replace(&mut self.header.bitmaps, pointer);
        self.header.autoclear &= !autoclear::BITMAPS;
        if pointer.is_some() {
            self.header.autoclear |= autoclear::BITMAPS;
        }
        let Some(old) = old else { return Ok(None) };
        let offset = HostOffset(old.directory_offset);
        self.writer()?.refcounts.unprotect(offset, MetadataKind::BitmapDirectory);
        Ok(Some(Run::of_bytes(geometry, offset, old.directory_size)))
    }

    /// Writes the bits and the table of a new bitmap.
    fn new_bitmap(&mut self, info: &BitmapInfo, bits: &[u8]) -> Result<Bitmap> {
        let geometry = self.header.geometry();
        let mut bitmap = Bitmap {
            table_offset: 0,
            table_size: 0,
            in_use: false,
            auto: info.flags.contains(&"auto"),
            granularity_bits: info.granularity.trailing_zeros(),
            name: text::to_bytes(&info.name),
        };
        bitmap.table_size = data::table_len(geometry, &bitmap, self.header.guest_size())?;
        let table = data::store_new(self, geometry, &bitmap, bits)?;
        bitmap.table_offset = self.write_new_table(&table, geometry)?.0;
        Ok(bitmap)
    }

    /// The number of the bitmap called `name`.
    fn position(&self, name: &str) -> Result<usize> {
        let name = text::to_bytes(name);
        let found = self.bitmaps.entries.iter().position(|bitmap| bitmap.name == name);
        found.ok_or_else(|| Error::not_found("Bitmap not found"))
    }

    /// See [`Bitmaps::check_room`].
    fn check_room(&self, present: &[&BitmapInfo], bitmap: &BitmapInfo) -> Result<()> {
        let name = text::to_bytes(&bitmap.name);
        let order = bitmap.granularity.trailing_zeros();
        let size = self.header.guest_size();
        if name.len() > directory::NAME_MAX {
            let max = directory::NAME_MAX;
            return Err(Error::invalid(format!("Name length exceeds maximum ({max} characters)")));
        }
        if name.is_empty() || !directory::GRANULARITY_BITS.contains(&order) {
            return Err(Error::invalid(format!("Bitmap '{}' doesn't satisfy the constraints", bitmap.name)));
        }
        if size == 0 {
            // Its table would have no entries, which the format does not allow; the reference does not open such images.
            return Err(Error::invalid("The disk has no bytes"));
        }
        if !directory::has_room(self.header.geometry(), size, order) {
            return Err(Error::invalid("Too much space will be occupied by the bitmap. Use larger granularity"));
        }
        if present.len() as u64 >= u64::from(directory::BITMAPS_MAX) {
            return Err(Error::invalid("Maximum number of persistent bitmaps is already reached"));
        }
        let all = present.iter().copied().chain([bitmap]);
        if all.map(|info| directory::entry_len(&info.name)).sum::<u64>() > directory::DIRECTORY_BYTES_MAX {
            return Err(Error::invalid("Not enough space in the bitmap directory"));
        }
        Ok(())
    }

    /// Writes metadata to free clusters; nothing refers to it yet.
    fn write_new_table(&mut self, bytes: &[u8], geometry: Geometry) -> Result<HostOffset> {
        let writer = self.writer()?;
        let offset = writer.refcounts.allocate(geometry.clusters(bytes.len() as u64))?.offset;
        writer.write_new(offset, bytes)?;
        Ok(offset)
    }
}

impl Bitmaps for Qcow2 {
    fn list(&self) -> Vec<BitmapInfo> {
        self.meta().bitmaps.list()
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let meta = self.meta();
        let index = meta.position(name)?;
        if let Some((_, bits)) = meta.bitmaps.recording.iter().find(|(recorded, _)| *recorded == index) {
            return Ok(bits.clone());
        }
        let bitmap = &meta.bitmaps.entries[index];
        data::read(&*self.file, self.geometry, bitmap, meta.header.guest_size())
    }

    fn add(&self, bitmap: &BitmapInfo, bits: Vec<u8>) -> Result<()> {
        let present = self.list();
        self.meta().check_room(&present.iter().collect::<Vec<_>>(), bitmap)?;
        if present.iter().any(|other| other.name == bitmap.name) {
            return Err(Error::invalid(format!("Bitmap already exists: {}", bitmap.name)));
        }
        let mut all: Vec<_> = present.into_iter().map(|info| BitmapChange { info, bits: None }).collect();
        all.push(BitmapChange { info: bitmap.clone(), bits: Some(bits) });
        self.replace(&all)
    }

    fn check_room(&self, present: &[&BitmapInfo], bitmap: &BitmapInfo) -> Result<()> {
        self.meta().check_room(present, bitmap)
    }

    fn replace(&self, bitmaps: &[BitmapChange]) -> Result<()> {
        let mut meta = self.meta();
        let result = meta.replace_bitmaps(&self.file, bitmaps);
        meta.guard(result)
    }
}

#[cfg(test)]
mod tests;
