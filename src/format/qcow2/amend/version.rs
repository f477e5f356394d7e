//! From version 2 to version 3 and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::format::qcow2::Meta;
use crate::format::qcow2::entry::{L1Entry, L2Entry, Mapping, at_entry};
use crate::format::qcow2::geometry::{Geometry, HostOffset};
use crate::format::qcow2::header::incompatible;
use crate::format::qcow2::refcount::{MetadataKind, Run, hex};
use crate::format::qcow2::snapshot::{read_snapshot_l1, write_snapshot_table};
use crate::format::qcow2::txn::Discard;
use crate::storage::Storage;

/// Bytes of changed L2 tables that are gathered before they are written.
const BATCH: usize = 4 << 20;

/// Refuses an image that needs version 3. `refcount_order` is the one it will have.
pub(super) fn check_downgrade(header: &Header, refcount_order: u32) -> Result<()> {
    if refcount_order != 4 {
        return Err(Error::unsupported("compat=0.10 requires refcount_bits=16"));
    }
    if header.has_data_file() {
        return Err(Error::unsupported("Cannot downgrade an image with a data file"));
    }
    let features = header.incompatible & !incompatible::DIRTY;
    if features != 0 {
        let text = format!("Cannot downgrade an image with incompatible features {features:#x} set");
        return Err(Error::unsupported(text));
    }
    Ok(())
}

impl Qcow2 {
    /// Version 3: a larger header, and snapshots that state their sizes.
    pub(super) fn upgrade(&self) -> Result<()> {
        let mut meta = self.meta();
        let upgraded = meta.switch_version(|header| header.version = 3);
        meta.guard(upgraded)
    }

    /// Version 2: no clusters that read as zeros by a flag, no bitmaps, no features.
    pub(super) fn downgrade(&self) -> Result<()> {
        let mut meta = self.meta();
        let size = meta.header.guest_size();
        // Version 2 has one size for all of them.
        let other = |disk: Option<u64>| disk.is_some_and(|disk| disk != size);
        if meta.snapshots.entries.iter().any(|one| other(one.disk_size) || one.vm_state_size > u64::from(u32::MAX)) {
            return Err(Error::unsupported("Internal snapshots prevent downgrade of image"));
        }
        let expanded = self.expand_zeros(&mut meta).context(|| "Failed to turn zero into data clusters");
        let downgraded = expanded.and_then(|()| {
            meta.remove_all_bitmaps(&self.file)?;
            meta.switch_version(|header| {
                (header.version, header.incompatible, header.compatible, header.autoclear) = (2, 0, 0, 0);
                header.unknown_fields.clear();
            })
        });
        meta.guard(downgraded)
    }

    /// Gives zero clusters places with zeros in them, or no place where nothing lies below the image.
    fn expand_zeros(&self, meta: &mut Meta) -> Result<()> {
        meta.flush()?;
        meta.l2.clear();
        let geometry = self.geometry;
        let mut l1s = vec![meta.l1.entries().to_vec()];
        for snapshot in &meta.snapshots.entries {
            l1s.push(read_snapshot_l1(&*self.file, snapshot, geometry)?.entries().to_vec());
        }
        let mut changed: Vec<(HostOffset, Vec<u8>)> = Vec::new();
        for (table, guest) in tables(&l1s, geometry)? {
            let mut bytes = vec![0; geometry.cluster_size() as usize];
            self.file.read_at(&mut bytes, table.0)?;
            if self.expand_table(meta, table, guest, &mut bytes)? {
                changed.push((table, bytes));
            }
            if changed.len() << geometry.cluster_bits >= BATCH {
                meta.write_tables(&self.file, &mut changed)?;
            }
        }
        meta.write_tables(&self.file, &mut changed)
    }

    /// The same in one table, which maps from the offset `guest` on. Says whether it was changed.
    fn expand_table(&self, meta: &mut Meta, table: HostOffset, guest: u64, bytes: &mut [u8]) -> Result<bool> {
        let geometry = self.geometry;
        let uses = meta.writer()?.refcounts.get(table.0 >> geometry.cluster_bits)?.max(1);
        let backed = meta.header.backing_file.is_some();
        let mut changed = false;
        for (number, word) in (0..).zip(bytes.chunks_exact_mut(8)) {
            let raw = u64::from_be_bytes((&*word).try_into().expect("eight bytes"));
            let mapping = (L2Entry { raw, bitmap: 0 })
                .mapping(geometry)
                .map_err(|error| Error::fatal_corruption(at_entry(error, table, number)))?;
            let Mapping::Zero(place) = mapping else { continue };
            let guest = guest + (number << geometry.cluster_bits);
            let entry = self.expand_entry(meta, place, guest, uses, backed)?;
            word.copy_from_slice(&entry.raw.to_be_bytes());
            changed = true;
        }
        Ok(changed)
    }

