//! New images.
//!
//! Everything is checked before a file is touched ([`options::check`]). The image is then laid out like one that the
//! reference makes: header, refcount table, refcount block, L1 table, whatever is preallocated, the LUKS header. The
//! one difference: with `preallocation=falloc` or `full` the reference moves its refcount table behind the L1 table, and
//! puts L2 tables into what became free and behind the data; here each L2 table lies before the clusters that it maps,
//! as the reference does it with `preallocation=metadata`.

use std::sync::Arc;

use super::entry::{L1Entry, L2Entry};
use super::geometry::{Geometry, HostOffset};
use super::header::{CryptoPointer, Header, L1_BYTES_MAX};
use super::options::{self, NewImage};
use super::refcount::Refcounts;
use super::resize;
use crate::error::{Context, Error, Result};
use crate::format::{CreateRequest, protocol};
use crate::image::{check_create_storage, create_storage, plain_name};
use crate::storage::{FileRole, NewFile, Preallocation, Storage, ZeroMode};

/// Creates an image, and its data file if it has one. What was made is removed when this fails.
pub fn create(request: CreateRequest<'_>) -> Result<()> {
    let mut image = options::check(request.options, request.size, &request.context.secrets)?;
    check_size(&image.header)?;
    // What is said about preallocation is about the image, not about the file.
    let common = NewFile { preallocation: Preallocation::Off, ..protocol::new_file(&request, 0)? };
    if let Some(name) = &image.data_file {
        // Before an existing image is emptied.
        check_create_storage(name, &NewFile { role: FileRole::Data, ..common }, request.context)?;
    }
    let (file, guard) =
        create_storage(request.filename, &NewFile { role: FileRole::Metadata, ..common }, request.context)?;
    if file.limits().fixed_len && file.is_empty()? {
        // The null device takes everything and keeps nothing.
        return Err(Error::invalid("Image is not in qcow2 format"));
    }
    let data = match &image.data_file {
        Some(name) => {
            // What the image records is the name of a file: whoever opens it reads no protocol out of it.
            image.header.data_file = Some(crate::text::to_bytes(&plain_name(name)?));
            Some(create_storage(name, &NewFile { role: FileRole::Data, ..common }, request.context)?)
        }
        None => None,
    };
    let (data, data_guard) = data.unzip();
    write_image(&file, data.as_ref(), image)?;
    for guard in data_guard.into_iter().chain([guard]) {
        guard.keep();
    }
    Ok(())
}

/// The virtual size must fit into the longest L1 table.
pub(super) fn check_size(header: &Header) -> Result<()> {
    let entries = header.geometry().l1_entries(header.size);
    if entries > L1_BYTES_MAX / 8 {
        return Err(Error::os(libc::EFBIG).context("Failed to grow the L1 table").context("Could not resize image"));
    }
    Ok(())
}

/// Writes a new image into an empty storage, or onto a device whatever it held before.
pub fn write_image(file: &Arc<dyn Storage>, data: Option<&Arc<dyn Storage>>, image: NewImage) -> Result<()> {
    let NewImage { mut header, crypt, preallocation, .. } = image;
    check_size(&header)?;
    let geometry = header.geometry();
    let mut refcounts = first_refcounts(file, geometry)?;
    let entries = geometry.l1_entries(header.size);
    let mut l1 = vec![L1Entry::default(); entries as usize];
    if entries > 0 {
        header.l1_size = u32::try_from(entries).map_err(|_| Error::os(libc::EFBIG))?;
        header.l1_offset = refcounts.allocate(geometry.clusters(entries * 8))?.offset.0;
    }
    if let Some(data) = data {
        extend_data_file(&**data, header.size, preallocation).context(|| "Could not resize image")?;
    }
    if preallocation != Preallocation::Off {
        let mut preallocator = Preallocator { file, geometry, refcounts: &mut refcounts, mode: preallocation };
        preallocator.run(header.size, &mut l1).context(|| "Could not resize image")?;
    }
    if let Some(crypt) = crypt {
        let (bytes, _) = crypt.create()?;
        if crypt.header_len() > 0 {
            let offset = refcounts.allocate(geometry.clusters(crypt.header_len()))?.offset;
            header.crypto = Some(CryptoPointer { offset: offset.0, len: crypt.header_len() });
            // Zeros first: there may be anything on a device, and the unused key slots lie behind what is written.
            let region = geometry.clusters(crypt.header_len()) * geometry.cluster_size();
            file.zero(offset.0, region, ZeroMode::Discard).context(|| "Could not zero fill encryption header")?;
            write_cluster_padded(file, geometry, offset, &bytes)?;
        }
    }
    let l1_bytes: Vec<u8> = l1.iter().flat_map(|entry| entry.0.to_be_bytes()).collect();
    let l1_end = header.l1_offset + l1_bytes.len() as u64;
    if !l1_bytes.is_empty() {
        file.write_at(&l1_bytes, header.l1_offset)?;
    }
    refcounts.write_blocks()?;
    refcounts.write_table()?;
    for run in refcounts.take_table_before() {
        refcounts.decrease(run, |_| ())?;
    }
    refcounts.write_blocks()?;
    let (offset, clusters) = refcounts.table_place();
    header.refcount_table_offset = offset.0;
    header.refcount_table_clusters = u32::try_from(clusters).map_err(|_| Error::os(libc::EFBIG))?;
    write_cluster_padded(file, geometry, HostOffset(0), &header.to_bytes()?)?;
    set_end(&**file, geometry, &refcounts, l1_end)?;
    if let Some(data) = data {
        data.flush()?;
    }
    file.flush()
}

