//! Checking an image: everything that uses clusters is counted, and the counts are compared with the refcounts on disk.
//!
//! | module | what it does |
//! |---|---|
//! | `snapshots` | the snapshot table, also a broken one |
//! | `walk` | counts what L1 and L2 tables use |
//! | `structures` | counts everything else, and puts all of it in order |
//! | `counts` | the counts in memory |
//! | `trust` | whether everything could be followed, so that what seems to be unused is |
//! | `disk` | the refcounts on disk |
//! | `compare` | compares the two, and corrects refcounts |
//! | `rebuild` | new refcount table and blocks where the old ones cannot be trusted |
//! | `dirty` | counting anew what was not closed properly, before the first write |
//! | `copied` | the flags that say "refcount is exactly one" |
//!
//! The image on disk is all that is looked at and changed; the tables in memory that reading and writing use are left
//! aside. Repairs are written so that a crash in between leaves the image no worse: counts go up before anything relies
//! on them, and go down last; a new table is complete before the header names it.

mod compare;
mod copied;
mod counts;
mod dirty;
mod disk;
mod rebuild;
mod snapshots;
mod structures;
mod trust;
mod walk;

use std::sync::Arc;

use super::geometry::Geometry;
use super::header::{Header, autoclear, incompatible, replace_header};
use super::refcount::Refcounts;
use super::snapshot::SnapshotTable;
use super::{Meta, Qcow2};
use crate::error::Result;
use crate::image::{CheckNote, CheckReport, Checks, Repair};
use crate::storage::Storage;

/// What a part of the check found.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    corruptions: u64,
    leaks: u64,
    check_errors: u64,
    corruptions_fixed: u64,
    leaks_fixed: u64,
}

/// What is counted about guest clusters.
#[derive(Clone, Copy, Debug, Default)]
struct Fragmentation {
    allocated: u64,
    fragmented: u64,
    compressed: u64,
}

/// One check of one image.
struct Checker<'a> {
    file: Arc<dyn Storage>,
    meta: &'a mut Meta,
    geometry: Geometry,
    repair: Repair,
    /// Nothing is repaired but what depends on counting; see [`Checker::refuse_damage`].
    only_counts: bool,
    note: &'a mut dyn FnMut(CheckNote<'_>),
    /// The snapshots as far as they can be read.
    snapshots: SnapshotTable,
    /// Length of the image file in bytes.
    file_len: u64,
    /// Number of the cluster behind the last one that may be used: the length of the file in clusters, or one more.
    clusters: u64,
    counts: counts::Counts,
    disk: disk::DiskCounts,
    found: Found,
    fragmentation: Fragmentation,
    /// Number of the last cluster that is used or has a refcount.
    highest: u64,
    /// The refcount table and its blocks cannot be corrected in place.
    rebuild: bool,
    /// The system has refused to read refcounts.
    unreadable: bool,
    /// A refcount block that is not on a cluster border has been announced.
    announced: bool,
    /// Why what seems to be free may have been lost, if there is a reason.
    doubt: Option<trust::Doubt>,
    /// Some entry of the active L1 table is not empty.
    maps_anything: bool,
    /// Where metadata lies; made when it is needed.
    places: Option<Refcounts>,
}

impl Checks for Qcow2 {
    fn check(&self, repair: Repair, note: &mut dyn FnMut(CheckNote<'_>)) -> Result<CheckReport> {
        let mut meta = self.meta();
        Checker::new(&self.file, &mut meta, repair, note)?.run(self.virtual_size())
    }
}

impl<'a> Checker<'a> {
    fn new(
        file: &Arc<dyn Storage>,
        meta: &'a mut Meta,
        repair: Repair,
        note: &'a mut dyn FnMut(CheckNote<'_>),
    ) -> Result<Self> {
        let geometry = meta.header.geometry();
        let disk = disk::DiskCounts::read(file, &meta.header)?;
        let file_len = file.len()?;
        Ok(Checker {
            file: Arc::clone(file),
            meta,
            geometry,
            repair,
            only_counts: false,
            note,
            snapshots: SnapshotTable::default(),
            file_len,
            clusters: geometry.clusters(file_len),
            counts: counts::Counts::default(),
            disk,
            found: Found::default(),
            fragmentation: Fragmentation::default(),
            highest: 0,
            rebuild: false,
            unreadable: false,
            announced: false,
            doubt: None,
            maps_anything: false,
            places: None,
        })
    }

