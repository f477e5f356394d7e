//! Places for guest bytes, publishing them, and zero clusters.
//!
//! [`Qcow2::prepare_places`] reserves host clusters under the lock; the payload is written without it; publishing
//! ([`Pending::commit`]) changes L2 entries in memory under the lock again. L2 tables themselves are made, or copied where
//! a snapshot shares them, when places are reserved, so that the layout of a new image depends only on the order of the
//! reservations, not on which payload was written first.

mod pending;
mod tables;
mod zero;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

use super::Meta;
use super::Qcow2;
use super::entry::{L2Entry, Mapping, at_entry};
use super::geometry::{Geometry, GuestOffset, HostOffset};
use super::map::check_l2_offset;
use super::refcount::{Refcounts, Run, hex, overlap_error};
use super::txn::Discard;
use crate::error::{Error, Result};
use crate::image::{Payload, Pending, Piece, Place, not_supported};

use pending::{Change, ChangeKind, Reservation};

/// All subclusters of a cluster.
const ALL: u32 = u32::MAX;

impl Qcow2 {
    /// See [`crate::image::Layer::prepare`].
    pub(super) fn prepare_places<'a>(&'a self, places: &[Place]) -> Result<Box<dyn Pending + 'a>> {
        let mut meta = self.meta();
        meta.writer()?;
        if meta.needs_commit() {
            meta.commit()?;
        }
        for place in places {
            meta.record_write(&self.file, place.guest, place.len)?;
        }
        let mut reservation = Reservation::new(self);
        for place in places {
            let mut planner = Planner { qcow2: self, meta: &mut meta, reservation: &mut reservation };
            let planned = planner.place(place);
            if let Err(error) = meta.guard(planned) {
                reservation.release(&mut meta);
                return Err(error);
            }
        }
        drop(meta);
        reservation.finish_pieces();
        Ok(Box::new(reservation))
    }
}

impl Qcow2 {
    /// See [`crate::image::Layer::prepare_part`].
    pub(super) fn existing_places<'a>(&'a self, guest: u64, len: u64) -> Result<Option<Box<dyn Pending + 'a>>> {
        let Some(end) = guest.checked_add(len).filter(|end| *end <= self.virtual_size()) else { return Ok(None) };
        let mut meta = self.meta();
        meta.writer()?;
        let mut reservation = Reservation::new(self);
        let mut planner = Planner { qcow2: self, meta: &mut meta, reservation: &mut reservation };
        if !planner.all_in_place(guest, end)? {
            return Ok(None);
        }
        meta.record_write(&self.file, guest, len)?;
        drop(meta);
        Ok(Some(Box::new(reservation)))
    }
}

/// Decides where the clusters of one place go.
struct Planner<'p, 'a> {
    qcow2: &'a Qcow2,
    meta: &'p mut Meta,
    reservation: &'p mut Reservation<'a>,
}

/// What has to happen for one cluster to be written.
enum Target {
    /// It has a place of its own already.
    InPlace(HostOffset),
    /// It needs a new cluster.
    New,
}

/// Guest bytes that need a new place: a part of one cluster, or a run of whole clusters whose entries are empty.
struct Waiting {
    from: u64,
    to: u64,
    /// The entry as it is, of every cluster.
    old: L2Entry,
}

impl Waiting {
    fn clusters(&self, geometry: Geometry) -> u64 {
        (self.to - geometry.cluster_start(self.from)).div_ceil(geometry.cluster_size())
    }
}

impl Planner<'_, '_> {
    fn geometry(&self) -> Geometry {
        self.qcow2.geometry
    }

    fn place(&mut self, place: &Place) -> Result<()> {
        let size = self.qcow2.virtual_size();
        let end = place.guest.checked_add(place.len).filter(|end| *end <= size);
        let end = end.ok_or_else(|| Error::os(libc::EIO))?;
        let granule = self.geometry().subcluster_size();
        if !place.guest.is_multiple_of(granule) || (!end.is_multiple_of(granule) && end != size) {
            return Err(Error::os(libc::EINVAL));
        }
        match place.payload {
            Payload::Plain => self.plain(place.guest, end),
            Payload::Compressed { stored } => self.compressed(place.guest, end, stored),
        }
    }

    /// Plans plain payload, run by run of clusters that all need a new place, or all have one.
    fn plain(&mut self, guest: u64, end: u64) -> Result<()> {
        let geometry = self.geometry();
        let cluster = geometry.cluster_size();
        let mut at = guest;
        while at < end {
            let table = self.meta.writable_table(geometry, geometry.l1_index(GuestOffset(at)))?;
            let span_end = (at / geometry.l2_span() + 1) * geometry.l2_span();
            let part_end = end.min(span_end);
            // What of this part waits for a new place, which shall be contiguous.
            let mut waiting = Vec::new();
            while at < part_end {
                let empty = self.empty_clusters(table, at, part_end)?;
                if empty > 0 {
                    let next = at + empty * cluster;
                    waiting.push(Waiting { from: at, to: next, old: L2Entry::default() });
                    at = next;
                    continue;
                }
                let next = (geometry.cluster_start(at) + cluster).min(part_end);
                let entry = self.meta.l2.get(table)?.get(geometry.l2_index(GuestOffset(at)));
                if !self.same_cluster(at, next)? {
                    match self.target(at, entry)? {
                        Target::InPlace(host) => {
                            self.allocate(&mut waiting)?;
                            self.in_place(at, next, entry, host)?;
                        }
                        Target::New => waiting.push(Waiting { from: at, to: next, old: entry }),
                    }
                }
                at = next;
            }
            self.allocate(&mut waiting)?;
        }
        Ok(())
    }

