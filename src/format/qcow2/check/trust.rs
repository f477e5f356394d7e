//! Whether everything that uses clusters could be followed.
//!
//! A cluster that nothing seems to use may be what a damaged structure used: the snapshot that a damaged table no longer
//! names, the data below a table that the file has lost. So no refcount goes down while there is any doubt about the way
//! from the header to the clusters, and what seems to be leaked stays what it is. Refcounts that are too small are
//! corrected all the same; and what is wrong with refcounts alone raises no doubt, since nothing is found through them.

use zerocopy::FromBytes;

use super::Checker;
use crate::error::Result;
use crate::format::qcow2::geometry::Geometry;
use crate::format::qcow2::header::L1_BYTES_MAX;
use crate::format::qcow2::snapshot::{RawEntry, Snapshot};
use crate::image::Repair;

/// Why what seems to be leaked may be in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// An entry or a table was reported as wrong.
    Damage,
    /// A table ends behind the end of the file.
    Truncated,
    /// An entry of the snapshot table holds what no snapshot has.
    SnapshotTable,
    /// Snapshots were given up.
    SnapshotsDropped,
    /// There is a snapshot behind those that the header counts.
    SnapshotCount,
    /// The L1 table leads nowhere.
    EmptyDisk,
}

impl Doubt {
    fn reason(self) -> &'static str {
        match self {
            Doubt::Damage => "structures that refer to clusters are damaged",
            Doubt::Truncated => "the file ends inside a table",
            Doubt::SnapshotTable => "the snapshot table is damaged",
            Doubt::SnapshotsDropped => "snapshots had to be dropped",
            Doubt::SnapshotCount => "there are more snapshots than the header says",
            Doubt::EmptyDisk => "the L1 table is empty",
        }
    }
}

impl Checker<'_> {
    /// Notes a reason not to believe in leaks. The first one is told.
    pub(super) fn doubt(&mut self, doubt: Doubt) {
        self.doubt.get_or_insert(doubt);
    }

    /// Whether refcounts that are too great must stay so.
    pub(super) fn keeps_leaks(&self) -> bool {
        self.doubt.is_some()
    }

    /// Says which leaks a repair leaves, and why.
    pub(super) fn tell_kept_leaks(&mut self) {
        if let Some(doubt) = self.doubt.filter(|_| self.repair != Repair::Nothing && self.found.leaks > 0) {
            let (number, reason) = (self.found.leaks, doubt.reason());
            self.say(&format!(
                "Leaks are not repaired because {reason}: the {number} clusters that seem to be leaked may belong to \
                 what cannot be found"
            ));
        }
    }

    /// What can only be seen when everything has been counted and compared.
    pub(super) fn look_for_losses(&mut self) -> Result<()> {
        if self.found.leaks == 0 && !self.rebuild {
            return Ok(());
        }
        if self.found.leaks > 0 && !self.maps_anything {
            self.doubt(Doubt::EmptyDisk);
        }
        let header = self.header();
        let behind = header.snapshots_offset.saturating_add(self.snapshots.bytes.next_multiple_of(8));
        if header.snapshots_offset != 0 && behind < self.file_len && self.is_lost_snapshot(behind)? {
            self.doubt(Doubt::SnapshotCount);
        }
        Ok(())
    }

    /// Whether an entry of a snapshot table lies here whose L1 table is there although nothing uses it. (Of a snapshot that
    /// was deleted the entry may still lie here, but its L1 table is free.)
    fn is_lost_snapshot(&mut self, at: u64) -> Result<bool> {
        let mut bytes = [0; size_of::<RawEntry>()];
        self.file.read_at(&mut bytes, at)?;
        let entry = RawEntry::read_from_bytes(&bytes).expect("the length is right");
        let (l1_offset, l1_bytes) = (entry.l1_offset.get(), u64::from(entry.l1_size.get()) * 8);
        let possible = l1_offset != 0
            && self.geometry.in_cluster(l1_offset) == 0
            && (1..=L1_BYTES_MAX).contains(&l1_bytes)
            && l1_offset.checked_add(l1_bytes).is_some_and(|end| end <= self.file_len);
        if !possible {
            return Ok(false);
        }
        let cluster = l1_offset >> self.geometry.cluster_bits;
        let free = matches!(self.disk.get(cluster), Ok(0)) && !self.rebuild;
        Ok(!free && self.counts.get(cluster) == 0)
    }
}

/// Whether a snapshot may look like this: it has an ID and an L1 table that is large enough for its disk, and its ID and
/// name are text.
pub(super) fn is_plausible(snapshot: &Snapshot, geometry: Geometry, guest_size: u64) -> bool {
    let needed = geometry.l1_entries(snapshot.disk_size.unwrap_or(guest_size));
    let text = |bytes: &[u8]| bytes.iter().all(|byte| *byte >= b' ');
    !snapshot.id.is_empty()
        && text(&snapshot.id)
        && text(&snapshot.name)
        && geometry.in_cluster(snapshot.l1_offset) == 0
        && u64::from(snapshot.l1_size) >= needed
}

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;
