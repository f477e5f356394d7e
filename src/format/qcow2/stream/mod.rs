//! New images that are written as a stream.
//!
//! Everything follows from which clusters have data. In the file lie header, refcount table, refcount blocks, L1 table, LUKS
//! header, and then each L2 table with the clusters that it maps behind it, in guest order. There are no gaps, so all
//! refcounts are one, and the place of a cluster is found by counting what lies before it.

mod set;

use std::sync::{Mutex, PoisonError};

use self::set::ClusterSet;
use super::create::check_size;
use super::crypt::{CreateCrypt, Crypt};
use super::entry::{L1Entry, L2Entry};
use super::geometry::{Geometry, HostOffset};
use super::header::{CryptoPointer, Header};
use super::measure::refcount_clusters;
use super::options;
use super::refcount::{MAX_TABLE_BYTES, width};
use crate::error::{Error, Result};
use crate::format::StreamRequest;
use crate::image::{Layout, Preallocation, Range, StreamImage};
use crate::storage::OutputStream;

/// A new image that goes to `request.out`.
pub fn stream(request: StreamRequest<'_>) -> Result<Box<dyn StreamImage>> {
    let image = options::check(request.options, request.size, &request.context.secrets)?;
    check_size(&image.header)?;
    if image.data_file.is_some() || image.preallocation != Preallocation::Off {
        return Err(Error::unsupported("Streams can have neither an external data file nor preallocation"));
    }
    Ok(Box::new(Stream {
        out: request.out,
        geometry: image.header.geometry(),
        header: image.header,
        new_crypt: image.crypt,
        crypt: None,
        data: ClusterSet::default(),
        zeros: ClusterSet::default(),
        tables: ClusterSet::default(),
        first: 0,
        cursor: Mutex::default(),
    }))
}

struct Stream {
    out: OutputStream,
    header: Header,
    geometry: Geometry,
    new_crypt: Option<CreateCrypt>,
    crypt: Option<Crypt>,
    /// Guest clusters that have data.
    data: ClusterSet,
    /// Guest clusters that are marked to read as zeros.
    zeros: ClusterSet,
    /// L1 indices of L2 tables.
    tables: ClusterSet,
    /// Number of the host cluster behind everything that the header points to.
    first: u64,
    cursor: Mutex<Cursor>,
}

/// How far the image is written.
#[derive(Debug, Default)]
struct Cursor {
    /// The data of guest clusters below this one has been.
    cluster: u64,
    /// L2 tables with L1 indices below this one have been.
    table: u64,
}

impl Stream {
    /// How many host clusters come before data and L2 tables: of each structure, in their order in the file.
    fn lay_out(&mut self) -> Result<Head> {
        let geometry = self.geometry;
        let l1_entries = geometry.l1_entries(self.header.size);
        let l1 = geometry.clusters(l1_entries * 8);
        let crypt_len = self.new_crypt.as_ref().map_or(0, CreateCrypt::header_len);
        let crypt = geometry.clusters(crypt_len);
        let counted = 1 + l1 + crypt + self.tables.len() + self.data.len();
        let refcounts = refcount_clusters(geometry, counted);
        let total = counted + refcounts;
        let blocks = total.div_ceil(geometry.refcount_block_entries());
        let table = refcounts - blocks;
        if table > MAX_TABLE_BYTES / geometry.cluster_size() {
            return Err(Error::os(libc::EFBIG).context("The refcount table would be too large"));
        }
        let header = &mut self.header;
        let offset = |cluster: u64| cluster << geometry.cluster_bits;
        header.refcount_table_offset = offset(1);
        header.refcount_table_clusters = u32::try_from(table).map_err(|_| Error::os(libc::EFBIG))?;
        if l1_entries > 0 {
            header.l1_size = u32::try_from(l1_entries).map_err(|_| Error::os(libc::EFBIG))?;
            header.l1_offset = offset(1 + refcounts);
        }
        if crypt_len > 0 {
            header.crypto = Some(CryptoPointer { offset: offset(1 + refcounts + l1), len: crypt_len });
        }
        self.first = 1 + refcounts + l1 + crypt;
        Ok(Head { table, blocks, total, l1_entries, crypt })
    }

