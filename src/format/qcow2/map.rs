//! From guest offsets to extents. Specification: "Cluster mapping", "Extended L2 Entries".

use std::sync::Arc;

use super::entry::{L2Entry, Mapping, at_entry};
use super::geometry::{Geometry, GuestOffset, HostOffset};
use super::refcount::{Refcounts, hex};
use super::row::row;
use super::tables::L2Table;
use super::{Meta, Qcow2};
use crate::error::{Error, Result};
use crate::image::{Extent, ExtentKind};

impl Qcow2 {
    /// What lies at `guest`, for as far as it is of one kind and contiguous in the image within `len` bytes.
    pub(super) fn map_extent(&self, guest: u64, len: u64) -> Result<Extent> {
        let mut meta = self.meta();
        let geometry = self.geometry;
        let l1_index = geometry.l1_index(GuestOffset(guest));
        let Some(table_offset) = meta.l1.get(l1_index).table() else {
            let len = unallocated_tables(&meta, geometry, guest, len);
            return Ok(Extent { guest, len, kind: ExtentKind::Unallocated });
        };
        check_l2_offset(geometry, table_offset, l1_index)?;
        let reader = TableReader {
            geometry,
            version: meta.header.version,
            table_offset,
            table: meta.l2.get(table_offset)?,
            base: l1_index * geometry.l2_span(),
        };
        reader.extent(guest, len, self.crypt.is_some())
    }
}

impl Qcow2 {
    /// The part of an allocated cluster behind an unallocated subcluster.
    pub(super) fn reserved_place(&self, guest: u64) -> Result<(Option<u64>, u64)> {
        let geometry = self.geometry;
        if !geometry.extended_l2 || self.crypt.is_some() {
            return Ok((None, u64::MAX));
        }
        let mut meta = self.meta();
        let Some(table) = meta.l1.get(geometry.l1_index(GuestOffset(guest))).table() else {
            return Ok((None, u64::MAX));
        };
        let entry = meta.l2.get(table)?.get(geometry.l2_index(GuestOffset(guest)));
        let in_cluster = geometry.in_cluster(guest);
        Ok(match entry.mapping(geometry)? {
            Mapping::Normal(host) => (Some(host.0 + in_cluster), geometry.cluster_size() - in_cluster),
            _ => (None, geometry.cluster_size() - in_cluster),
        })
    }

    /// Whether clearly more clusters are in use than the file has blocks for, by the reference's measure: more by a
    /// ninth, and by two at least.
    pub(super) fn has_unwritten_clusters(&self) -> Result<bool> {
        let Some(fd) = self.file.fd() else { return Ok(false) };
        let cluster = self.geometry.cluster_size();
        let written = crate::storage::allocated(fd)? / cluster;
        let threshold = (written * 10 / 9).max(written + 2);
        let end = self.geometry.clusters(self.file.len()?);
        let mut refcounts = self.read_refcounts()?;
        let (mut used, mut at) = (0, 0);
        while at < end && used < threshold {
            let (refcount, run) = refcounts.get_run(at, end - at)?;
            used += if refcount > 0 { run } else { 0 };
            at += run;
        }
        Ok(used >= threshold)
    }

    /// The refcounts as they are on disk.
    pub(super) fn read_refcounts(&self) -> Result<Refcounts> {
        let (offset, clusters) = {
            let meta = self.meta();
            (meta.header.refcount_table_offset, meta.header.refcount_table_clusters)
        };
        let mut refcounts =
            Refcounts::open(Arc::clone(&self.file), self.geometry, HostOffset(offset), u64::from(clusters))?;
        refcounts.only_read();
        Ok(refcounts)
    }
}

/// How many bytes from `guest` no L2 table covers.
fn unallocated_tables(meta: &Meta, geometry: Geometry, guest: u64, len: u64) -> u64 {
    let span = geometry.l2_span();
    let mut covered = span - guest % span;
    while covered < len && meta.l1.get(geometry.l1_index(GuestOffset(guest + covered))).table().is_none() {
        covered += span;
    }
    covered.min(len)
}

/// L2 tables lie on cluster borders.
pub(super) fn check_l2_offset(geometry: Geometry, offset: HostOffset, l1_index: u64) -> Result<()> {
    if geometry.in_cluster(offset.0) != 0 {
        let text = format!("L2 table offset {:#x} unaligned (L1 index: {})", offset.0, hex(l1_index));
        return Err(Error::corruption_event(text));
    }
    Ok(())
}

/// What one unit (a cluster, or a subcluster where there are any) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Nothing here.
    Unallocated,
    /// Data at a host offset.
    Data(u64),
    /// Zeros, with the place that is reserved for them.
    Zero(Option<u64>),
    /// A compressed cluster.
    Compressed {
        /// Host offset of the compressed bytes.
        host: u64,
        /// How many they are at most.
        stored: u64,
    },
}

/// Looks at the entries of one L2 table.
pub(super) struct TableReader<'a> {
    /// The layout.
    pub geometry: Geometry,
    /// The version of the image.
    pub version: u32,
    /// Where the table lies.
    pub table_offset: HostOffset,
    /// The table.
    pub table: &'a L2Table,
    /// Guest offset that the first entry stands for.
    pub base: u64,
}

