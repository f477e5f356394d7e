//! In which ranges two states of a disk differ, told from the tables alone.
//!
//! The same place in the file holds the same bytes for both states: what is shared is not written. So L2 tables that both
//! have are not even read, and of the others only the entries count that name another place. Whether other places hold
//! other bytes is not looked at: what is shown may be more than what differs, never less.

use std::ops::Range;
use std::sync::Arc;

use super::change::read_l1;
use super::details::uncounted;
use crate::error::{Error, Result};
use crate::format::qcow2::Qcow2;
use crate::format::qcow2::entry::L2Entry;
use crate::format::qcow2::geometry::{Geometry, GuestOffset, HostOffset};
use crate::format::qcow2::map::{TableReader, Unit, check_l2_offset};
use crate::format::qcow2::tables::{L1Table, L2Cache};
use crate::image::{Difference, Held};
use crate::units::{SECTOR, align_down};

impl Qcow2 {
    /// See [`crate::image::Snapshots::differences`].
    pub(super) fn snapshot_differences(
        &self,
        from: &str,
        to: Option<&str>,
        visit: &mut dyn FnMut(&Difference) -> Result<()>,
    ) -> Result<()> {
        let mut from = self.state(Some(from))?;
        let mut to = self.state(to)?;
        if self.geometry.external_data {
            return Err(uncounted());
        }
        let common = from.size.min(to.size);
        let backed = self.meta().header.backing_file.is_some();
        let mut rows = Rows { visit, row: None };
        Comparison { range: 0..common, geometry: self.geometry, backed }
            .run([Some(&mut from), Some(&mut to)], &mut rows)?;
        let (size, states) =
            if from.size > to.size { (from.size, [Some(&mut from), None]) } else { (to.size, [None, Some(&mut to)]) };
        Comparison { range: common..size, geometry: self.geometry, backed }.run(states, &mut rows)?;
        rows.end()
    }

    /// The state that a snapshot keeps, or the present one.
    fn state(&self, name: Option<&str>) -> Result<State> {
        let meta = self.meta();
        let present = meta.header.guest_size();
        let (l1, size) = match name {
            // Not the table in memory, which may be that of a snapshot on show.
            None => (L1Table::read(&*self.file, meta.header.l1_offset, meta.header.l1_size)?, present),
            Some(name) => {
                let missing = || Error::not_found(format!("snapshot not found: '{name}'"));
                let found = meta.snapshots.find_id_or_name(name).ok_or_else(missing)?;
                let snapshot = &meta.snapshots.entries[found];
                let size = align_down(snapshot.disk_size.unwrap_or(present), SECTOR);
                (read_l1(&*self.file, snapshot, self.geometry)?, size)
            }
        };
        let l2 = L2Cache::new(Arc::clone(&self.file), self.geometry);
        Ok(State { l1, l2, size, version: meta.header.version })
    }
}

/// One state of the disk.
struct State {
    l1: L1Table,
    l2: L2Cache,
    size: u64,
    version: u32,
}

/// What one state has in the range of one L2 table.
enum View<'a> {
    /// The disk has ended.
    Absent,
    /// There is no table.
    Empty,
    Table(TableReader<'a>),
}

impl View<'_> {
    /// The entry for `guest`; where there is none, one that stands for nothing.
    fn entry(&self, guest: u64) -> L2Entry {
        match self {
            View::Table(reader) => reader.table.get(reader.geometry.l2_index(GuestOffset(guest))),
            View::Absent | View::Empty => L2Entry::default(),
        }
    }

    /// The unit at `guest`; `None` behind the end of the disk.
    fn unit(&self, guest: u64) -> Result<Option<Unit>> {
        match self {
            View::Absent => Ok(None),
            View::Empty => Ok(Some(Unit::Unallocated)),
            View::Table(reader) => reader.unit(guest).map(Some),
        }
    }
}

/// A range in which two states are compared; one that is not there has ended before.
struct Comparison {
    range: Range<u64>,
    geometry: Geometry,
    /// Whether what is not allocated may be anything.
    backed: bool,
}

