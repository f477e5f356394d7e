//! A disk that gets larger.

use std::sync::atomic::Ordering;

use super::*;
use crate::format::qcow2::Meta;
use crate::format::qcow2::entry::L2Entry;
use crate::format::qcow2::refcount::{MetadataKind, Run};
use crate::format::qcow2::txn::Discard;
use crate::storage::Storage;

impl Qcow2 {
    pub(super) fn grow_disk(&self, old: u64, resize: &Resize<'_>) -> Result<()> {
        {
            let mut meta = self.meta();
            check_growth(&meta.header, resize)?;
            let external = self.geometry.external_data;
            if external {
                extend_data_file(&*self.data, resize.size, resize.preallocation)?;
            }
            let prepared = meta.cut_beyond(&self.file, old).and_then(|()| meta.grow_l1(resize.size));
            meta.guard(prepared)?;
        }
        // What happens behind the end of the disk is no write by a guest, and not for bitmaps to record.
        let bitmaps = std::mem::take(&mut self.meta().bitmaps);
        self.size.store(resize.size, Ordering::Release);
        // Zeros over a backing file are flags at places that are there already; all else goes before what is reserved.
        let filled = if resize.covers_backing && resize.preallocation == Preallocation::Metadata {
            self.preallocate(old, resize).and_then(|()| (resize.blank)())
        } else {
            (resize.blank)().and_then(|()| self.preallocate(old, resize))
        };
        let mut meta = self.meta();
        meta.bitmaps = bitmaps;
        let filled = filled.and_then(|()| meta.flush());
        drop(meta);
        let grown = filled.and_then(|()| self.publish_size(old, resize.size));
        if grown.is_err() {
            self.size.store(old, Ordering::Release);
        }
        grown
    }

    /// Gives clusters from the end of the disk on their places.
    fn preallocate(&self, old: u64, resize: &Resize<'_>) -> Result<()> {
        let geometry = self.geometry;
        let mode = match resize.preallocation {
            // A raw data file is complete, so every cluster of it is mapped.
            Preallocation::Off if self.meta().header.data_file_raw() => Preallocation::Metadata,
            mode => mode,
        };
        if mode == Preallocation::Off {
            return Ok(());
        }
        if !geometry.external_data {
            mode.check(&*self.file).context(|| "Failed to resize underlying file")?;
        }
        let (mut at, end) = (geometry.clusters(old), geometry.clusters(resize.size));
        let mut meta = self.meta();
        // What was used before could show.
        let file_end = geometry.clusters(self.file.len()?);
        meta.writer()?.refcounts.allocate_from(file_end);
        while at < end {
            let stop = end.min((at / geometry.l2_entries() + 1) * geometry.l2_entries());
            let placed = self.place_clusters(&mut meta, at, stop, mode);
            meta.guard(placed)?;
            at = stop;
        }
        Ok(())
    }

    /// Gives the guest clusters `from..to`, which one L2 table maps, places in a row.
    fn place_clusters(&self, meta: &mut Meta, from: u64, to: u64, mode: Preallocation) -> Result<()> {
        let geometry = self.geometry;
        let table = meta.writable_table(geometry, from / geometry.l2_entries())?;
        let host = if geometry.external_data {
            HostOffset(from << geometry.cluster_bits)
        } else {
            let len = self.file.len()?;
            let host = meta.writer()?.refcounts.allocate(to - from)?.offset;
            if let Err(error) = take_space(&*self.file, host, (to - from) << geometry.cluster_bits, mode) {
                let run = Run { first: host.0 >> geometry.cluster_bits, clusters: to - from };
                let _ = meta.writer().and_then(|writer| writer.give_back(run));
                // Nobody refers to what lies behind the former end; a disk that is full is not left so.
                if host.0 >= len && !self.file.limits().fixed_len {
                    let _ = self.file.set_len(len);
                }
                return Err(error);
            }
            host
        };
        let zero = self.unwritten_shows() && meta.header.version >= 3;
        let entry = |host| new_entry(geometry, host, mode, zero);
        for (number, cluster) in (from..to).enumerate() {
            let place = HostOffset(host.0 + ((number as u64) << geometry.cluster_bits));
            meta.l2.get(table)?.set(cluster % geometry.l2_entries(), entry(place));
        }
        meta.writer()?.payload_written();
        meta.commit()
    }

