//! How much of the file each snapshot takes.
//!
//! Refcounts alone do not tell who refers to a cluster, and tables alone do not tell who else does. So the tables of up to
//! [`GROUP`] snapshots and of the present state are walked, each table once, and for every cluster it is noted which of
//! them refer to it and how often. What one snapshot alone refers to, and as often as the refcount says, nothing else
//! does. The notes cover a [`WINDOW`] of the file; what lies behind it is left for another walk.

use std::collections::HashMap;

use super::change::read_l1;
use super::reach::{Tables, collect_runs};
use super::table::Snapshot;
use crate::error::{Error, Result};
use crate::format::qcow2::Qcow2;
use crate::format::qcow2::entry::L1Entry;
use crate::format::qcow2::geometry::{Geometry, HostOffset};
use crate::format::qcow2::header::Header;
use crate::format::qcow2::refcount::{Refcounts, Run};
use crate::format::qcow2::tables::L1Table;
use crate::image::SnapshotDetails;
use crate::storage::Storage;

/// Snapshots that are looked at together.
const GROUP: usize = 8;
/// L1 entries of such snapshots, unless one alone has more.
const GROUP_ENTRIES: u64 = 1 << 20;
/// Clusters about which notes are kept at a time, two bytes for each: enough for a disk of 1 TiB in clusters of 64 KiB.
const WINDOW: u64 = 17 << 20;
/// The least that a window is made for.
const WINDOW_MIN: u64 = 1 << 20;

impl Qcow2 {
    /// See [`crate::image::Snapshots::details`].
    pub(super) fn snapshot_details(&self) -> Result<Vec<SnapshotDetails>> {
        let mut refcounts = self.read_refcounts()?;
        let meta = self.meta();
        let mut rest = &meta.snapshots.entries[..];
        if !rest.is_empty() && self.geometry.external_data {
            return Err(uncounted());
        }
        let mut details = Vec::new();
        while !rest.is_empty() {
            let (group, others) = rest.split_at(group_len(rest));
            let survey = Survey::of(&*self.file, &meta.header, group).map_err(Error::for_reader)?;
            details.extend(survey.details(&mut refcounts, WINDOW).map_err(Error::for_reader)?);
            rest = others;
        }
        Ok(details)
    }
}

/// The error of what needs to know which clusters snapshots share, where data has no refcounts.
pub(super) fn uncounted() -> Error {
    let text = "The data of this image lies in an external data file, where nothing tells which snapshot it belongs to";
    Error::unsupported(text)
}

/// How many of these snapshots are looked at together.
fn group_len(snapshots: &[Snapshot]) -> usize {
    let mut entries = 0;
    let fits = snapshots.iter().take(GROUP).take_while(|snapshot| {
        entries += u64::from(snapshot.l1_size);
        entries <= GROUP_ENTRIES
    });
    fits.count().max(1)
}

/// Who refers to something: a bit for each snapshot of the group, and one for the present state.
type Who = u16;

/// The present state.
const PRESENT: Who = 1 << GROUP;
/// Bits of a note that say who; those above count references.
const WHO_BITS: u32 = GROUP as u32 + 1;
/// The count of a note that does not fit.
const MANY: u64 = (u16::MAX >> WHO_BITS) as u64;

/// Who refers to something, and how often they do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holders {
    who: Who,
    references: u64,
}

/// The tables of a group of snapshots and of the present state.
struct Survey<'a> {
    file: &'a dyn Storage,
    geometry: Geometry,
    snapshots: usize,
    /// The L1 tables and whose they are.
    l1s: Vec<(Run, Holders)>,
    /// Each L2 table once, and in the same order who refers to it.
    tables: Tables,
    holders: Vec<Holders>,
}

impl<'a> Survey<'a> {
    fn of(file: &'a dyn Storage, header: &Header, group: &[Snapshot]) -> Result<Self> {
        let geometry = header.geometry();
        let (mut l1s, mut uses) = (Vec::new(), Vec::new());
        let mut add = |who, offset, entries: &[L1Entry]| -> Result<()> {
            let place = Run::of_bytes(geometry, HostOffset(offset), entries.len() as u64 * 8);
            l1s.push((place, Holders { who, references: 1 }));
            Tables::of(entries, geometry)?.each(|table| uses.push((table, who)));
            Ok(())
        };
        // Not the one in memory, which may be that of a snapshot on show.
        let present = L1Table::read(file, header.l1_offset, header.l1_size)?;
        add(PRESENT, header.l1_offset, present.entries())?;
        for (index, snapshot) in group.iter().enumerate() {
            add(1 << index, snapshot.l1_offset, read_l1(file, snapshot, geometry)?.entries())?;
        }
        uses.sort_unstable();
        let (mut tables, mut holders): (Vec<HostOffset>, Vec<Holders>) = (Vec::new(), Vec::new());
        for (table, who) in uses {
            match holders.last_mut() {
                Some(last) if tables.last() == Some(&table) => {
                    last.who |= who;
                    last.references += 1;
                }
                _ => {
                    tables.push(table);
                    holders.push(Holders { who, references: 1 });
                }
            }
        }
        Ok(Survey { file, geometry, snapshots: group.len(), l1s, tables: Tables::at(tables), holders })
    }

