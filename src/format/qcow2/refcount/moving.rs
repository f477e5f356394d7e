//! Refcount structures that move while they are changed, so that one write of the header can switch to the new ones.
//!
//! From [`Refcounts::begin_moving`] on the table lies at a new place, and every block moves before it is changed. What the
//! header on disk leads to stays as it is. The old places stay counted until [`Refcounts::end_moving`] hands them out.

use std::collections::HashSet;

use super::{MetadataKind, Refcounts, Run};
use crate::error::Result;

/// What has moved so far.
#[derive(Debug, Default)]
pub(super) struct Moving {
    /// Indices of the blocks that are new, or lie at new places.
    moved: HashSet<usize>,
    /// Where they were.
    before: Vec<Run>,
}

impl Refcounts {
    /// Begins to move. Nothing may be waiting to be written.
    pub fn begin_moving(&mut self) -> Result<()> {
        debug_assert!(self.cache.dirty().is_empty() && self.table_dirty.is_none());
        self.moving = Some(Moving::default());
        let clusters = self.table_clusters;
        let first = self.find_free(self.cursor, clusters)?;
        let run = Run { first, clusters };
        self.check_free(run)?;
        self.claim(run);
        self.ensure_blocks(run)?;
        // A block may have needed a larger table, which has moved then.
        if self.table_moved() { Ok(()) } else { self.move_table(run, run) }
    }

    /// Whether they move.
    pub fn is_moving(&self) -> bool {
        self.moving.is_some()
    }

    /// The header on disk names the new table now: the old places of everything, to be given back.
    pub fn end_moving(&mut self) -> Vec<Run> {
        let mut before = self.moving.take().map(|moving| moving.before).unwrap_or_default();
        before.extend(self.take_table_before());
        before
    }

    /// Keeps what moves from taking clusters that are about to be counted.
    pub(super) fn claim(&mut self, run: Run) {
        if self.moving.is_some() {
            self.cursor = self.cursor.max(run.end());
        }
    }

    /// Notes that the block with this index is new.
    pub(super) fn note_new_block(&mut self, index: usize) {
        if let Some(moving) = &mut self.moving {
            moving.moved.insert(index);
        }
    }

    /// Moves a block that is about to be changed, if that is due.
    pub(super) fn move_block(&mut self, index: usize) -> Result<()> {
        let due = self.moving.as_ref().is_some_and(|moving| !moving.moved.contains(&index));
        let Some(offset) = self.block_offset(index)?.filter(|_| due) else { return Ok(()) };
        let first = self.find_free(self.cursor, 1)?;
        let new = Run { first, clusters: 1 };
        self.check_free(new)?;
        self.claim(new);
        self.ensure_blocks(new)?;
        let bits = self.geometry.cluster_bits;
        let old = Run { first: offset >> bits, clusters: 1 };
        // Read before the table names the new place.
        if let Some(block) = self.block(index)? {
            block.dirty = true;
        }
        if let Some(moving) = &mut self.moving {
            moving.moved.insert(index);
            moving.before.push(old);
        }
        self.set_table_entry(index, first << bits);
        self.protected.remove(old.first, MetadataKind::RefcountBlock);
        self.protected.add(new, MetadataKind::RefcountBlock);
        self.add(new, 1)?;
        self.touch(new);
        Ok(())
    }

    /// Takes one from the refcounts of a run where that leaves at least one, and shows the rest to `keep`, piece by piece.
    pub fn decrease_shared(&mut self, run: Run, mut keep: impl FnMut(Run)) -> Result<()> {
        let mut at = run.first;
        while at < run.end() {
            let (count, clusters) = self.get_run(at, run.end() - at)?;
            let piece = Run { first: at, clusters };
            if count == 1 {
                keep(piece);
            } else {
                // Zero is an error.
                self.add(piece, -1)?;
            }
            at += clusters;
        }
        Ok(())
    }
}
