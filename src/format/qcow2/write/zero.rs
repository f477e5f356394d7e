//! Making guest ranges read as zeros without writing payload.

use super::super::entry::{L2Entry, Mapping};
use super::super::geometry::{GuestOffset, HostOffset};
use super::super::txn::Discard;
use super::{ALL, Meta, Qcow2, check_overlap, subclusters};
use crate::error::{Error, Result};
use crate::image::{Payload, Place, ZeroFlags};
use crate::storage::ZeroMode;

/// Guest bytes handled under one lock.
const STEP: u64 = 1 << 30;
/// Zeros written at a time where the format has no way to say "zero".
const CHUNK: u64 = 2 << 20;

impl Qcow2 {
    /// See [`crate::image::Layer::zero`].
    pub(in super::super) fn zero_range(&self, guest: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        let size = self.virtual_size();
        let end = guest.checked_add(len).filter(|end| *end <= size).ok_or_else(|| Error::os(libc::EIO))?;
        let granule = self.geometry.subcluster_size();
        if !guest.is_multiple_of(granule) || (!end.is_multiple_of(granule) && end != size) {
            return Err(Error::os(libc::EINVAL));
        }
        let (version, raw_data, has_backing) = {
            let mut meta = self.meta();
            meta.writer()?;
            meta.record_write(&self.file, guest, len)?;
            (meta.header.version, meta.header.data_file_raw(), meta.header.backing_file.is_some())
        };
        if version < 3 && has_backing {
            return self.write_zeros(guest, end);
        }
        if raw_data {
            // The data file alone must show the same bytes.
            let mode = if flags.may_unmap { ZeroMode::Discard } else { ZeroMode::Allocate };
            self.data.zero(guest, len, mode)?;
        }
        let mut at = guest;
        while at < end {
            let mut meta = self.meta();
            meta.writer()?;
            if meta.needs_commit() {
                meta.commit()?;
            }
            let step = end.min(at.saturating_add(STEP.min(self.geometry.l2_span())));
            let zeroed = self.zero_clusters(&mut meta, at, step, flags, version);
            let written = meta.guard(zeroed)?;
            drop(meta);
            // Parts of compressed clusters: all other subclusters have to get bytes of their own.
            for (from, to) in written {
                self.write_zeros(from, to)?;
            }
            at = step;
        }
        Ok(())
    }

    /// Changes the entries of a range; returns the ranges that have to be written instead.
    fn zero_clusters(
        &self,
        meta: &mut Meta,
        from: u64,
        to: u64,
        flags: ZeroFlags,
        version: u32,
    ) -> Result<Vec<(u64, u64)>> {
        let geometry = self.geometry;
        let mut written = Vec::new();
        let mut at = from;
        while at < to {
            let next = (geometry.cluster_start(at) + geometry.cluster_size()).min(to);
            let covered = subclusters(geometry, at, next);
            let l1_index = geometry.l1_index(GuestOffset(at));
            if version < 3 && meta.l1.get(l1_index).table().is_none() {
                at = next;
                continue;
            }
            let table = meta.writable_table(geometry, l1_index)?;
            let index = geometry.l2_index(GuestOffset(at));
            let old = meta.l2.get(table)?.get(index);
            if old.is_compressed() && covered != ALL && self.covers_rest(at, next).is_none() {
                written.push((at, next));
                at = next;
                continue;
            }
            let covered = self.covers_rest(at, next).unwrap_or(covered);
            let discards = meta.writer()?.discards;
            // A place that a snapshot shares is not ours to empty.
            let keeps_place = discards.keep_places && old.copied();
            let unmap = flags.may_unmap && !keeps_place;
            let zeroed = self.zeroed_entry(old, covered, ZeroFlags { may_unmap: unmap }, version);
            let (new, given_up) = zeroed.map_err(|error| meta.corrupt_entry(geometry, at, &error))?;
            if new != old {
                if given_up {
                    let why = if flags.may_unmap { Discard::Request } else { Discard::Other };
                    meta.free_entry(geometry, at, old, why)?;
                }
                meta.l2.get(table)?.set(index, new);
                if keeps_place && flags.may_unmap && discards.request && covered == ALL {
                    self.empty_place(meta, old)?;
                }
                if given_up && geometry.external_data && flags.may_unmap {
                    let start = geometry.cluster_start(at);
                    // As for the image file: giving space back must not make the operation fail.
                    let _ = self.data.zero(start, next - start, ZeroMode::Discard);
                }
            }
            at = next;
        }
        Ok(written)
    }

    /// Gives back the space of a cluster that keeps its place. Nothing but zeros may be seen there from now on, so this
    /// need not wait for the entry; where a cipher would show something else, the space stays.
    fn empty_place(&self, meta: &mut Meta, entry: L2Entry) -> Result<()> {
        let geometry = self.geometry;
        if let Mapping::Normal(host) | Mapping::Zero(Some(host)) = entry.mapping(geometry)?
            && self.crypt.is_none()
        {
            check_overlap(&meta.writer()?.refcounts, host, geometry.cluster_size())?;
            // Giving space back is a kindness; it must not make the operation fail.
            let _ = self.data.zero(host.0, geometry.cluster_size(), ZeroMode::Discard);
        }
        Ok(())
    }

    /// A range that starts with its cluster and ends with the image counts as the whole cluster.
    fn covers_rest(&self, from: u64, to: u64) -> Option<u32> {
        (self.geometry.in_cluster(from) == 0 && to == self.virtual_size()).then_some(ALL)
    }

    /// What the entry becomes, and whether its clusters are given up.
    fn zeroed_entry(&self, old: L2Entry, covered: u32, flags: ZeroFlags, version: u32) -> Result<(L2Entry, bool)> {
        let geometry = self.geometry;
        let mapping = old.mapping(geometry)?;
        if version < 3 {
            return Ok((L2Entry::default(), true));
        }
        if covered != ALL {
            let zero = old.zero_bits() | covered;
            let allocated = old.allocated_bits() & !covered;
            return Ok((L2Entry { bitmap: u64::from(zero) << 32 | u64::from(allocated), ..old }, false));
        }
        let has_place = matches!(mapping, Mapping::Normal(_) | Mapping::Zero(Some(_)));
        let given_up = mapping_is_compressed(mapping) || (flags.may_unmap && has_place);
        if geometry.extended_l2 {
            let raw = if given_up { 0 } else { old.raw };
            return Ok((L2Entry { raw, bitmap: u64::from(ALL) << 32 }, given_up));
        }
        let kept: Option<HostOffset> = match mapping {
            Mapping::Normal(host) | Mapping::Zero(Some(host)) if !given_up => Some(host),
            _ => None,
        };
        Ok((L2Entry::zero(kept, old.copied()), given_up))
    }

    /// Writes zeros like any other bytes.
    fn write_zeros(&self, from: u64, to: u64) -> Result<()> {
        let zeros = vec![0; CHUNK.min(to - from) as usize];
        let mut at = from;
        while at < to {
            let len = (CHUNK - at % CHUNK).min(to - at);
            let pending = self.prepare_places(&[Place { guest: at, len, payload: Payload::Plain }])?;
            if self.crypt.is_some() || pending.pieces().iter().any(|piece| !piece.zeroed) {
                pending.write(at, &zeros[..len as usize])?;
            }
            pending.commit()?;
            at += len;
        }
        Ok(())
    }
}

fn mapping_is_compressed(mapping: Mapping) -> bool {
    matches!(mapping, Mapping::Compressed(_))
}
