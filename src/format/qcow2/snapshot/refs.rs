//! Counting references up and down, and keeping the flags that say "refcount is exactly one".
//!
//! Tables are walked as [`super::reach`] says, and refcounts are changed by runs of clusters; so neither memory nor system
//! calls grow with the number of clusters.

use std::ops::Range;
use std::sync::Arc;

use super::reach::{PIECE, Tables, clusters_in_row, collect_runs};
use crate::error::{Error, Result};
use crate::format::qcow2::Meta;
use crate::format::qcow2::entry::{L2Entry, Mapping};
use crate::format::qcow2::geometry::{Geometry, HostOffset};
use crate::format::qcow2::refcount::{MetadataKind, Run};
use crate::format::qcow2::row::{set_copied, word};
use crate::format::qcow2::txn::{Discard, Writer};
use crate::storage::Storage;

/// Runs of clusters that are given up before they are brought to the disk.
const RUNS_MAX: usize = 256 << 10;

/// The tables of an image while its references change.
pub struct References<'a> {
    /// Refcounts and the order of writes.
    pub meta: &'a mut Meta,
    /// The image file.
    pub file: &'a Arc<dyn Storage>,
    /// Its layout.
    pub geometry: Geometry,
}

impl References<'_> {
    /// Fails where [`References::add`] would, as far as that can be told before anything is changed.
    pub fn check(&mut self, tables: &Tables) -> Result<()> {
        let geometry = self.geometry;
        let mut runs = Vec::new();
        self.walk(tables, |writer, offset, bytes| {
            check_place(writer, offset, geometry)?;
            collect_runs(geometry, offset, bytes, &mut runs)?;
            runs.iter().try_for_each(|run| writer.refcounts.check_increase(*run))?;
            Ok(false)
        })
    }

    /// Fails where something that `tables` refer to counts as free: what is allocated next could destroy it.
    pub fn check_used(&mut self, tables: &Tables) -> Result<()> {
        let geometry = self.geometry;
        let mut runs = Vec::new();
        self.walk(tables, |writer, offset, bytes| {
            collect_runs(geometry, offset, bytes, &mut runs)?;
            runs.iter().try_for_each(|run| writer.refcounts.check_used(*run))?;
            Ok(false)
        })
    }

    /// Adds one reference to each of `tables` and to every cluster they refer to. On an error nothing is changed, unless
    /// taking back fails, too; then there are leaks.
    pub fn add(&mut self, tables: &Tables) -> Result<()> {
        let mut done = 0;
        let geometry = self.geometry;
        let mut runs = Vec::new();
        let result = self.walk(tables, |writer, offset, bytes| {
            check_place(writer, offset, geometry)?;
            collect_runs(geometry, offset, bytes, &mut runs)?;
            for (index, run) in runs.iter().enumerate() {
                if let Err(error) = writer.refcounts.increase_used(*run) {
                    runs[..index].iter().try_for_each(|run| writer.refcounts.decrease(*run, |_| ()))?;
                    return Err(error);
                }
            }
            done += 1;
            Ok(false)
        });
        if result.is_err() {
            // The first error is the one to report.
            let _ = self.take_back(&tables.first(done));
        }
        result
    }

    /// Undoes [`References::add`], when no table on disk relies on it yet.
    pub fn take_back(&mut self, tables: &Tables) -> Result<()> {
        let geometry = self.geometry;
        let mut runs = Vec::new();
        self.walk(tables, |writer, offset, bytes| {
            collect_runs(geometry, offset, bytes, &mut runs)?;
            runs.iter().try_for_each(|run| writer.refcounts.decrease(*run, |_| ()))?;
            Ok(false)
        })
    }

    /// Gives up one reference to each of `tables` and to every cluster they refer to. Nothing on disk may lead to them
    /// any more. Space that becomes free goes back to the file system.
    pub fn give_up(&mut self, tables: &Tables) -> Result<()> {
        let geometry = self.geometry;
        let (mut runs, mut pending) = (Vec::new(), 0);
        tables.read(&**self.file, geometry, |_, offset, bytes| {
            collect_runs(geometry, offset, bytes, &mut runs)?;
            pending += runs.len();
            let writer = self.meta.writer()?;
            runs.iter().for_each(|run| writer.free(*run, Discard::Snapshot));
            if pending >= RUNS_MAX {
                self.meta.commit()?;
                pending = 0;
            }
            Ok(())
        })?;
        self.meta.commit()
    }

    /// Gives up one reference to each of `tables` and to every cluster they refer to, where others are left. Returns the
    /// other clusters, which are to be given up later; fails with `ENOSPC` where those are more than `most` runs.
    pub fn give_up_shared(&mut self, tables: &Tables, most: usize) -> Result<Vec<Run>> {
        let geometry = self.geometry;
        let mut kept: Vec<Run> = Vec::new();
        let mut runs = Vec::new();
        self.walk(tables, |writer, offset, bytes| {
            collect_runs(geometry, offset, bytes, &mut runs)?;
            for run in &runs {
                writer.refcounts.decrease_shared(*run, |piece| match kept.last_mut() {
                    Some(last) if last.end() == piece.first => last.clusters += piece.clusters,
                    _ => kept.push(piece),
                })?;
            }
            if kept.len() > most { Err(Error::os(libc::ENOSPC)) } else { Ok(false) }
        })?;
        Ok(kept)
    }

    /// Adds one reference, for a snapshot, to each of the active `tables` and to every cluster they refer to. Those that say
    /// of a cluster that its refcount is exactly one stay as they are and get no reference: the new ones that are written
    /// beside them have both. Returns where those old and new ones lie.
    pub fn share(&mut self, tables: &Tables) -> Result<Vec<(HostOffset, HostOffset)>> {
        let geometry = self.geometry;
        let stride = geometry.l2_entry_size() as usize;
        let mut runs = Vec::new();
        let mut copies = Copies { bits: geometry.cluster_bits, moved: Vec::new(), batch: Batch::default() };
        self.walk(tables, |writer, offset, bytes| {
            check_place(writer, offset, geometry)?;
            collect_runs(geometry, offset, bytes, &mut runs)?;
            if set_copied(bytes, stride, false) {
                // The first one begins with the table itself.
                runs[0] = Run { first: runs[0].first + 1, clusters: runs[0].clusters - 1 };
                copies.add(writer, offset, bytes, 2)?;
            }
            runs.iter().try_for_each(|run| writer.refcounts.increase_used(*run))?;
            Ok(false)
        })?;
        copies.finish(self.meta.writer()?)
    }

    /// Writes copies with the right flags of those active `tables` in which they are wrong, and returns where the old and
    /// the new ones lie.
    pub fn rewrite(&mut self, tables: &Tables) -> Result<Vec<(HostOffset, HostOffset)>> {
        let geometry = self.geometry;
        let mut copies = Copies { bits: geometry.cluster_bits, moved: Vec::new(), batch: Batch::default() };
        self.walk(tables, |writer, offset, bytes| {
            check_place(writer, offset, geometry)?;
            if renew_table(writer, geometry, bytes)? {
                copies.add(writer, offset, bytes, 1)?;
            }
            // The old one stays as it is.
            Ok(false)
        })?;
        copies.finish(self.meta.writer()?)
    }

    /// Says in `tables` that no cluster has a refcount of exactly one.
    pub fn clear_copied(&mut self, tables: &Tables) -> Result<()> {
        let stride = self.geometry.l2_entry_size() as usize;
        self.walk(tables, |_, _, bytes| Ok(set_copied(bytes, stride, false)))
    }

    /// Makes the flags right in the tables of the active L1 table and in that table itself, which still has to be
    /// committed.
    pub fn renew_copied(&mut self) -> Result<()> {
        let geometry = self.geometry;
        let tables = Tables::of(self.meta.l1.entries(), geometry)?;
        self.walk(&tables, |writer, offset, bytes| {
            check_place(writer, offset, geometry)?;
            renew_table(writer, geometry, bytes)
        })?;
        for index in 0..self.meta.l1.len() as u64 {
            let entry = self.meta.l1.get(index);
            let Some(table) = entry.table() else { continue };
            let copied = self.meta.writer()?.refcounts.get(table.0 >> geometry.cluster_bits)? == 1;
            if copied != entry.copied() {
                self.meta.l1.set(index, entry.with_copied(copied));
            }
        }
        Ok(())
    }

    /// Shows every table to `visit`, which says whether it changed it; what was changed is written.
    fn walk(
        &mut self,
        tables: &Tables,
        mut visit: impl FnMut(&mut Writer, HostOffset, &mut [u8]) -> Result<bool>,
    ) -> Result<()> {
        let cluster = self.geometry.cluster_size();
        let writer = self.meta.writer()?;
        let mut buffer = Vec::new();
        for piece in tables.pieces(cluster) {
            let tables = tables.load(piece, &**self.file, cluster, &mut buffer)?;
            let mut changed: Option<Range<usize>> = None;
            for (index, (offset, bytes)) in tables.iter().zip(buffer.chunks_exact_mut(cluster as usize)).enumerate() {
                if visit(writer, *offset, bytes)? {
                    let start = changed.map_or(index, |range| range.start);
                    changed = Some(start..index + 1);
                }
            }
            if let Some(range) = changed {
                let bytes = &buffer[range.start * cluster as usize..range.end * cluster as usize];
                writer.write_flags(tables[range.start], bytes)?;
            }
        }
        Ok(())
    }
}