/// Header, refcount table and the first refcount block, each a cluster, with refcounts for all three.
fn first_refcounts(file: &Arc<dyn Storage>, geometry: Geometry) -> Result<Refcounts> {
    let cluster = geometry.cluster_size();
    // The header comes last; here it is the first thing for which there is no room.
    write_cluster_padded(file, geometry, HostOffset(0), &[]).context(|| "Could not write qcow2 header")?;
    write_cluster_padded(file, geometry, HostOffset(cluster), &(2 * cluster).to_be_bytes())
        .and_then(|()| write_cluster_padded(file, geometry, HostOffset(2 * cluster), &[]))
        .context(|| "Could not write refcount table")?;
    let mut refcounts = Refcounts::open(Arc::clone(file), geometry, HostOffset(cluster), 1)?;
    for used in 0..3 {
        refcounts.set(used, 1)?;
    }
    Ok(refcounts)
}

/// Writes bytes and zeros up to the end of their last cluster: a device may hold anything there.
fn write_cluster_padded(file: &Arc<dyn Storage>, geometry: Geometry, offset: HostOffset, bytes: &[u8]) -> Result<()> {
    let mut padded = bytes.to_vec();
    padded.resize((geometry.clusters(bytes.len() as u64).max(1) * geometry.cluster_size()) as usize, 0);
    file.write_at(&padded, offset.0)
}

/// The file ends with its last cluster; an L1 table at the end is not padded, as in the reference.
fn set_end(file: &dyn Storage, geometry: Geometry, refcounts: &Refcounts, l1_end: u64) -> Result<()> {
    let Some(end) = refcounts.new_end() else { return Ok(()) };
    let l1_is_last = geometry.clusters(l1_end) * geometry.cluster_size() == end;
    let end = if l1_is_last { l1_end } else { end };
    if !file.limits().fixed_len && file.len()? < end {
        file.set_len(end)?;
    }
    Ok(())
}

fn extend_data_file(data: &dyn Storage, size: u64, preallocation: Preallocation) -> Result<()> {
    // A device that is large enough stays as it is.
    let enough = data.limits().fixed_len && size <= data.len()?;
    if enough { Ok(()) } else { resize::extend_data_file(data, size, preallocation) }
}

/// Gives every guest cluster its place.
struct Preallocator<'a> {
    file: &'a Arc<dyn Storage>,
    geometry: Geometry,
    refcounts: &'a mut Refcounts,
    mode: Preallocation,
}

/// The circumstance of an error while metadata is preallocated.
const ALLOCATING: fn() -> &'static str = || "Allocating clusters failed";

impl Preallocator<'_> {
    fn run(&mut self, size: u64, l1: &mut [L1Entry]) -> Result<()> {
        let geometry = self.geometry;
        let clusters = geometry.clusters(size);
        for (number, entry) in (0..).zip(l1) {
            let first = number * geometry.l2_entries();
            let count = geometry.l2_entries().min(clusters - first);
            let table = self.refcounts.allocate(1).context(ALLOCATING)?.offset;
            let host = if geometry.external_data {
                HostOffset(first * geometry.cluster_size())
            } else {
                let host = self.refcounts.allocate(count).context(ALLOCATING)?.offset;
                self.take_space(host, count * geometry.cluster_size())?;
                host
            };
            self.write_table(table, host, count).context(ALLOCATING)?;
            *entry = L1Entry::new(table, true);
        }
        Ok(())
    }

    fn take_space(&self, host: HostOffset, len: u64) -> Result<()> {
        let file = &**self.file;
        let taken = self.mode.check(file).and_then(|()| self.mode.take(file, host.0, len));
        taken.context(|| "Failed to resize underlying file")
    }

    /// An L2 table of `count` clusters in a row. In images with subclusters the clusters are there, but none of their
    /// subclusters is, so that a backing file still shows.
    fn write_table(&self, table: HostOffset, host: HostOffset, count: u64) -> Result<()> {
        let mut bytes = Vec::new();
        for number in 0..count {
            let entry = L2Entry::normal(HostOffset(host.0 + number * self.geometry.cluster_size()), true);
            bytes.extend_from_slice(&entry.raw.to_be_bytes());
            if self.geometry.extended_l2 {
                bytes.extend_from_slice(&[0; 8]);
            }
        }
        write_cluster_padded(self.file, self.geometry, table, &bytes)
    }
}

#[cfg(test)]
#[path = "create_tests.rs"]
mod tests;
