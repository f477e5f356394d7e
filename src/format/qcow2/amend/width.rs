//! Refcounts of another width: new blocks and a new table beside the old ones, then one write of the header that switches
//! to them.

use super::Qcow2;
use crate::error::{Error, Result};
use crate::format::qcow2::Meta;
use crate::format::qcow2::geometry::{Geometry, HostOffset};
use crate::format::qcow2::refcount::{MAX_TABLE_BYTES, Run, put_count};
use crate::format::qcow2::txn::Discard;

/// Where the new structures are.
#[derive(Default)]
struct Places {
    /// The clusters of blocks, in the order of `blocks`.
    free: Vec<u64>,
    /// Which blocks there are: those that count anything.
    blocks: Vec<u64>,
    table: Option<Run>,
}

impl Qcow2 {
    pub(super) fn change_refcount_width(&self, order: u32) -> Result<()> {
        let mut meta = self.meta();
        let new = Geometry { refcount_order: order, ..meta.header.geometry() };
        let changed = meta.change_width(new);
        meta.guard(changed)
    }
}

impl Meta {
    fn change_width(&mut self, new: Geometry) -> Result<()> {
        self.check_width(new)?;
        let mut places = Places::default();
        if let Err(error) = self.find_places(new, &mut places).and_then(|()| self.write_places(new, &places)) {
            // The first error is the one to report; at worst they are leaks.
            let _ = self.give_back(&places);
            return Err(error);
        }
        let Some(table) = places.table else { return Ok(()) };
        let (old_table, mut old) = self.writer()?.refcounts.places()?;
        old.push(old_table);
        self.header.refcount_order = new.refcount_order;
        self.header.refcount_table_offset = table.first << new.cluster_bits;
        self.header.refcount_table_clusters = u32::try_from(table.clusters).map_err(|_| Error::os(libc::EFBIG))?;
        self.writer()?.header_changed();
        self.make_durable()?;
        self.replace_refcounts()?;
        let writer = self.writer()?;
        old.into_iter().for_each(|run| writer.free(run, Discard::Request));
        self.flush()?;
        self.writer()?.cut_tail()
    }

    /// Every count must fit.
    fn check_width(&mut self, new: Geometry) -> Result<()> {
        self.each_count(|cluster, count| {
            if count <= new.refcount_max() {
                return Ok(());
            }
            let offset = cluster << new.cluster_bits;
            Err(Error::invalid(format!(
                "Cannot decrease refcount entry width to {} bits: Cluster at offset {offset:#x} has a refcount of {count}",
                new.refcount_bits()
            )))
        })
    }

    /// Shows every cluster that is in use, in order, with its refcount.
    fn each_count(&mut self, mut visit: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let refcounts = &mut self.writer()?.refcounts;
        let end = refcounts.span();
        let mut at = 0;
        while at < end {
            let (count, len) = refcounts.get_run(at, end - at)?;
            if count != 0 {
                (at..at + len).try_for_each(|cluster| visit(cluster, count))?;
            }
            at += len;
        }
        Ok(())
    }

    /// Finds places for everything that the new width needs; places have to be counted, too, until nothing is missing.
    fn find_places(&mut self, new: Geometry, places: &mut Places) -> Result<()> {
        let bits = new.cluster_bits;
        loop {
            let mut blocks: Vec<u64> = Vec::new();
            self.each_count(|cluster, _| {
                let index = cluster >> new.refcount_block_bits();
                if blocks.last() != Some(&index) {
                    blocks.push(index);
                }
                Ok(())
            })?;
            let entries = blocks.last().map_or(0, |last| last + 1);
            let clusters = new.clusters(entries * 8);
            if clusters * new.cluster_size() > MAX_TABLE_BYTES.max(new.cluster_size()) {
                return Err(Error::os(libc::EFBIG));
            }
            let missing = (blocks.len() as u64).saturating_sub(places.free.len() as u64);
            let table_fits = places.table.is_some_and(|table| table.clusters >= clusters);
            places.blocks = blocks;
            let writer = self.writer()?;
            if missing == 0 && table_fits {
                return Ok(());
            }
            if missing > 0 {
                let first = writer.refcounts.allocate(missing)?.offset.0 >> bits;
                places.free.extend(first..first + missing);
            }
            if !table_fits {
                if let Some(small) = places.table.take() {
                    writer.give_back(small)?;
                }
                let first = writer.refcounts.allocate(clusters)?.offset.0 >> bits;
                places.table = Some(Run { first, clusters });
            }
        }
    }

    /// Writes the new blocks and the table. The old ones count all of it already, on disk too.
    fn write_places(&mut self, new: Geometry, places: &Places) -> Result<()> {
        self.flush()?;
        let Some(place) = places.table else { return Ok(()) };
        let mut table = vec![0; (place.clusters << new.cluster_bits) as usize];
        let entries = new.refcount_block_entries();
        for (index, cluster) in places.blocks.iter().zip(&places.free) {
            let mut block = vec![0; new.cluster_size() as usize];
            let writer = self.writer()?;
            let mut at = 0;
            while at < entries {
                let (count, len) = writer.refcounts.get_run(index * entries + at, entries - at)?;
                (at..at + len).for_each(|at| put_count(&mut block, new.refcount_order, at as usize, count));
                at += len;
            }
            writer.write_new(HostOffset(cluster << new.cluster_bits), &block)?;
            let entry = *index as usize * 8;
            table[entry..entry + 8].copy_from_slice(&(cluster << new.cluster_bits).to_be_bytes());
        }
        self.writer()?.write_new(HostOffset(place.first << new.cluster_bits), &table)?;
        self.flush()
    }

    fn give_back(&mut self, places: &Places) -> Result<()> {
        let writer = self.writer()?;
        let blocks = places.free.iter().map(|&first| Run { first, clusters: 1 });
        blocks.chain(places.table).try_for_each(|run| writer.give_back(run))?;
        self.flush()
    }
}
