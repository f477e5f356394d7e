//! New refcount structures beside the old ones, of another width or further down in the file, and one write of the header
//! that switches to them.

use std::collections::HashSet;

use super::Meta;
use super::geometry::{Geometry, HostOffset};
use super::refcount::{MAX_TABLE_BYTES, Run, put_count};
use crate::error::{Error, Result};

/// Where the new structures are.
#[derive(Default)]
struct Places {
    /// The clusters of blocks, in the order of `blocks`.
    free: Vec<u64>,
    /// Which blocks there are: those that count anything.
    blocks: Vec<u64>,
    table: Option<Run>,
}

/// The size of refcount structures that count no more than they have to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// Which blocks count anything, in order.
    pub blocks: Vec<u64>,
    /// The clusters of the table.
    pub table: u64,
}

impl Meta {
    /// Makes new refcount structures for the widths of `new`, into which all counts must fit, in the first free clusters.
    /// The old ones are counted in neither: they are free as soon as the header names the new ones.
    pub fn renew_refcounts(&mut self, new: Geometry) -> Result<()> {
        self.flush()?;
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
        let mut free = Vec::new();
        for first in old.iter().flat_map(|run| run.first..run.end()) {
            // In a broken image something else may be there, too.
            if writer.refcounts.get(first)? == 0 {
                free.push(Run { first, clusters: 1 });
            }
        }
        writer.empty(&free);
        Ok(())
    }

    /// What structures with the widths of `new` would need, for everything but the present ones.
    pub fn needed_refcounts(&mut self, new: Geometry) -> Result<Needed> {
        let own = self.refcount_clusters()?;
        let mut blocks: Vec<u64> = Vec::new();
        self.each_count(|cluster, count| {
            let index = cluster >> new.refcount_block_bits();
            if blocks.last() != Some(&index) && (count > 1 || !own.contains(&cluster)) {
                blocks.push(index);
            }
            Ok(())
        })?;
        let entries = blocks.last().map_or(0, |last| last + 1);
        Ok(Needed { table: new.clusters(entries * 8), blocks })
    }

    /// Shows every cluster that is in use, in order, with its refcount.
    pub fn each_count(&mut self, mut visit: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
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

    /// The clusters in which the present structures lie.
    fn refcount_clusters(&mut self) -> Result<HashSet<u64>> {
        let (table, blocks) = self.writer()?.refcounts.places()?;
        Ok(blocks.into_iter().chain([table]).flat_map(|run| run.first..run.end()).collect())
    }

    /// Finds places for everything that the new structures need; places have to be counted, too, until nothing is missing.
    fn find_places(&mut self, new: Geometry, places: &mut Places) -> Result<()> {
        let bits = new.cluster_bits;
        loop {
            let needed = self.needed_refcounts(new)?;
            if needed.table * new.cluster_size() > MAX_TABLE_BYTES.max(new.cluster_size()) {
                return Err(Error::os(libc::EFBIG));
            }
            let missing = (needed.blocks.len() as u64).saturating_sub(places.free.len() as u64);
            let table_fits = places.table.is_some_and(|table| table.clusters >= needed.table);
            places.blocks = needed.blocks;
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
                let first = writer.refcounts.allocate(needed.table)?.offset.0 >> bits;
                places.table = Some(Run { first, clusters: needed.table });
            }
        }
    }

    /// Writes the new blocks and the table. The old ones count all of it already, on disk too.
    fn write_places(&mut self, new: Geometry, places: &Places) -> Result<()> {
        self.flush()?;
        let Some(place) = places.table else { return Ok(()) };
        let own = self.refcount_clusters()?;
        let mut table = vec![0; (place.clusters << new.cluster_bits) as usize];
        let entries = new.refcount_block_entries();
        for (index, cluster) in places.blocks.iter().zip(&places.free) {
            let mut block = vec![0; new.cluster_size() as usize];
            let writer = self.writer()?;
            let mut at = 0;
            while at < entries {
                let first = index * entries;
                let (count, len) = writer.refcounts.get_run(first + at, entries - at)?;
                for at in at..at + len {
                    let count = count.saturating_sub(u64::from(own.contains(&(first + at))));
                    put_count(&mut block, new.refcount_order, at as usize, count);
                }
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
