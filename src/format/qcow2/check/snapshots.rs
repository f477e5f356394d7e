//! The snapshot table: reading one that may be broken, and writing it anew. Specification: "Snapshots".

use super::Checker;
use super::trust::{Doubt, is_plausible};
use crate::error::{Error, Result};
use crate::format::qcow2::geometry::HostOffset;
use crate::format::qcow2::header::{SNAPSHOTS_MAX, check_table};
use crate::format::qcow2::refcount::{MetadataKind, Run};
use crate::format::qcow2::snapshot::{Snapshot, SnapshotTable};
use crate::format::qcow2::txn::Discard;
use crate::image::{CheckNote, Repair};

/// Shortest extra data that version 3 demands: the sizes of the machine state and of the disk.
const EXTRA_MIN: u32 = 16;

impl Checker<'_> {
    /// Reads the table, and reports what is wrong with it. Says whether it has to be written anew.
    pub(super) fn read_snapshots(&mut self) -> Result<bool> {
        let repair = self.repair == Repair::All;
        let mut header = self.header().clone();
        if u64::from(header.nb_snapshots) > SNAPSHOTS_MAX {
            let surplus = header.nb_snapshots - SNAPSHOTS_MAX as u32;
            if !repair {
                let error = Error::os(libc::EFBIG).replace("ERROR snapshot table too large");
                return Err(self.failure(&error.hint(force_remove(surplus))));
            }
            self.say(&format!("Discarding {surplus} overhanging snapshots"));
            self.found.corruptions += u64::from(surplus);
            header.nb_snapshots = SNAPSHOTS_MAX as u32;
        }
        let least = u64::from(header.nb_snapshots) * 40;
        if let Err(error) = check_table(self.geometry, "ERROR snapshot table", header.snapshots_offset, least, u64::MAX)
        {
            if !repair {
                return Err(self.failure(&error));
            }
            self.drop_table();
            header = self.header().clone();
        }
        let lossy = match SnapshotTable::read_lossy(&*self.file, &header, repair) {
            Ok(lossy) => lossy,
            Err(error) => return Err(self.failure(&error.context("ERROR failed to read the snapshot table"))),
        };
        for line in &lossy.losses {
            self.say(line);
        }
        self.found.corruptions += lossy.lost;
        if self.found.corruptions > 0 {
            // Or at least something that belongs to one of them.
            self.doubt(Doubt::SnapshotsDropped);
        }
        let dropped = self.found.corruptions;
        self.snapshots = lossy.table;
        let misread = self.judge_snapshots();
        // Of a table that is read at the wrong places nothing right can be made, only something that looks right.
        let repair = repair && (!misread || dropped > 0);
        for (index, extra) in lossy.extra_lens.iter().enumerate() {
            if header.version >= 3 && *extra < EXTRA_MIN {
                let word = if repair { "Repairing" } else { "ERROR" };
                self.corruption(&format!("{word} snapshot table entry {index} is incomplete"));
            }
        }
        if repair {
            // Entries without anything in them come from a number that is too great.
            let table = &mut self.snapshots;
            while table.entries.last().is_some_and(Snapshot::is_blank) {
                table.entries.pop();
                table.bytes = table.entries.len().checked_sub(1).map_or(0, |last| lossy.ends[last]);
            }
        }
        if misread && self.repair == Repair::All && !repair && self.found.corruptions > 0 {
            self.say("The snapshot table is not repaired: an entry holds what no snapshot has");
        }
        Ok(repair && self.found.corruptions > 0)
    }

    /// Whether the snapshot table holds what no program writes. Then, and with blank entries, it may have held more.
    pub(super) fn judge_snapshots(&mut self) -> bool {
        let guest_size = self.header().guest_size();
        let entries = &self.snapshots.entries;
        let sound = |entry: &Snapshot| entry.is_blank() || is_plausible(entry, self.geometry, guest_size);
        let misread = !entries.iter().all(sound);
        if misread || entries.iter().any(Snapshot::is_blank) {
            self.doubt(Doubt::SnapshotTable);
        }
        misread
    }

    /// Gives up a table that cannot be where the header says. Nothing could open the image with it.
    fn drop_table(&mut self) {
        let header = &mut self.meta.header;
        let (number, offset) = (header.nb_snapshots, header.snapshots_offset);
        (header.nb_snapshots, header.snapshots_offset) = (0, 0);
        self.say(&format!("Discarding {number} snapshots (snapshot table offset {offset:#x} invalid)"));
        self.found.corruptions += u64::from(number.max(1));
    }

    /// Tells why the check fails, and gives the error it fails with.
    fn failure(&mut self, error: &Error) -> Error {
        (self.note)(CheckNote::Failure(error));
        error.number()
    }

    /// Writes the table to a new place, lets the header name it, and gives the old place back.
    pub(super) fn rewrite_snapshots(&mut self) -> Result<()> {
        let file = self.file.clone();
        let old = Run::of_bytes(self.geometry, HostOffset(self.header().snapshots_offset), self.snapshots.bytes);
        let counted = (old.first..old.end()).all(|cluster| self.counts.get(cluster) > 0);
        // Where nothing is leaked, nothing was lost with the old table either.
        let keep = self.keeps_leaks() && self.found.leaks > 0;
        let end = self.clusters.max(old.end());
        self.meta.snapshots = self.snapshots.clone();
        let result = self.meta.start_writer(&file, &file).and_then(|()| {
            let bytes = self.meta.snapshots.to_bytes(self.meta.header.guest_size())?;
            let number = self.meta.snapshots.entries.len() as u32;
            let writer = self.meta.writer()?;
            if keep {
                writer.refcounts.allocate_from(end);
            }
            let place = match bytes.len() as u64 {
                0 => HostOffset(0),
                len => writer.refcounts.allocate(self.geometry.clusters(len))?.offset,
            };
            writer.write_new(place, &bytes)?;
            writer
                .refcounts
                .unprotect(HostOffset(old.first << self.geometry.cluster_bits), MetadataKind::SnapshotTable);
            if counted && !keep {
                writer.free(old, Discard::Other);
            }
            writer.header_changed();
            let header = &mut self.meta.header;
            (header.snapshots_offset, header.nb_snapshots) = (place.0, number);
            self.meta.flush()
        });
        self.meta.writer = None;
        if let Err(error) = &result {
            let text = format!("ERROR failed to update snapshot table: {}", error.errno_text());
            self.say(&text);
        }
        result
    }
}

/// How to get rid of snapshots that are too many.
fn force_remove(number: u32) -> String {
    format!("You can force-remove all {number} overhanging snapshots with qemu-img check -r all")
}
