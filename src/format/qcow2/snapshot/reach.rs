//! What L1 tables reach: the L2 tables below them, and the clusters that these use.
//!
//! L2 tables are walked in the order in which they lie in the file, a piece of at most [`PIECE`] bytes at a time.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::format::qcow2::entry::{L1Entry, L2Entry, Mapping, at_entry};
use crate::format::qcow2::geometry::{Geometry, HostOffset};
use crate::format::qcow2::refcount::{Run, hex};
use crate::format::qcow2::row::{row, word};
use crate::storage::Storage;
use crate::units::MIB;

/// How many bytes of neighbouring L2 tables are read at a time (at least one table).
pub const PIECE: u64 = MIB;

/// L2 tables in the order of their offsets; one that several entries refer to is there several times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables(Vec<HostOffset>);

impl Tables {
    /// The tables that an L1 table refers to. Fails where an entry cannot be right.
    pub fn of(l1: &[L1Entry], geometry: Geometry) -> Result<Self> {
        let mut tables = Vec::new();
        for (index, table) in l1.iter().enumerate().filter_map(|(index, entry)| Some((index, entry.table()?))) {
            if geometry.in_cluster(table.0) != 0 {
                let index = hex(index as u64);
                let text = format!("L2 table offset {:#x} unaligned (L1 index: {index})", table.0);
                return Err(Error::fatal_corruption(text));
            }
            tables.push(table);
        }
        Ok(Tables::at(tables))
    }

    /// What `self` has and `other` has not, and the other way round.
    pub fn differences(&self, other: &Tables) -> (Tables, Tables) {
        let (mut ours, mut theirs) = (Tables::default(), Tables::default());
        let (mut left, mut right) = (&self.0[..], &other.0[..]);
        loop {
            match (left, right) {
                ([a, left_rest @ ..], [b, right_rest @ ..]) if a == b => (left, right) = (left_rest, right_rest),
                ([a, rest @ ..], [b, ..]) if a < b => {
                    ours.0.push(*a);
                    left = rest;
                }
                (_, [b, rest @ ..]) => {
                    theirs.0.push(*b);
                    right = rest;
                }
                (rest, []) => {
                    ours.0.extend_from_slice(rest);
                    return (ours, theirs);
                }
            }
        }
    }

    /// Shows every table to `visit`.
    pub fn each(&self, visit: impl FnMut(HostOffset)) {
        self.0.iter().copied().for_each(visit);
    }

    /// These tables, each as often as it is there.
    pub fn at(mut offsets: Vec<HostOffset>) -> Self {
        offsets.sort_unstable();
        Tables(offsets)
    }

    /// These tables, each once.
    pub fn distinct(mut self) -> Self {
        self.0.dedup();
        self
    }

    /// The first `count` of them.
    pub fn first(&self, count: usize) -> Tables {
        Tables(self.0[..count].to_vec())
    }

    /// Shows every table to `visit`: which of them it is, where it lies, and its bytes.
    pub fn read(
        &self,
        file: &dyn Storage,
        geometry: Geometry,
        mut visit: impl FnMut(usize, HostOffset, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let cluster = geometry.cluster_size();
        let mut buffer = Vec::new();
        for piece in self.pieces(cluster) {
            let start = piece.start;
            let tables = self.load(piece, file, cluster, &mut buffer)?;
            for (index, (offset, bytes)) in tables.iter().zip(buffer.chunks_exact(cluster as usize)).enumerate() {
                visit(start + index, *offset, bytes)?;
            }
        }
        Ok(())
    }

    /// Reads the tables of a piece into `buffer`, one behind the other, and tells where they lie.
    pub fn load(
        &self,
        piece: Range<usize>,
        file: &dyn Storage,
        cluster: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<&[HostOffset]> {
        let tables = &self.0[piece];
        buffer.resize(tables.len() * cluster as usize, 0);
        file.read_at(buffer, tables[0].0)?;
        Ok(tables)
    }

    /// Runs of neighbouring tables, as indices.
    pub fn pieces(&self, cluster: u64) -> impl Iterator<Item = Range<usize>> {
        let most = (PIECE / cluster).max(1) as usize;
        let mut start = 0;
        std::iter::from_fn(move || {
            let tables = &self.0[start..];
            let neighbours = tables.windows(2).take(most - 1).take_while(|pair| pair[0].0 + cluster == pair[1].0);
            let len = neighbours.count() + 1;
            let range = start..start + len;
            start = range.end;
            (!tables.is_empty()).then_some(range)
        })
    }
}

/// The compressed clusters of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compressed {
    /// How many guest clusters they are.
    pub clusters: u64,
    /// The bytes in which they are stored, up to the end of the sector in which each ends.
    pub bytes: u64,
}

/// The clusters that a table and its entries use: its own first, then one run for every row of neighbours. Returns what is
/// compressed among them.
pub fn collect_runs(geometry: Geometry, table: HostOffset, bytes: &[u8], runs: &mut Vec<Run>) -> Result<Compressed> {
    collect(geometry, table, bytes, runs, Err)
}

/// The same, without the entries that cannot be right.
pub fn collect_sound_runs(geometry: Geometry, table: HostOffset, bytes: &[u8], runs: &mut Vec<Run>) {
    // It has no other reason to fail.
    let _ = collect(geometry, table, bytes, runs, |_| Ok(()));
}

fn collect(
    geometry: Geometry,
    table: HostOffset,
    bytes: &[u8],
    runs: &mut Vec<Run>,
    damaged: impl Fn(Error) -> Result<()>,
) -> Result<Compressed> {
    let bits = geometry.cluster_bits;
    let mut compressed = Compressed::default();
    runs.clear();
    runs.push(Run { first: table.0 >> bits, clusters: 1 });
    let step = geometry.l2_entry_size() as usize;
    let mut index = 0;
    while index * step < bytes.len() {
        let entries = &bytes[index * step..];
        let entry = L2Entry { raw: word(entries), bitmap: 0 };
        index += 1;
        let mapping = match entry.mapping(geometry) {
            Ok(mapping) => mapping,
            Err(error) => {
                damaged(Error::fatal_corruption(at_entry(error, table, index as u64 - 1)))?;
                continue;
            }
        };
        let run = match mapping {
            Mapping::Unallocated | Mapping::Zero(None) => continue,
            Mapping::Normal(host) | Mapping::Zero(Some(host)) => {
                let clusters = clusters_in_row(geometry, entries);
                index += clusters - 1;
                Run { first: host.0 >> bits, clusters: clusters as u64 }
            }
            Mapping::Compressed(place) => {
                compressed.clusters += 1;
                compressed.bytes += place.len;
                Run::of_bytes(geometry, place.offset, place.len)
            }
        };
        match runs.last_mut() {
            Some(last) if last.end() == run.first => last.clusters += run.clusters,
            _ => runs.push(run),
        }
    }
    Ok(compressed)
}

/// How many entries from the first one on, which has a cluster of its own, are like it but for the cluster, which follows
/// that of the one before.
pub fn clusters_in_row(geometry: Geometry, entries: &[u8]) -> usize {
    row(entries, geometry.l2_entry_size() as usize, geometry.cluster_size())
}

#[cfg(test)]
#[path = "reach_tests.rs"]
mod tests;
