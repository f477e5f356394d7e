//! Reserved places: writing payload to them, publishing them, giving them back.

use super::super::entry::{L2Entry, Mapping};
use super::super::geometry::{Geometry, GuestOffset, HostOffset};
use super::super::refcount::Run;
use super::super::txn::Discard;
use super::{ALL, Meta, Qcow2};
use crate::error::{Error, Result};
use crate::image::{ExtentKind, Layer, Payload, Pending, Piece};
use crate::scratch;
use crate::storage::{DebugEvent, RangeKind, Storage};

/// Bytes of zeros, or of copied subclusters, handled at a time.
const CHUNK: usize = 1 << 20;

/// What becomes of one guest cluster, or of a run of empty ones, when its reservation is published.
#[derive(Debug)]
pub(super) struct Change {
    /// Start of the (first) guest cluster.
    pub guest: u64,
    /// Start of its place.
    pub host: HostOffset,
    /// How many clusters in a row change in the same way, in one L2 table and with their places in a row. More than one
    /// only where whole clusters get plain bytes and nothing was there before (`old` is empty).
    pub clusters: u64,
    /// The entry as it was when the place was reserved.
    pub old: L2Entry,
    /// Whether nothing was ever written to the place.
    pub untouched: bool,
    /// What is stored there.
    pub kind: ChangeKind,
}

/// See [`Change`].
#[derive(Debug)]
pub(super) enum ChangeKind {
    /// Bytes as they are.
    Plain {
        /// The subclusters that are being written.
        written: u32,
        /// Whether the place is a newly allocated cluster, so that the old one is to be given up.
        replaces: bool,
    },
    /// A compressed cluster.
    Compressed {
        /// Bytes stored.
        stored: u64,
    },
}

impl Change {
    /// Subclusters outside of the written ones whose bytes move along to the new cluster.
    fn moved(&self, geometry: Geometry) -> u32 {
        match self.kind {
            ChangeKind::Plain { written, replaces: true } if geometry.extended_l2 => self.old_data(geometry) & !written,
            _ => 0,
        }
    }

    /// Subclusters that have bytes of their own in the old cluster.
    fn old_data(&self, geometry: Geometry) -> u32 {
        match self.old.mapping(geometry) {
            Ok(Mapping::Compressed(_)) => ALL,
            Ok(Mapping::Normal(_)) => self.old.allocated_bits(),
            _ => 0,
        }
    }

    /// The (first) entry that publishes the change.
    pub fn new_entry(&self, geometry: Geometry) -> L2Entry {
        match self.kind {
            ChangeKind::Compressed { stored } => L2Entry::compressed(geometry, self.host, stored),
            ChangeKind::Plain { .. } if !geometry.extended_l2 => L2Entry::normal(self.host, true),
            ChangeKind::Plain { written, .. } => {
                let compressed = self.old.is_compressed();
                let zero = if compressed { 0 } else { self.old.zero_bits() & !written };
                let allocated = self.old_data(geometry) | written;
                L2Entry { bitmap: u64::from(zero) << 32 | u64::from(allocated), ..L2Entry::normal(self.host, true) }
            }
        }
    }

    /// The clusters that were allocated for it.
    fn allocated(&self, geometry: Geometry) -> Option<Run> {
        match self.kind {
            ChangeKind::Plain { replaces: false, .. } => None,
            ChangeKind::Plain { .. } => {
                Some(Run::of_bytes(geometry, self.host, self.clusters * geometry.cluster_size()))
            }
            ChangeKind::Compressed { stored } => Some(Run::of_bytes(geometry, self.host, stored)),
        }
    }
}

/// See [`Pending`].
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    qcow2: &'a Qcow2,
    /// Where everything goes, in guest order.
    pub pieces: Vec<Piece>,
    /// Clusters whose entries change, in guest order.
    pub changes: Vec<Change>,
    /// Ranges behind the end of the image, up to the end of its last (sub)cluster, that must not keep what a former
    /// user left there: guest and host offset, length.
    tails: Vec<(u64, u64, u64)>,
    /// Changes before this one are published, those from it on would have to be given back.
    published: usize,
}

impl<'a> Reservation<'a> {
    /// An empty reservation.
    pub fn new(qcow2: &'a Qcow2) -> Self {
        Reservation { qcow2, pieces: Vec::new(), changes: Vec::new(), tails: Vec::new(), published: 0 }
    }