/// Tables beside which new ones are written.
struct Copies {
    bits: u32,
    /// Where the old and the new ones lie.
    moved: Vec<(HostOffset, HostOffset)>,
    batch: Batch,
}

impl Copies {
    /// Gives the new form of `table` a place of its own, to which `references` lead. One that several entries refer to
    /// comes several times in a row, and is written once.
    fn add(&mut self, writer: &mut Writer, table: HostOffset, bytes: &[u8], references: u64) -> Result<()> {
        let again = self.moved.last().filter(|(old, _)| *old == table).map(|(_, new)| *new);
        let (new, counted) = match again {
            Some(new) => (new, 0),
            None => {
                let new = writer.refcounts.allocate(1)?.offset;
                self.moved.push((table, new));
                self.batch.add(writer, new, bytes)?;
                (new, 1)
            }
        };
        let run = Run { first: new.0 >> self.bits, clusters: 1 };
        (counted..references).try_for_each(|_| writer.refcounts.increase_used(run))
    }

    /// Writes what is left, and returns where the old and the new ones lie.
    fn finish(mut self, writer: &mut Writer) -> Result<Vec<(HostOffset, HostOffset)>> {
        self.batch.write(writer)?;
        Ok(self.moved)
    }
}

/// New tables that lie one behind the other, to be written with one request.
#[derive(Default)]
struct Batch {
    start: u64,
    bytes: Vec<u8>,
}