    /// What each of the snapshots takes; looks at so many clusters at a time.
    fn details(&self, refcounts: &mut Refcounts, window: u64) -> Result<Vec<SnapshotDetails>> {
        let end = self.geometry.clusters(self.file.len()?);
        let mut totals = vec![SnapshotDetails::default(); self.snapshots];
        let mut next = Some(0);
        while let Some(first) = next {
            let mut notes = Notes::new(first, end.saturating_sub(first).max(WINDOW_MIN).min(window));
            for (run, holders) in &self.l1s {
                notes.add(*run, *holders);
            }
            let mut runs = Vec::new();
            self.tables.read(self.file, self.geometry, |index, offset, bytes| {
                let holders = self.holders[index];
                let compressed = collect_runs(self.geometry, offset, bytes, &mut runs)?;
                runs.iter().for_each(|run| notes.add(*run, holders));
                if first == 0 {
                    for (_, total) in held_by(&mut totals, holders.who) {
                        total.compressed += compressed.bytes;
                        total.compressed_clusters += compressed.clusters;
                    }
                }
                Ok(())
            })?;
            notes.count(refcounts, self.geometry, &mut totals)?;
            next = notes.next;
        }
        Ok(totals)
    }
}

/// Those of the snapshots that `who` names.
fn held_by(totals: &mut [SnapshotDetails], who: Who) -> impl Iterator<Item = (Who, &mut SnapshotDetails)> {
    totals.iter_mut().enumerate().map(|(index, total)| (1 << index, total)).filter(move |(bit, _)| who & bit != 0)
}

/// Who refers to each cluster of a part of the file, and how often.
struct Notes {
    first: u64,
    notes: Vec<u16>,
    /// Counts of [`MANY`] and more.
    many: HashMap<u64, u64>,
    /// The first cluster behind this part to which something refers.
    next: Option<u64>,
}

impl Notes {
    fn new(first: u64, clusters: u64) -> Self {
        Notes { first, notes: vec![0; clusters as usize], many: HashMap::new(), next: None }
    }

    fn add(&mut self, run: Run, holders: Holders) {
        let end = self.first + self.notes.len() as u64;
        if run.end() > end {
            let behind = run.first.max(end);
            self.next = Some(self.next.map_or(behind, |next| next.min(behind)));
        }
        let range = run.first.clamp(self.first, end)..run.end().clamp(self.first, end);
        let notes = &mut self.notes[(range.start - self.first) as usize..(range.end - self.first) as usize];
        for (note, cluster) in notes.iter_mut().zip(range) {
            let count = u64::from(*note >> WHO_BITS);
            let sum = if count == MANY { self.many[&cluster] } else { count } + holders.references;
            if sum >= MANY {
                self.many.insert(cluster, sum);
            }
            let who = *note & !(u16::MAX << WHO_BITS) | holders.who;
            // Seven bits at most.
            *note = who | (sum.min(MANY) as u16) << WHO_BITS;
        }
    }

    /// Adds the clusters to what each snapshot holds. Fails where a refcount is lower than the number of references.
    fn count(&self, refcounts: &mut Refcounts, geometry: Geometry, totals: &mut [SnapshotDetails]) -> Result<()> {
        let cluster_size = geometry.cluster_size();
        let mut cluster = self.first;
        for row in self.notes.chunk_by(|a, b| a == b) {
            let (who, count) = (row[0] & !(u16::MAX << WHO_BITS), u64::from(row[0] >> WHO_BITS));
            let end = cluster + row.len() as u64;
            while who != 0 && cluster < end {
                let most = if count == MANY { 1 } else { end - cluster };
                let references = if count == MANY { self.many[&cluster] } else { count };
                let (refcount, clusters) = refcounts.get_run(cluster, most)?;
                if refcount < references {
                    return Err(too_low(cluster << geometry.cluster_bits, refcount, references));
                }
                for (bit, total) in held_by(totals, who) {
                    let bytes = clusters * cluster_size;
                    total.referenced += bytes;
                    total.shared += if who & PRESENT != 0 { bytes } else { 0 };
                    total.exclusive += if who == bit && refcount == references { bytes } else { 0 };
                }
                cluster += clusters;
            }
            cluster = end;
        }
        Ok(())
    }
}

/// The error of a refcount that is too low to tell anything by.
fn too_low(offset: u64, refcount: u64, references: u64) -> Error {
    let text = format!("The refcount of the cluster at {offset:#x} is {refcount}, but it is in use {references} times");
    Error::corrupt(text).hint("The image is damaged or was not closed properly; 'qemu-img check' tells more.")
}

#[cfg(test)]
#[path = "details_tests.rs"]
mod tests;