    /// Writes bytes and zeros up to the end of the cluster after `clusters` clusters.
    fn write_padded(&self, bytes: &[u8], clusters: u64) -> Result<()> {
        self.out.write(bytes)?;
        self.out.write_zeros((clusters << self.geometry.cluster_bits) - bytes.len() as u64)
    }

    /// Writes a table of 8-byte entries, some clusters of it at a time.
    fn write_entries(&self, entries: u64, entry: impl Fn(u64) -> u64) -> Result<()> {
        let per_cluster = self.geometry.cluster_size() / 8;
        let mut at = 0;
        while at < entries {
            let end = entries.min(at + per_cluster);
            let bytes: Vec<u8> = (at..end).flat_map(|index| entry(index).to_be_bytes()).collect();
            self.write_padded(&bytes, 1)?;
            at = end;
        }
        Ok(())
    }

    fn write_refcounts(&self, head: &Head) -> Result<()> {
        let geometry = self.geometry;
        self.write_entries(head.blocks, |index| (1 + head.table + index) << geometry.cluster_bits)?;
        let per_block = geometry.refcount_block_entries();
        let block = |used: u64| {
            let mut bytes = vec![0; geometry.cluster_size() as usize];
            (0..used as usize).for_each(|index| width::set(&mut bytes, geometry.refcount_order, index, 1));
            bytes
        };
        let full = block(per_block);
        for _ in 0..head.total / per_block {
            self.out.write(&full)?;
        }
        match head.total % per_block {
            0 => Ok(()),
            rest => self.out.write(&block(rest)),
        }
    }

    /// Number of the host cluster of the L2 table `index`.
    fn table_place(&self, index: u64) -> u64 {
        self.first + self.tables.rank(index) + self.data.rank(index * self.geometry.l2_entries())
    }

    /// Where a guest cluster with data lies.
    fn data_place(&self, cluster: u64) -> HostOffset {
        let tables = self.tables.rank(cluster / self.geometry.l2_entries() + 1);
        HostOffset((self.first + tables + self.data.rank(cluster)) << self.geometry.cluster_bits)
    }

    /// The L2 table `index`.
    fn table(&self, index: u64) -> Vec<u8> {
        let geometry = self.geometry;
        let first = index * geometry.l2_entries();
        let range = first..first + geometry.l2_entries();
        let size = geometry.l2_entry_size() as usize;
        let mut bytes = vec![0; geometry.cluster_size() as usize];
        let mut put = |cluster: u64, raw: u64, bitmap: u64| {
            let at = (cluster - first) as usize * size;
            bytes[at..at + 8].copy_from_slice(&raw.to_be_bytes());
            if geometry.extended_l2 {
                bytes[at + 8..at + 16].copy_from_slice(&bitmap.to_be_bytes());
            }
        };
        // A cluster is written as a whole, with all of its subclusters.
        let all = u64::from(u32::MAX);
        for run in self.data.runs(range.clone()) {
            let place = self.data_place(run.start).0;
            for cluster in run.clone() {
                let host = HostOffset(place + ((cluster - run.start) << geometry.cluster_bits));
                put(cluster, L2Entry::normal(host, true).raw, all);
            }
        }
        for cluster in self.zeros.runs(range).flatten() {
            let raw = if geometry.extended_l2 { 0 } else { L2Entry::zero(None, false).raw };
            put(cluster, raw, all << 32);
        }
        bytes
    }

    /// Writes the L2 tables below `end` that have not been.
    fn write_tables(&self, cursor: &mut Cursor, end: u64) -> Result<()> {
        for index in self.tables.runs(cursor.table..end).flatten() {
            self.out.write(&self.table(index))?;
        }
        cursor.table = cursor.table.max(end);
        Ok(())
    }

    /// Writes the data of the guest clusters below `end` that has not been: what `bytes` has, whose first cluster is `start`,
    /// and zeros.
    fn write_data(&self, cursor: &mut Cursor, end: u64, start: u64, bytes: &[u8]) -> Result<()> {
        let bits = self.geometry.cluster_bits;
        for run in self.data.runs(cursor.cluster..end) {
            let mut at = run.start;
            while at < run.end {
                let table = at / self.geometry.l2_entries();
                self.write_tables(cursor, table + 1)?;
                let stop = run.end.min((table + 1) * self.geometry.l2_entries());
                let zeros = stop.min(start);
                if at < zeros {
                    self.write_blank(at, zeros)?;
                    at = zeros;
                }
                if at < stop {
                    // Both lie in the window, which is in memory.
                    self.out.write(&bytes[((at - start) << bits) as usize..((stop - start) << bits) as usize])?;
                    at = stop;
                }
            }
        }
        cursor.cluster = end;
        Ok(())
    }