    fn run(mut self, virtual_size: u64) -> Result<CheckReport> {
        let rewrite = self.read_snapshots()?;
        let snapshots = std::mem::take(&mut self.found);
        self.check_refcounts()?;
        let total = self.geometry.clusters(virtual_size);
        let mut found = self.found.plus(snapshots);
        if rewrite {
            self.rewrite_snapshots()?;
            found.corruptions_fixed += snapshots.corruptions;
            found.corruptions -= snapshots.corruptions;
        }
        if self.repair != Repair::Nothing && found.check_errors == 0 && found.corruptions == 0 {
            self.clear_marks()?;
        }
        Ok(CheckReport {
            corruptions: found.corruptions,
            leaks: found.leaks,
            check_errors: found.check_errors,
            corruptions_fixed: found.corruptions_fixed,
            leaks_fixed: found.leaks_fixed,
            image_end_offset: (self.highest + 1) << self.geometry.cluster_bits,
            total_clusters: total,
            allocated_clusters: self.fragmentation.allocated,
            fragmented_clusters: self.fragmentation.fragmented,
            compressed_clusters: self.fragmentation.compressed,
        })
    }

    /// Counts, compares, and repairs what may be repaired.
    pub(super) fn check_refcounts(&mut self) -> Result<()> {
        self.count_all()?;
        self.refuse_damage()?;
        let counted = self.found;
        self.compare(Repair::Nothing)?;
        self.look_for_losses()?;
        if self.repair != Repair::Nothing && self.found.leaks > 0 && !self.keeps_leaks() {
            self.forget_stale_bitmaps()?;
        }
        if self.rebuild && self.repair == Repair::All {
            self.rebuild_refcounts()?;
        } else if self.repair != Repair::Nothing {
            if self.rebuild {
                self.say("ERROR need to rebuild refcount structures");
                return Err(structures::unreadable());
            }
            if self.found.leaks > 0 || self.found.corruptions > 0 {
                self.found = counted;
                self.compare(self.repair)?;
            }
        }
        self.tell_kept_leaks();
        self.check_copied()
    }

    /// Takes bitmaps out of the header that are not valid any more, before their clusters become free: they are counted as
    /// leaks.
    fn forget_stale_bitmaps(&mut self) -> Result<()> {
        let header = &mut self.meta.header;
        if header.autoclear & autoclear::BITMAPS != 0 || header.bitmaps.take().is_none() {
            return Ok(());
        }
        replace_header(&*self.file, header)?;
        self.file.flush()
    }

    /// Prints a line of the report.
    fn say(&mut self, line: &str) {
        (self.note)(CheckNote::Line(line));
    }

    /// Prints the line of a corruption and counts it.
    fn corruption(&mut self, line: &str) {
        self.say(line);
        self.found.corruptions += 1;
    }

    fn header(&self) -> &Header {
        &self.meta.header
    }

    /// Says in the header that refcounts are right and structures sound, if it says otherwise.
    fn clear_marks(&mut self) -> Result<()> {
        let header = &mut self.meta.header;
        let incompatible = header.incompatible & !(incompatible::DIRTY | incompatible::CORRUPT);
        let autoclear = header.autoclear & autoclear::KNOWN;
        if header.version < 3 || (incompatible == header.incompatible && autoclear == header.autoclear) {
            return Ok(());
        }
        // Repairs first, then the bits that say that they are done.
        self.file.flush()?;
        let compatible = header.compatible;
        let bits: Vec<u8> = [incompatible, compatible, autoclear].iter().flat_map(|bits| bits.to_be_bytes()).collect();
        self.file.write_at(&bits, 72)?;
        self.file.flush()?;
        (header.incompatible, header.autoclear) = (incompatible, autoclear);
        Ok(())
    }
}

impl Found {
    fn plus(self, other: Found) -> Found {
        Found {
            corruptions: self.corruptions + other.corruptions,
            leaks: self.leaks + other.leaks,
            check_errors: self.check_errors + other.check_errors,
            corruptions_fixed: self.corruptions_fixed + other.corruptions_fixed,
            leaks_fixed: self.leaks_fixed + other.leaks_fixed,
        }
    }
}

#[cfg(test)]
mod fault_tests;