    /// Adds a plain piece, merging it with the last one where both are contiguous.
    pub fn add_piece(&mut self, from: u64, to: u64, host: u64, untouched: bool) {
        let zeroed = untouched && self.qcow2.crypt.is_none() && self.qcow2.data.limits().zero_init;
        let len = to - from;
        if let Some(last) = self.pieces.last_mut()
            && last.payload == Payload::Plain
            && last.zeroed == zeroed
            && last.guest + last.len == from
            && last.host + last.len == host
        {
            last.len += len;
            return;
        }
        self.pieces.push(Piece { guest: from, len, host, payload: Payload::Plain, zeroed });
    }

    /// Notes the rest of the last (sub)cluster of the image, if `to` ends within one.
    pub fn add_tail(&mut self, from: u64, to: u64, change: &Change) {
        let unit = self.qcow2.geometry.subcluster_size();
        if to.is_multiple_of(unit) || self.qcow2.geometry.external_data {
            return;
        }
        if change.untouched && self.qcow2.crypt.is_none() && self.qcow2.data.limits().zero_init {
            return;
        }
        debug_assert!(from < to);
        let host = change.host.0 + (to - change.guest);
        self.tails.push((to, host, unit - to % unit));
    }

    /// Finds the places that were there before and read as zeros all the same: holes in clusters that were only reserved
    /// (`preallocation=metadata`), or in an external data file, which has no refcounts that tell what was never written.
    pub fn finish_pieces(&mut self) {
        if self.qcow2.crypt.is_some() {
            return;
        }
        let mut split = Vec::with_capacity(self.pieces.len());
        for piece in self.pieces.drain(..) {
            if piece.payload == Payload::Plain && !piece.zeroed {
                split_at_holes(&*self.qcow2.data, piece, &mut split);
            } else {
                split.push(piece);
            }
        }
        self.pieces = split;
    }

    /// Gives back what is not published.
    pub fn release(&mut self, meta: &mut Meta) {
        let geometry = self.qcow2.geometry;
        for change in self.changes.drain(self.published..) {
            if let (Some(run), Ok(writer)) = (change.allocated(geometry), meta.writer()) {
                // There is already an error to report; at worst the clusters stay counted.
                let _ = writer.give_back(run);
            }
        }
    }

    /// Writes whole sectors of guest bytes to a place outside of the pieces.
    fn write_raw(&self, guest: u64, host: u64, data: &mut [u8]) -> Result<()> {
        if let Some(crypt) = &self.qcow2.crypt {
            crypt.encrypt(guest, host, data)?;
        }
        self.qcow2.data.write_at(data, host)
    }

    /// Makes the new clusters complete: zeros behind the end of the image, and subclusters that move along.
    fn complete_clusters(&self) -> Result<()> {
        for &(guest, host, len) in &self.tails {
            let mut zeros = vec![0; CHUNK.min(len as usize)];
            let mut done = 0;
            while done < len {
                let now = zeros.len().min((len - done) as usize);
                zeros[..now].fill(0);
                self.write_raw(guest + done, host + done, &mut zeros[..now])?;
                done += now as u64;
            }
        }
        let geometry = self.qcow2.geometry;
        if !geometry.extended_l2 {
            return Ok(());
        }
        for change in &self.changes {
            let moved = change.moved(geometry);
            if moved != 0 {
                self.move_subclusters(change, moved)?;
            }
        }
        Ok(())
    }

    fn move_subclusters(&self, change: &Change, moved: u32) -> Result<()> {
        let size = self.qcow2.geometry.subcluster_size();
        let mut buf = vec![0; size as usize];
        for number in (0..u64::from(Geometry::SUBCLUSTERS)).filter(|number| moved >> number & 1 != 0) {
            let guest = change.guest + number * size;
            let readable = size.min(self.qcow2.virtual_size().saturating_sub(guest)) as usize;
            buf.fill(0);
            self.read_old(guest, &mut buf[..readable])?;
            self.write_raw(guest, change.host.0 + number * size, &mut buf)?;
        }
        Ok(())
    }