impl Comparison {
    fn run(&self, mut states: [Option<&mut State>; 2], rows: &mut Rows<'_>) -> Result<()> {
        let tables = states.iter().flatten().map(|state| state.l1.len() as u64).max().unwrap_or(0);
        let span = self.geometry.l2_span();
        let mut at = self.range.start;
        while at < self.range.end {
            let index = self.geometry.l1_index(GuestOffset(at));
            // Behind the last table everything is alike.
            let end = if index < tables { ((index + 1) * span).min(self.range.end) } else { self.range.end };
            let [from, to] = &mut states;
            let places = [self.place(from, index)?, self.place(to, index)?];
            if places[0] != places[1] || from.is_some() != to.is_some() {
                let [from_place, to_place] = places;
                let views = [self.view(from, from_place, index)?, self.view(to, to_place, index)?];
                self.compare(at..end, &views, rows)?;
            }
            at = end;
        }
        Ok(())
    }

    fn place(&self, state: &Option<&mut State>, index: u64) -> Result<Option<HostOffset>> {
        let place = state.as_ref().and_then(|state| state.l1.get(index).table());
        place.map_or(Ok(()), |place| check_l2_offset(self.geometry, place, index))?;
        Ok(place)
    }

    fn view<'a>(&self, state: &'a mut Option<&mut State>, place: Option<HostOffset>, index: u64) -> Result<View<'a>> {
        let Some(state) = state else { return Ok(View::Absent) };
        let Some(table_offset) = place else { return Ok(View::Empty) };
        Ok(View::Table(TableReader {
            geometry: self.geometry,
            version: state.version,
            table_offset,
            table: state.l2.get(table_offset)?,
            base: index * self.geometry.l2_span(),
        }))
    }

    /// Compares a range that one L2 table maps, or none.
    fn compare(&self, range: Range<u64>, views: &[View<'_>; 2], rows: &mut Rows<'_>) -> Result<()> {
        let [from, to] = views;
        let both = !matches!(from, View::Absent) && !matches!(to, View::Absent);
        let no_table = !views.iter().any(|view| matches!(view, View::Table(_)));
        let mut at = range.start;
        while at < range.end {
            let cluster_end = (self.geometry.cluster_start(at) + self.geometry.cluster_size()).min(range.end);
            if both && from.entry(at).shows_same(to.entry(at)) {
                at = cluster_end;
                continue;
            }
            let unit_size = self.geometry.subcluster_size();
            let unit_end = (align_down(at, unit_size) + unit_size).min(range.end);
            let end = if no_table { range.end } else { unit_end };
            let (old, new) = (from.unit(at)?, to.unit(at)?);
            if !self.same(old, new) {
                rows.add(Difference { start: at, len: end - at, from: held(old), to: held(new) })?;
            }
            at = end;
        }
        Ok(())
    }

    /// Whether two units hold the same bytes for sure.
    fn same(&self, from: Option<Unit>, to: Option<Unit>) -> bool {
        match (from, to) {
            (Some(Unit::Zero(_)), Some(Unit::Zero(_))) => true,
            (Some(Unit::Zero(_)), Some(Unit::Unallocated)) | (Some(Unit::Unallocated), Some(Unit::Zero(_))) => {
                !self.backed
            }
            (from, to) => from == to,
        }
    }
}

fn held(unit: Option<Unit>) -> Held {
    match unit {
        None => Held::Absent,
        Some(Unit::Unallocated) => Held::Unallocated,
        Some(Unit::Zero(_)) => Held::Zero,
        Some(Unit::Data(_)) => Held::Data,
        Some(Unit::Compressed { .. }) => Held::Compressed,
    }
}

/// Joins neighbours of one kind.
struct Rows<'a> {
    visit: &'a mut dyn FnMut(&Difference) -> Result<()>,
    row: Option<Difference>,
}

impl Rows<'_> {
    fn add(&mut self, next: Difference) -> Result<()> {
        match &mut self.row {
            Some(row) if row.start + row.len == next.start && (row.from, row.to) == (next.from, next.to) => {
                row.len += next.len;
                Ok(())
            }
            _ => self.row.replace(next).map_or(Ok(()), |done| (self.visit)(&done)),
        }
    }

    fn end(self) -> Result<()> {
        self.row.map_or(Ok(()), |done| (self.visit)(&done))
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