    /// Whether clusters that were never written would read as something else than zeros.
    fn unwritten_shows(&self) -> bool {
        !self.geometry.external_data && (self.crypt.is_some() || !self.data.limits().zero_init)
    }
}

/// The entry of a cluster that has been placed in advance. `zero`: what lies there must not show.
fn new_entry(geometry: Geometry, host: HostOffset, mode: Preallocation, zero: bool) -> L2Entry {
    let all = u64::from(u32::MAX);
    match (geometry.extended_l2, zero) {
        (false, false) => L2Entry::normal(host, true),
        (false, true) => L2Entry::zero(Some(host), true),
        (true, true) => L2Entry { bitmap: all << 32, ..L2Entry::normal(host, true) },
        (true, false) if mode.takes_space() => L2Entry { bitmap: all, ..L2Entry::normal(host, true) },
        (true, false) => L2Entry::normal(host, true),
    }
}

fn take_space(file: &dyn Storage, host: HostOffset, len: u64, mode: Preallocation) -> Result<()> {
    if mode.takes_space() {
        return mode.take(file, host.0, len).context(|| "Failed to resize underlying file");
    }
    // Tables must not lead behind the end of the file.
    if file.limits().fixed_len || file.len()? >= host.0 + len { Ok(()) } else { file.set_len(host.0 + len) }
}

/// An external data file has exactly the length of the disk.
pub fn extend_data_file(data: &dyn Storage, size: u64, mode: Preallocation) -> Result<()> {
    mode.check(data)?;
    let len = data.len()?;
    if mode.takes_space() && len < size {
        return mode.take(data, len, size - len);
    }
    if data.limits().fixed_len && len >= size { Ok(()) } else { data.set_len(size) }
}

impl Meta {
    /// Makes the L1 table long enough for a disk of `size` bytes: a copy of it, to which the header switches.
    fn grow_l1(&mut self, size: u64) -> Result<()> {
        let geometry = self.header.geometry();
        // Checked against the longest table there can be.
        let entries = geometry.l1_entries(size) as usize;
        if entries <= self.l1.len() {
            return Ok(());
        }
        self.commit()?;
        let mut longer = std::mem::take(&mut self.l1);
        let before = longer.len();
        longer.grow(entries);
        let bytes = longer.to_bytes(0..entries);
        let place = self.place_table(&bytes);
        self.l1 = longer;
        let place = match place {
            Ok(place) => place,
            Err(error) => {
                self.l1.shorten(before);
                return Err(error);
            }
        };
        let old = HostOffset(self.header.l1_offset);
        let old_len = u64::from(self.header.l1_size) * 8;
        self.header.l1_offset = place.0;
        self.header.l1_size = entries as u32;
        let writer = self.writer()?;
        writer.refcounts.unprotect(old, MetadataKind::ActiveL1);
        writer.refcounts.protect(place, bytes.len() as u64, MetadataKind::ActiveL1);
        writer.free(Run::of_bytes(geometry, old, old_len), Discard::Request);
        writer.header_changed();
        self.commit()
    }

    /// Writes a table to new clusters; nothing refers to it yet.
    pub(super) fn place_table(&mut self, bytes: &[u8]) -> Result<HostOffset> {
        let geometry = self.header.geometry();
        let writer = self.writer()?;
        let clusters = geometry.clusters(bytes.len() as u64);
        let place = writer.refcounts.allocate(clusters)?.offset;
        if let Err(error) = writer.write_new(place, bytes) {
            let _ = writer.give_back(Run { first: place.0 >> geometry.cluster_bits, clusters });
            return Err(error);
        }
        Ok(place)
    }
}