    /// What becomes of a zero cluster whose table is used `uses` times.
    fn expand_entry(
        &self,
        meta: &mut Meta,
        place: Option<HostOffset>,
        guest: u64,
        uses: u64,
        backed: bool,
    ) -> Result<L2Entry> {
        let geometry = self.geometry;
        let writer = meta.writer()?;
        if let Some(host) = place {
            if writer.refcounts.get(host.0 >> geometry.cluster_bits)? == uses {
                self.write_zero_cluster(meta, guest, host)?;
                return Ok(L2Entry::normal(host, uses == 1));
            }
            // Somebody else sees other bytes there.
            (0..uses).for_each(|_| writer.free(Run::of_bytes(geometry, host, 1), Discard::Request));
        }
        if !backed {
            return Ok(L2Entry::default());
        }
        let host = writer.refcounts.allocate(1)?.offset;
        let run = Run::of_bytes(geometry, host, 1);
        (1..uses).try_for_each(|_| writer.refcounts.increase_used(run))?;
        self.write_zero_cluster(meta, guest, host)?;
        Ok(L2Entry::normal(host, uses == 1))
    }

    fn write_zero_cluster(&self, meta: &mut Meta, guest: u64, host: HostOffset) -> Result<()> {
        let mut zeros = vec![0; self.geometry.cluster_size() as usize];
        if let Some(crypt) = &self.crypt {
            crypt.encrypt(guest, host.0, &mut zeros)?;
        }
        self.file.write_at(&zeros, host.0)?;
        meta.writer()?.payload_written();
        Ok(())
    }
}

/// All L2 tables, each once, with the guest offset from which on it maps.
fn tables(l1s: &[Vec<L1Entry>], geometry: Geometry) -> Result<BTreeMap<HostOffset, u64>> {
    let mut tables = BTreeMap::new();
    for l1 in l1s {
        for (index, table) in (0..).zip(l1).filter_map(|(index, entry)| Some((index, entry.table()?))) {
            if geometry.in_cluster(table.0) != 0 {
                let text = format!("L2 table offset {:#x} unaligned (L1 index: {})", table.0, hex(index));
                return Err(Error::fatal_corruption(text));
            }
            tables.entry(table).or_insert(index * geometry.l2_span());
        }
    }
    Ok(tables)
}

impl Meta {
    /// Writes tables in their places, after everything they lead to.
    fn write_tables(&mut self, file: &Arc<dyn Storage>, tables: &mut Vec<(HostOffset, Vec<u8>)>) -> Result<()> {
        if tables.is_empty() {
            return Ok(());
        }
        // Clusters that are given up stay counted until the tables are on the disk.
        let given_up = self.writer()?.take_deferred();
        self.make_durable()?;
        for (offset, bytes) in tables.drain(..) {
            self.writer()?.refcounts.check_own(offset, bytes.len() as u64, MetadataKind::ActiveL2)?;
            file.write_at(&bytes, offset.0)?;
        }
        let writer = self.writer()?;
        writer.payload_written();
        writer.put_deferred(given_up);
        self.flush()
    }

    /// Changes the header, and writes the snapshots in the form of the new version, before the header leads there.
    fn switch_version(&mut self, change: impl FnOnce(&mut Header)) -> Result<()> {
        let geometry = self.header.geometry();
        let mut header = self.header.clone();
        change(&mut header);
        // Whether it still fits is known before anything happens.
        header.to_bytes()?;
        let old = Run::of_bytes(geometry, HostOffset(header.snapshots_offset), self.snapshots.bytes);
        if header.nb_snapshots > 0 {
            header.snapshots_offset = write_snapshot_table(self)?.0;
        }
        let (before, place) = (self.header.snapshots_offset, HostOffset(header.snapshots_offset));
        let len = self.snapshots.bytes;
        self.header = header;
        let writer = self.writer()?;
        if place.0 != before {
            writer.refcounts.unprotect(HostOffset(before), MetadataKind::SnapshotTable);
            writer.refcounts.protect(place, len, MetadataKind::SnapshotTable);
            writer.free(old, Discard::Request);
        }
        writer.header_changed();
        self.flush()
    }
}