    fn read_old(&self, guest: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = guest + done as u64;
            let extent = self.qcow2.map(at, (buf.len() - done) as u64)?;
            if matches!(extent.kind, ExtentKind::Unallocated) {
                // Allocated when it was planned: somebody else changes the same cluster.
                return Err(changed_meanwhile());
            }
            let end = done + extent.len as usize;
            self.qcow2.read(&extent, at, &mut buf[done..end])?;
            done = end;
        }
        Ok(())
    }

    fn publish(&mut self, meta: &mut Meta) -> Result<()> {
        let geometry = self.qcow2.geometry;
        meta.writer()?.payload_written();
        // Neighbours are in one table, which does not move meanwhile.
        let mut known = None;
        while let Some(change) = self.changes.get(self.published) {
            let guest = GuestOffset(change.guest);
            let l1_index = geometry.l1_index(guest);
            let place = match known {
                Some((index, place)) if index == l1_index => place,
                _ => meta.writable_table(geometry, l1_index)?,
            };
            known = Some((l1_index, place));
            let index = geometry.l2_index(guest);
            let new = change.new_entry(geometry);
            let table = meta.l2.get(place)?;
            let empty = change.old == L2Entry::default();
            let unchanged = if empty {
                table.empty_entries(index, change.clusters) == change.clusters
            } else {
                table.get(index) == change.old
            };
            if !unchanged {
                return Err(changed_meanwhile());
            }
            if !empty && change.allocated(geometry).is_some() {
                meta.free_entry(geometry, change.guest, change.old, Discard::Other)?;
            }
            meta.l2.get(place)?.set_run(index, change.clusters, new, geometry.cluster_size());
            self.published += 1;
        }
        Ok(())
    }
}

/// Adds a piece, cut where holes of the file begin and end.
fn split_at_holes(data: &dyn Storage, mut piece: Piece, pieces: &mut Vec<Piece>) {
    while piece.len > 0 {
        let (zeroed, len) = match data.extent(piece.host, piece.len) {
            Ok((kind, len)) => (kind == RangeKind::Hole, len.clamp(1, piece.len)),
            // Then it is written like any other place.
            Err(_) => (false, piece.len),
        };
        pieces.push(Piece { len, zeroed, ..piece });
        piece.guest += len;
        piece.host += len;
        piece.len -= len;
    }
}

/// Two writers at the same cluster at the same time: the caller's mistake, but never lost data.
fn changed_meanwhile() -> Error {
    Error::os(libc::EBUSY).context("The cluster was changed while it was being written")
}

impl Pending for Reservation<'_> {
    fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    fn write(&self, guest: u64, data: &[u8]) -> Result<()> {
        let mut data = data;
        let mut at = guest;
        while !data.is_empty() {
            let index = self.pieces.partition_point(|piece| piece.guest + piece.len <= at);
            let piece = self.pieces.get(index).filter(|piece| piece.guest <= at && piece.payload == Payload::Plain);
            let piece = piece.ok_or_else(|| Error::os(libc::EINVAL))?;
            let inside = at - piece.guest;
            let (now, rest) = data.split_at(data.len().min((piece.len - inside) as usize));
            self.qcow2.data.event(DebugEvent::WriteAio);
            match &self.qcow2.crypt {
                None => self.qcow2.data.write_at(now, piece.host + inside)?,
                Some(crypt) => {
                    for (number, part) in (0..).zip(now.chunks(CHUNK)) {
                        let skipped = number * CHUNK as u64;
                        let host = piece.host + inside + skipped;
                        scratch::with(part.len(), |sectors| {
                            sectors.copy_from_slice(part);
                            crypt.encrypt(at + skipped, host, sectors)?;
                            self.qcow2.data.write_at(sectors, host)
                        })?;
                    }
                }
            }
            at += now.len() as u64;
            data = rest;
        }
        Ok(())
    }

    fn write_compressed(&self, guest: u64, stored: &[u8]) -> Result<()> {
        let index = self.pieces.partition_point(|piece| piece.guest < guest);
        let len = stored.len() as u64;
        let wanted = Payload::Compressed { stored: len };
        let piece = self.pieces.get(index).filter(|piece| piece.guest == guest && piece.payload == wanted);
        let piece = piece.ok_or_else(|| Error::os(libc::EINVAL))?;
        self.qcow2.file.event(DebugEvent::WriteCompressed);
        self.qcow2.file.write_at(stored, piece.host)
    }

    fn commit(mut self: Box<Self>) -> Result<()> {
        self.complete_clusters()?;
        if self.changes.is_empty() {
            // Everything went where it already was; the next flush must still wait for it.
            return self.qcow2.meta().writer().map(|writer| writer.payload_written());
        }
        let mut meta = self.qcow2.meta();
        let published = self.publish(&mut meta);
        let result = meta.guard(published);
        self.release(&mut meta);
        result
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.published < self.changes.len() {
            let mut meta = self.qcow2.meta();
            self.release(&mut meta);
        }
    }
}
