//! After an operation: the file becomes no longer than it has to be.
//!
//! New tables are written beside the old ones, so that one write of the header switches to them. That can leave a table
//! alone at the end of the file, behind space that the operation has just given up.

use super::change::Change;
use crate::error::Result;
use crate::format::qcow2::geometry::HostOffset;
use crate::format::qcow2::header::crypt_method;
use crate::format::qcow2::refcount::{MetadataKind, Run};
use crate::format::qcow2::txn::Discard;

/// How often what lies at the end of the file is moved further down: what was moved first may have made room for more.
const ROUNDS: usize = 4;
/// Refcount blocks that are worth being written again for a shorter file.
const BLOCKS_MAX: usize = 64;

/// Which table moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    ActiveL1,
    Snapshots,
}

impl Change<'_> {
    /// Moves tables from the end of the file into free space below it, and cuts off the free end. What the operation
    /// did is on stable storage before.
    pub fn settle(&mut self) -> Result<()> {
        self.move_tables()?;
        // A kindness like every return of space: the operation is done, whether or not this works.
        let _ = self.meta().writer()?.cut_tail();
        Ok(())
    }

    /// Makes the refcount structures as small as they can be, and brings them and the tables as far down in the file as
    /// they can go. Pays where little is left that they count.
    pub fn settle_refcounts(&mut self) -> Result<()> {
        for _ in 0..ROUNDS {
            let empty = self.meta().writer()?.drop_empty_blocks()?;
            self.meta().flush()?;
            self.meta().writer()?.empty(&empty);
            let moved = self.move_tables()?;
            if !self.move_refcounts()? && !moved {
                break;
            }
        }
        let header = &self.meta().header;
        let only_ours = header.nb_snapshots == 0
            && header.bitmaps.is_none()
            && header.crypt_method != crypt_method::LUKS
            && header.unknown_extensions.is_empty();
        if only_ours {
            // All that is in such a file is known, so nobody loses what is not counted.
            let _ = self.meta().writer()?.cut_free();
        }
        Ok(())
    }

    /// Says whether any table has moved.
    fn move_tables(&mut self) -> Result<bool> {
        let mut moved = false;
        // Where refcounts cannot be read, nothing moves: the operation is done.
        let end = self.meta().writer()?.refcounts.used_end().unwrap_or_default();
        if let Some(mut end) = end {
            // The last one first; then the other one may be the last.
            let mut tables = [(self.l1_place(), Table::ActiveL1), (self.snapshots_place(), Table::Snapshots)];
            tables.sort_unstable_by_key(|(place, _)| std::cmp::Reverse(place.first));
            for (place, table) in tables {
                if place.clusters == 0 || place.end() != end || !self.move_down(table, place) {
                    break;
                }
                moved = true;
                end = place.first;
            }
        }
        if moved {
            self.meta().flush()?;
        }
        Ok(moved)
    }

    /// Says whether the refcount structures have moved: where they are the last in the file, and new ones have room below
    /// its end.
    fn move_refcounts(&mut self) -> Result<bool> {
        let geometry = self.geometry();
        let meta = self.meta();
        let refcounts = &mut meta.writer()?.refcounts;
        let Some(end) = refcounts.used_end()? else { return Ok(false) };
        let (table, blocks) = refcounts.places()?;
        if !blocks.iter().chain([&table]).any(|run| run.end() == end) {
            return Ok(false);
        }
        let needed = meta.needed_refcounts(geometry)?;
        let mut used = 0;
        meta.each_count(|_, _| {
            used += 1;
            Ok(())
        })?;
        let size = needed.blocks.len() as u64 + needed.table;
        if needed.blocks.len() > BLOCKS_MAX || end - used < size {
            return Ok(false);
        }
        meta.renew_refcounts(geometry)?;
        Ok(true)
    }

    fn l1_place(&mut self) -> Run {
        let geometry = self.geometry();
        let header = &self.meta().header;
        Run::of_bytes(geometry, HostOffset(header.l1_offset), u64::from(header.l1_size) * 8)
    }

    fn snapshots_place(&mut self) -> Run {
        let geometry = self.geometry();
        let meta = self.meta();
        Run::of_bytes(geometry, HostOffset(meta.header.snapshots_offset), meta.snapshots.bytes)
    }

    /// Writes a table to a place below `old`, and prepares the header for it. Says whether there was such a place; where
    /// anything fails, the table stays where it is.
    fn move_down(&mut self, table: Table, old: Run) -> bool {
        let meta = self.meta();
        let bytes = match table {
            Table::ActiveL1 => Ok(meta.l1.to_bytes(0..meta.l1.len())),
            Table::Snapshots => meta.snapshots.to_bytes(meta.header.guest_size()),
        };
        let Ok(new) = bytes.and_then(|bytes| self.write_below(&bytes, old)) else { return false };
        let Some(new) = new else { return false };
        let bits = self.geometry().cluster_bits;
        let (offset, len) = (HostOffset(new.first << bits), new.clusters << bits);
        let meta = self.meta();
        let Ok(writer) = meta.writer() else { return false };
        let kind = match table {
            Table::ActiveL1 => MetadataKind::ActiveL1,
            Table::Snapshots => MetadataKind::SnapshotTable,
        };
        writer.refcounts.unprotect(HostOffset(old.first << bits), kind);
        writer.refcounts.protect(offset, len, kind);
        writer.free(old, Discard::Snapshot);
        writer.header_changed();
        match table {
            Table::ActiveL1 => meta.header.l1_offset = offset.0,
            Table::Snapshots => meta.header.snapshots_offset = offset.0,
        }
        true
    }

    /// Writes to free clusters below `old`; `None` where there are none.
    fn write_below(&mut self, bytes: &[u8], old: Run) -> Result<Option<Run>> {
        let geometry = self.geometry();
        let writer = self.meta().writer()?;
        let Some(first) = writer.refcounts.free_below(old.clusters, old.first)? else { return Ok(None) };
        let place = Run { first, clusters: old.clusters };
        let offset = writer.refcounts.allocate(old.clusters)?.offset;
        debug_assert_eq!(offset.0 >> geometry.cluster_bits, first);
        if let Err(error) = writer.write_new(offset, bytes) {
            let _ = writer.give_back(place);
            return Err(error);
        }
        Ok(Some(place))
    }
}