impl Batch {
    fn add(&mut self, writer: &mut Writer, place: HostOffset, table: &[u8]) -> Result<()> {
        let end = self.start + self.bytes.len() as u64;
        if self.bytes.len() as u64 >= PIECE || end != place.0 {
            self.write(writer)?;
            self.start = place.0;
        }
        self.bytes.extend_from_slice(table);
        Ok(())
    }

    fn write(&mut self, writer: &mut Writer) -> Result<()> {
        if !self.bytes.is_empty() {
            writer.write_new_soon(HostOffset(self.start), &self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }
}

/// Refuses tables in the place of other metadata, which would be destroyed by setting flags.
fn check_place(writer: &Writer, table: HostOffset, geometry: Geometry) -> Result<()> {
    writer.refcounts.check_own(table, geometry.cluster_size(), MetadataKind::ActiveL2)
}

/// Makes the flags of one table right; says whether it was changed.
fn renew_table(writer: &mut Writer, geometry: Geometry, bytes: &mut [u8]) -> Result<bool> {
    let stride = geometry.l2_entry_size() as usize;
    let mut changed = false;
    let mut at = 0;
    while at < bytes.len() {
        let entries = &mut bytes[at..];
        let Some(first) = cluster_of(geometry, entries)? else {
            at += stride;
            continue;
        };
        // Entries that follow each other on the host, too, share one look at the refcounts.
        let len = clusters_in_row(geometry, entries);
        let (count, len) = writer.refcounts.get_run(first, len as u64)?;
        let len = len as usize * stride;
        changed |= set_copied(&mut entries[..len], stride, count == 1);
        at += len;
    }
    Ok(changed)
}

/// The number of the host cluster of an entry to which the flag applies.
fn cluster_of(geometry: Geometry, entry: &[u8]) -> Result<Option<u64>> {
    Ok(match (L2Entry { raw: word(entry), bitmap: 0 }).mapping(geometry)? {
        Mapping::Normal(host) | Mapping::Zero(Some(host)) => Some(host.0 >> geometry.cluster_bits),
        Mapping::Unallocated | Mapping::Zero(None) | Mapping::Compressed(_) => None,
    })
}
