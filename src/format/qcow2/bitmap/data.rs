//! Bitmap tables and the bits they lead to. Specification: "Bitmap table", "Bitmap data".

use std::sync::Arc;

use super::directory::Bitmap;
use crate::error::{Context, Error, Result};
use crate::format::qcow2::Meta;
use crate::format::qcow2::geometry::{Geometry, HostOffset};
use crate::format::qcow2::refcount::Run;
use crate::storage::Storage;
use crate::text;

/// An entry of a bitmap table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct TableEntry(u64);

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const ALL_ONES: u64 = 1;

impl TableEntry {
    fn place(self) -> Option<HostOffset> {
        (self.0 & OFFSET != 0).then_some(HostOffset(self.0 & OFFSET))
    }

    fn is_sound(self, geometry: Geometry) -> bool {
        match self.place() {
            Some(place) => self.0 & !OFFSET == 0 && geometry.in_cluster(place.0) == 0,
            None => self.0 & !ALL_ONES == 0,
        }
    }
}

/// The number of table entries of a bitmap of a disk of `size` bytes.
pub fn table_len(geometry: Geometry, bitmap: &Bitmap, size: u64) -> Result<u32> {
    // A table is never empty, not even for an empty disk.
    let clusters = geometry.clusters(bitmap.bytes(size)).max(1);
    u32::try_from(clusters).map_err(|_| Error::os(libc::EFBIG))
}

/// Checks that a bitmap has the size of the disk, and that its table makes sense.
pub fn check(file: &dyn Storage, geometry: Geometry, bitmap: &Bitmap, size: u64) -> Result<()> {
    if table_len(geometry, bitmap, size)? != bitmap.table_size {
        // Which of two faults is named is the reference's choice.
        read_table(file, geometry, bitmap)?;
        let name = text::from_bytes(&bitmap.name);
        return Err(Error::os(libc::EINVAL).context(format!("Could not read bitmap '{name}' from image")));
    }
    // What lies behind the end of the file reads as zeros, which are sound.
    if bitmap.table_offset < file.len()? {
        read_table(file, geometry, bitmap)?;
    }
    Ok(())
}

fn read_table(file: &dyn Storage, geometry: Geometry, bitmap: &Bitmap) -> Result<Vec<TableEntry>> {
    let context =
        || format!("Could not read bitmap_table table from image for bitmap '{}'", text::from_bytes(&bitmap.name));
    let mut bytes = vec![0; bitmap.table_size as usize * 8];
    file.read_at(&mut bytes, bitmap.table_offset).context(context)?;
    let entry = |word: &[u8]| TableEntry(u64::from_be_bytes(word.try_into().expect("eight bytes")));
    let table: Vec<_> = bytes.chunks_exact(8).map(entry).collect();
    if table.iter().all(|entry| entry.is_sound(geometry)) {
        Ok(table)
    } else {
        Err(Error::os(libc::EINVAL).context(context()))
    }
}

/// The clusters in which the bits of a bitmap lie.
pub fn places(file: &dyn Storage, geometry: Geometry, bitmap: &Bitmap) -> Result<Vec<Run>> {
    let table = read_table(file, geometry, bitmap)?;
    Ok(table.iter().filter_map(|entry| Some(Run::of_bytes(geometry, entry.place()?, 1))).collect())
}

/// The bits of a bitmap; those behind the end of the disk are zero.
pub fn read(file: &dyn Storage, geometry: Geometry, bitmap: &Bitmap, size: u64) -> Result<Vec<u8>> {
    check(file, geometry, bitmap, size)?;
    let table = read_table(file, geometry, bitmap)?;
    // At most 512 MiB, as the directory's limits say.
    let mut bits = vec![0; bitmap.bytes(size) as usize];
    for (entry, part) in table.iter().zip(bits.chunks_mut(geometry.cluster_size() as usize)) {
        match entry.place() {
            Some(place) => file.read_at(part, place.0)?,
            None if entry.0 & ALL_ONES != 0 => part.fill(0xff),
            None => {}
        }
    }
    let used = size.div_ceil(1 << bitmap.granularity_bits) % 8;
    if let Some(last) = bits.last_mut().filter(|_| used != 0) {
        *last &= (1 << used) - 1;
    }
    Ok(bits)
}

/// Writes the bits of a bitmap that is marked as in use to its clusters, with new ones where there are none yet, and
/// returns its table as it has to be written next.
pub fn store(
    meta: &mut Meta,
    file: &Arc<dyn Storage>,
    geometry: Geometry,
    bitmap: &Bitmap,
    bits: &[u8],
) -> Result<Vec<u8>> {
    let table = read_table(&**file, geometry, bitmap)?;
    store_over(meta, geometry, &table, bits)
}

/// As [`store`], for a bitmap that is not in the image yet.
pub fn store_new(meta: &mut Meta, geometry: Geometry, bitmap: &Bitmap, bits: &[u8]) -> Result<Vec<u8>> {
    store_over(meta, geometry, &vec![TableEntry(0); bitmap.table_size as usize], bits)
}

fn store_over(meta: &mut Meta, geometry: Geometry, table: &[TableEntry], bits: &[u8]) -> Result<Vec<u8>> {
    let cluster = geometry.cluster_size() as usize;
    let mut out = Vec::with_capacity(table.len() * 8);
    for (index, old) in table.iter().enumerate() {
        let from = (index * cluster).min(bits.len());
        let part = &bits[from..(from + cluster).min(bits.len())];
        let entry = match old.place() {
            None if part.iter().all(|byte| *byte == 0) => TableEntry(0),
            place => {
                let writer = meta.writer()?;
                let place = match place {
                    Some(place) => place,
                    None => writer.refcounts.allocate(1)?.offset,
                };
                let mut whole = part.to_vec();
                whole.resize(cluster, 0);
                writer.write_new(place, &whole)?;
                TableEntry(place.0)
            }
        };
        out.extend_from_slice(&entry.0.to_be_bytes());
    }
    Ok(out)
}

/// The clusters that a bitmap holds: its table, and those of its bits.
pub fn clusters(file: &dyn Storage, geometry: Geometry, bitmap: &Bitmap) -> Result<Vec<Run>> {
    let table = Run::of_bytes(geometry, HostOffset(bitmap.table_offset), u64::from(bitmap.table_size) * 8);
    let places = read_table(file, geometry, bitmap)?;
    let bits = places.iter().filter_map(|entry| entry.place()).map(|place| Run::of_bytes(geometry, place, 1));
    Ok([table].into_iter().chain(bits).collect())
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;