    /// How many whole clusters from `at` up to `end`, which are in the same L2 table, have empty entries and get a new
    /// place. Most of a new image is such, and takes one step for a run of clusters instead of one for each.
    fn empty_clusters(&mut self, table: HostOffset, at: u64, end: u64) -> Result<u64> {
        let geometry = self.geometry();
        let whole = (end - at) >> geometry.cluster_bits;
        if geometry.external_data || geometry.in_cluster(at) != 0 || whole == 0 {
            return Ok(0);
        }
        Ok(self.meta.l2.get(table)?.empty_entries(geometry.l2_index(GuestOffset(at)), whole))
    }

    /// Whether this cluster has been planned already, by an earlier place that covers other subclusters of it.
    fn same_cluster(&mut self, from: u64, to: u64) -> Result<bool> {
        let geometry = self.geometry();
        let start = geometry.cluster_start(from);
        let Some(change) = self.reservation.changes.last_mut().filter(|change| change.guest == start) else {
            return Ok(false);
        };
        let (ChangeKind::Plain { written, .. }, HostOffset(host)) = (&mut change.kind, change.host) else {
            return Err(Error::os(libc::EINVAL));
        };
        *written |= subclusters(geometry, from, to);
        let untouched = change.untouched;
        self.reservation.add_piece(from, to, host + (from - start), untouched);
        Ok(true)
    }

    /// Where a cluster can be written.
    fn target(&mut self, guest: u64, entry: L2Entry) -> Result<Target> {
        let geometry = self.geometry();
        if geometry.external_data {
            // Guest data has the guest's own offsets there, and nobody shares it.
            return Ok(Target::InPlace(HostOffset(geometry.cluster_start(guest))));
        }
        if entry == L2Entry::default() {
            return Ok(Target::New);
        }
        let mapping = entry.mapping(geometry).map_err(|error| match entry.copied() {
            true => {
                let (noun, offset, guest) = (entry.noun(), entry.raw_offset(), hex(geometry.cluster_start(guest)));
                Error::fatal_corruption(format!("{noun} offset {offset:#x} unaligned (guest offset: {guest})"))
            }
            false => self.meta.corrupt_entry(geometry, guest, &error),
        })?;
        let host = match mapping {
            Mapping::Normal(host) | Mapping::Zero(Some(host)) if entry.copied() => host,
            _ => return Ok(Target::New),
        };
        check_overlap(&self.meta.writer()?.refcounts, host, geometry.cluster_size())?;
        Ok(Target::InPlace(host))
    }

    /// Adds the pieces of a range whose bytes can all be written where they are, without a change of metadata. Says `false`
    /// for any other, also where there is something wrong with it, which [`Self::place`] reports.
    fn all_in_place(&mut self, guest: u64, end: u64) -> Result<bool> {
        let geometry = self.geometry();
        let mut at = guest;
        while at < end {
            let next = (geometry.cluster_start(at) + geometry.cluster_size()).min(end);
            let l1_index = geometry.l1_index(GuestOffset(at));
            let Some(table) = self.meta.l1.get(l1_index).table() else { return Ok(false) };
            if check_l2_offset(geometry, table, l1_index).is_err() {
                return Ok(false);
            }
            let entry = self.meta.l2.get(table)?.get(geometry.l2_index(GuestOffset(at)));
            let Ok(Target::InPlace(host)) = self.target(at, entry) else { return Ok(false) };
            let kind = ChangeKind::Plain { written: subclusters(geometry, at, next), replaces: false };
            let change =
                Change { guest: geometry.cluster_start(at), host, clusters: 1, old: entry, untouched: false, kind };
            if change.new_entry(geometry) != entry {
                return Ok(false);
            }
            self.reservation.add_piece(at, next, host.0 + geometry.in_cluster(at), false);
            at = next;
        }
        Ok(true)
    }

    fn in_place(&mut self, from: u64, to: u64, entry: L2Entry, host: HostOffset) -> Result<()> {
        let geometry = self.geometry();
        let start = geometry.cluster_start(from);
        let written = subclusters(geometry, from, to);
        let kind = ChangeKind::Plain { written, replaces: false };
        let change = Change { guest: start, host, clusters: 1, old: entry, untouched: false, kind };
        if change.new_entry(geometry) != entry {
            self.reservation.add_tail(from, to, &change);
            self.reservation.changes.push(change);
        }
        self.reservation.add_piece(from, to, host.0 + (from - start), false);
        Ok(())
    }