impl TableReader<'_> {
    fn extent(&self, guest: u64, len: u64, encrypted: bool) -> Result<Extent> {
        let geometry = self.geometry;
        let unit_size = geometry.subcluster_size();
        let first = self.unit(guest)?;
        let end = guest.saturating_add(len).min(self.base + geometry.l2_span());
        if let Unit::Compressed { host, stored } = first {
            let cluster = geometry.cluster_start(guest);
            let end = end.min(cluster + geometry.cluster_size());
            return Ok(Extent { guest, len: end - guest, kind: ExtentKind::Compressed { host, stored, cluster } });
        }
        let unit_start = guest - guest % unit_size;
        let mut at = self.row_end(first, guest, end);
        while at < end && self.continues(first, at - unit_start, at) {
            at = self.row_end(first, at, end);
        }
        let skipped = guest - unit_start;
        let kind = match first {
            Unit::Data(host) => ExtentKind::Data { host: host + skipped, encrypted },
            Unit::Zero(host) => ExtentKind::Zero { host: host.map(|host| host + skipped), encrypted },
            _ => ExtentKind::Unallocated,
        };
        Ok(Extent { guest, len: at.min(end) - guest, kind })
    }

    /// The end of the units from the one at `guest` on that are seen at a glance to go on with it, which is of the same kind
    /// as `unit`. At least its own end; beyond `end` only if that lies in the same cluster.
    fn row_end(&self, unit: Unit, guest: u64, end: u64) -> u64 {
        let geometry = self.geometry;
        let start = geometry.cluster_start(guest);
        let entries = self.table.entries(geometry.l2_index(GuestOffset(guest)), geometry.clusters(end - start).max(1));
        let stride = geometry.l2_entry_size() as usize;
        let step = match unit {
            Unit::Data(_) | Unit::Zero(Some(_)) => geometry.cluster_size(),
            _ => 0,
        };
        let mut clusters = row(entries, stride, step);
        if geometry.extended_l2 {
            if !self.table.get(geometry.l2_index(GuestOffset(guest))).is_even() {
                return guest - guest % geometry.subcluster_size() + geometry.subcluster_size();
            }
            clusters = clusters.min(row(&entries[8..], stride, 0));
        }
        start + clusters as u64 * geometry.cluster_size()
    }

    /// Whether the unit at `guest` goes on with what `first` began `distance` bytes before. A damaged entry ends the
    /// extent; whoever asks for it gets the error.
    fn continues(&self, first: Unit, distance: u64, guest: u64) -> bool {
        let expected = match first {
            Unit::Data(host) => Unit::Data(host + distance),
            Unit::Zero(host) => Unit::Zero(host.map(|host| host + distance)),
            Unit::Unallocated => Unit::Unallocated,
            Unit::Compressed { .. } => return false,
        };
        self.unit(guest).is_ok_and(|unit| unit == expected)
    }

    /// The unit in which `guest` lies.
    pub fn unit(&self, guest: u64) -> Result<Unit> {
        let geometry = self.geometry;
        let index = geometry.l2_index(GuestOffset(guest));
        let entry = self.table.get(index);
        if let Some(what) = entry.contradiction(geometry, self.version) {
            return Err(self.corrupt(what, index));
        }
        let mapping = entry.mapping(geometry).map_err(|error| self.corrupt(&error.to_string(), index))?;
        if geometry.external_data {
            self.check_external(entry, mapping, guest, index)?;
        }
        Ok(match mapping {
            Mapping::Compressed(run) => Unit::Compressed { host: run.offset.0, stored: run.len },
            _ if geometry.extended_l2 => self.subcluster(entry, mapping, guest),
            Mapping::Unallocated => Unit::Unallocated,
            Mapping::Normal(host) => Unit::Data(host.0),
            Mapping::Zero(host) => Unit::Zero(host.map(|host| host.0)),
        })
    }

    fn subcluster(&self, entry: L2Entry, mapping: Mapping, guest: u64) -> Unit {
        let geometry = self.geometry;
        let number = geometry.in_cluster(guest) / geometry.subcluster_size();
        let bit = 1_u32 << number;
        let place = match mapping {
            Mapping::Normal(host) => Some(host.0 + number * geometry.subcluster_size()),
            _ => None,
        };
        match place {
            Some(host) if entry.allocated_bits() & bit != 0 => Unit::Data(host),
            _ if entry.zero_bits() & bit != 0 => Unit::Zero(place),
            _ => Unit::Unallocated,
        }
    }

    /// In an external data file every cluster has the guest's own offset.
    fn check_external(&self, entry: L2Entry, mapping: Mapping, guest: u64, index: u64) -> Result<()> {
        let expected = self.geometry.cluster_start(guest);
        match mapping {
            Mapping::Compressed(_) => {
                Err(self.corrupt("Compressed cluster entry found in image with external data file", index))
            }
            Mapping::Normal(host) | Mapping::Zero(Some(host)) if host.0 != expected => {
                let text = format!(
                    "External data file host cluster offset {} does not match guest cluster offset: {}, L2 index: {})",
                    hex(entry.raw_offset()),
                    hex(expected),
                    hex(index)
                );
                Err(Error::corruption_event(text))
            }
            _ => Ok(()),
        }
    }

    fn corrupt(&self, what: &str, index: u64) -> Error {
        Error::corruption_event(at_entry(what, self.table_offset, index))
    }
}