    /// Writes guest clusters of zeros.
    fn write_blank(&self, from: u64, to: u64) -> Result<()> {
        let bits = self.geometry.cluster_bits;
        if self.crypt.is_none() {
            return self.out.write_zeros((to - from) << bits);
        }
        for cluster in from..to {
            let mut bytes = vec![0; 1 << bits];
            self.encode(cluster << bits, &mut bytes)?;
            self.out.write(&bytes)?;
        }
        Ok(())
    }

    /// The guest clusters that a range touches.
    fn clusters(&self, range: Range) -> std::ops::Range<u64> {
        range.guest >> self.geometry.cluster_bits..self.geometry.clusters(range.end())
    }
}

/// How much there is of what the header points to, in clusters.
#[derive(Debug)]
struct Head {
    /// The refcount table.
    table: u64,
    /// Refcount blocks.
    blocks: u64,
    /// Clusters of the whole file.
    total: u64,
    /// Entries of the L1 table.
    l1_entries: u64,
    /// The LUKS header.
    crypt: u64,
}

impl StreamImage for Stream {
    fn granule(&self) -> u64 {
        self.geometry.cluster_size()
    }

    fn is_laid_out(&self) -> bool {
        true
    }

    fn announce(&mut self, layout: &Layout) {
        let mut ranges: Vec<(Range, bool)> = layout.write.iter().map(|range| (*range, false)).collect();
        // Version 2 has no clusters that read as zeros without a place.
        ranges.extend(layout.zero.iter().map(|range| (*range, self.header.version >= 3)));
        ranges.sort_by_key(|(range, _)| range.guest);
        for (range, zero) in ranges {
            let clusters = self.clusters(range);
            let entries = self.geometry.l2_entries();
            self.tables.push(clusters.start / entries..clusters.end.div_ceil(entries));
            if zero { self.zeros.push(clusters) } else { self.data.push(clusters) }
        }
    }

    fn begin(&mut self) -> Result<()> {
        let head = self.lay_out()?;
        let mut key = Vec::new();
        if let Some(new) = &self.new_crypt {
            let (bytes, crypt) = new.create()?;
            key = bytes;
            self.crypt = Some(crypt);
        }
        self.write_padded(&self.header.to_bytes()?, 1)?;
        self.write_refcounts(&head)?;
        self.write_entries(head.l1_entries, |index| {
            let there = self.tables.rank(index + 1) > self.tables.rank(index);
            let place = HostOffset(self.table_place(index) << self.geometry.cluster_bits);
            if there { L1Entry::new(place, true).0 } else { 0 }
        })?;
        self.write_padded(&key, head.crypt)
    }

    fn places(&self, range: Range) -> Vec<Range> {
        let clip = |run: std::ops::Range<u64>| {
            let start = run.start << self.geometry.cluster_bits;
            range.intersection(start, (run.end - run.start) << self.geometry.cluster_bits)
        };
        self.data.runs(self.clusters(range)).filter_map(clip).collect()
    }

    fn encode(&self, guest: u64, bytes: &mut [u8]) -> Result<()> {
        let Some(crypt) = &self.crypt else { return Ok(()) };
        let bits = self.geometry.cluster_bits;
        for cluster in self.data.runs(self.clusters(Range { guest, len: bytes.len() as u64 })).flatten() {
            let at = ((cluster << bits) - guest) as usize;
            crypt.encrypt(cluster << bits, self.data_place(cluster).0, &mut bytes[at..at + (1 << bits)])?;
        }
        Ok(())
    }

    fn write(&self, guest: u64, bytes: &[u8]) -> Result<()> {
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let clusters = self.clusters(Range { guest, len: bytes.len() as u64 });
        self.write_data(&mut cursor, clusters.end, clusters.start, bytes)
    }

    fn finish(&self) -> Result<()> {
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let end = self.geometry.clusters(self.header.size);
        self.write_data(&mut cursor, end, end, &[])?;
        self.write_tables(&mut cursor, self.geometry.l1_entries(self.header.size))
    }
}