    /// Finds new clusters, in a row, for those that wait.
    fn allocate(&mut self, waiting: &mut Vec<Waiting>) -> Result<()> {
        if waiting.is_empty() {
            return Ok(());
        }
        let geometry = self.geometry();
        let wanted = waiting.iter().map(|part| part.clusters(geometry)).sum();
        let found = self.meta.writer()?.refcounts.allocate(wanted)?;
        let mut host = found.offset;
        for part in waiting.drain(..) {
            let (clusters, Waiting { from, to, old }) = (part.clusters(geometry), part);
            let start = geometry.cluster_start(from);
            let written = subclusters(geometry, from, to);
            let kind = ChangeKind::Plain { written, replaces: true };
            let change = Change { guest: start, host, clusters, old, untouched: found.untouched, kind };
            self.reservation.add_tail(from, to, &change);
            self.reservation.changes.push(change);
            self.reservation.add_piece(from, to, host.0 + (from - start), found.untouched);
            host.0 += clusters * geometry.cluster_size();
        }
        Ok(())
    }

    fn compressed(&mut self, guest: u64, end: u64, stored: u64) -> Result<()> {
        let geometry = self.geometry();
        let whole = end - guest == geometry.cluster_size() || end == self.qcow2.virtual_size();
        if geometry.in_cluster(guest) != 0 || !whole || stored == 0 || stored > geometry.cluster_size() {
            return Err(Error::os(libc::EINVAL));
        }
        if geometry.external_data {
            return Err(not_supported());
        }
        let table = self.meta.writable_table(geometry, geometry.l1_index(GuestOffset(guest)))?;
        let old = self.meta.l2.get(table)?.get(geometry.l2_index(GuestOffset(guest)));
        if old.copied() {
            // Compressed clusters only ever go where nothing is, as in the reference.
            return Err(Error::os(libc::EIO));
        }
        let host = self.meta.writer()?.refcounts.allocate_bytes(stored)?;
        let kind = ChangeKind::Compressed { stored };
        self.reservation.changes.push(Change { guest, host, clusters: 1, old, untouched: false, kind });
        let payload = Payload::Compressed { stored };
        self.reservation.pieces.push(Piece { guest, len: end - guest, host: host.0, payload, zeroed: false });
        Ok(())
    }
}

impl Meta {
    /// The entry of a guest cluster cannot be right.
    fn corrupt_entry(&self, geometry: Geometry, guest: u64, error: &Error) -> Error {
        let table = self.l1.get(geometry.l1_index(GuestOffset(guest))).table().unwrap_or(HostOffset(0));
        Error::fatal_corruption(at_entry(error, table, geometry.l2_index(GuestOffset(guest))))
    }

    /// Gives up the clusters that an entry of the guest cluster at `guest` held. They cannot be those of metadata in
    /// use.
    pub(super) fn free_entry(
        &mut self,
        geometry: Geometry,
        guest: u64,
        entry: L2Entry,
        discard: Discard,
    ) -> Result<()> {
        let run = clusters_of(geometry, entry).map_err(|error| self.corrupt_entry(geometry, guest, &error))?;
        if let Some(run) = run {
            let writer = self.writer()?;
            check_overlap(
                &writer.refcounts,
                HostOffset(run.first << geometry.cluster_bits),
                run.clusters << geometry.cluster_bits,
            )?;
            writer.free(run, discard);
        }
        Ok(())
    }
}

/// Refuses to write guest data over metadata in use.
fn check_overlap(refcounts: &Refcounts, host: HostOffset, len: u64) -> Result<()> {
    match refcounts.overlap(host, len) {
        None => Ok(()),
        Some(kind) => Err(overlap_error(kind)),
    }
}

/// The bits of the subclusters that `from..to`, within one cluster, covers; a subcluster at the end of the image counts
/// as covered. All bits in images without subclusters.
fn subclusters(geometry: Geometry, from: u64, to: u64) -> u32 {
    if !geometry.extended_l2 {
        return ALL;
    }
    let start = geometry.cluster_start(from);
    let size = geometry.subcluster_size();
    let (first, end) = ((from - start) / size, (to - start).div_ceil(size));
    let below = |bit: u64| if bit >= 32 { ALL } else { (1 << bit) - 1 };
    below(end) & !below(first)
}

/// The clusters that an L2 entry holds, if there are any.
fn clusters_of(geometry: Geometry, entry: L2Entry) -> Result<Option<Run>> {
    if geometry.external_data {
        return Ok(None);
    }
    Ok(match entry.mapping(geometry)? {
        Mapping::Normal(host) | Mapping::Zero(Some(host)) => Some(Run::of_bytes(geometry, host, 1)),
        Mapping::Compressed(run) => Some(Run::of_bytes(geometry, run.offset, run.len)),
        Mapping::Zero(None) | Mapping::Unallocated => None,
    })
}
