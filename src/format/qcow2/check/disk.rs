//! The refcounts as they are on disk: reading them, and setting them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::qcow2::geometry::Geometry;
use crate::format::qcow2::header::Header;
use crate::format::qcow2::refcount::{TABLE_OFFSET, width};
use crate::storage::Storage;

/// Bytes of refcount blocks in memory.
const BUDGET: u64 = 8 << 20;
/// Nothing can be read from here on: files are not so long.
const OFFSET_MAX: u64 = 0x7fff_ffff_c000_0000;
/// Blocks in memory whatever they cost.
const BLOCKS_MIN: u64 = 4;

/// Why a refcount cannot be told.
#[derive(Debug)]
pub(super) enum Unknown {
    /// The block's place is not on a cluster border: its offset and its index in the table.
    Unaligned(u64, u64),
    /// It cannot be read.
    Unreadable(Error),
}

#[derive(Debug)]
struct Block {
    data: Box<[u8]>,
    dirty: bool,
    used: u64,
}

/// Refcount table and blocks on disk.
#[derive(Debug)]
pub(super) struct DiskCounts {
    file: Arc<dyn Storage>,
    geometry: Geometry,
    /// The entries of the refcount table as they are.
    pub table: Vec<u64>,
    blocks: HashMap<u64, Block>,
    capacity: u64,
    clock: u64,
}

impl DiskCounts {
    /// Reads the table. Its size has been checked when the header was read.
    pub fn read(file: &Arc<dyn Storage>, header: &Header) -> Result<Self> {
        let geometry = header.geometry();
        let mut bytes = vec![0; (u64::from(header.refcount_table_clusters) << geometry.cluster_bits) as usize];
        file.read_at(&mut bytes, header.refcount_table_offset)?;
        let table = bytes.chunks_exact(8).map(|entry| u64::from_be_bytes(entry.try_into().expect("8 bytes"))).collect();
        Ok(DiskCounts {
            file: Arc::clone(file),
            geometry,
            table,
            blocks: HashMap::new(),
            capacity: (BUDGET >> geometry.cluster_bits).max(BLOCKS_MIN),
            clock: 0,
        })
    }

    /// The refcount of one cluster.
    pub fn get(&mut self, cluster: u64) -> Result<u64, Unknown> {
        let bits = self.geometry.refcount_block_bits();
        let order = self.geometry.refcount_order;
        let at = (cluster & (self.geometry.refcount_block_entries() - 1)) as usize;
        Ok(self.block(cluster >> bits)?.map_or(0, |data| width::get(data, order, at)))
    }

    /// The offset of a block; `None` where there is none.
    pub fn block_offset(&self, index: u64) -> Result<Option<u64>, Unknown> {
        let Some(entry) = usize::try_from(index).ok().and_then(|index| self.table.get(index)) else { return Ok(None) };
        match entry & TABLE_OFFSET {
            0 => Ok(None),
            offset if self.geometry.in_cluster(offset) != 0 => Err(Unknown::Unaligned(offset, index)),
            offset => Ok(Some(offset)),
        }
    }

    /// Whether there is a block for the refcount of a cluster.
    pub fn has_block(&self, cluster: u64) -> bool {
        matches!(self.block_offset(cluster >> self.geometry.refcount_block_bits()), Ok(Some(_)))
    }

    /// A block as it is on disk; `None` where there is none.
    pub fn block(&mut self, index: u64) -> Result<Option<&[u8]>, Unknown> {
        Ok(self.load(index)?.map(|block| &*block.data))
    }

    /// How many of `max` clusters from this one on have a refcount of 1, as far as that is quickly told.
    pub fn ones(&mut self, cluster: u64, max: u64) -> u64 {
        let bits = self.geometry.refcount_block_bits();
        let at = cluster & (self.geometry.refcount_block_entries() - 1);
        let end = (at + max).min(1 << bits);
        match (self.geometry.refcount_order, self.block(cluster >> bits)) {
            (4, Ok(Some(block))) => {
                let counts = block[at as usize * 2..end as usize * 2].chunks_exact(2);
                counts.take_while(|count| **count == [0, 1]).count() as u64
            }
            _ => 0,
        }
    }

    /// Sets the refcount of a cluster whose block exists; it is written by [`DiskCounts::write`] at the latest.
    pub fn set(&mut self, cluster: u64, value: u64) -> Result<(), Unknown> {
        let bits = self.geometry.refcount_block_bits();
        let order = self.geometry.refcount_order;
        let at = (cluster & (self.geometry.refcount_block_entries() - 1)) as usize;
        if let Some(block) = self.load(cluster >> bits)? {
            width::set(&mut block.data, order, at, value);
            block.dirty = true;
        }
        Ok(())
    }

    /// Brings what was set to stable storage.
    pub fn write(&mut self) -> Result<()> {
        let mut dirty: Vec<u64> =
            self.blocks.iter().filter(|(_, block)| block.dirty).map(|(index, _)| *index).collect();
        dirty.sort_unstable();
        for index in dirty {
            self.write_block(index)?;
        }
        self.file.flush()
    }

    fn write_block(&mut self, index: u64) -> Result<()> {
        let Some(block) = self.blocks.get_mut(&index).filter(|block| block.dirty) else { return Ok(()) };
        let offset = self.table[index as usize] & TABLE_OFFSET;
        self.file.write_at(&block.data, offset)?;
        block.dirty = false;
        Ok(())
    }

    fn load(&mut self, index: u64) -> Result<Option<&mut Block>, Unknown> {
        self.clock += 1;
        if !self.blocks.contains_key(&index) {
            let Some(offset) = self.block_offset(index)? else { return Ok(None) };
            if offset > OFFSET_MAX - self.geometry.cluster_size() {
                return Err(Unknown::Unreadable(Error::os(libc::EIO)));
            }
            self.make_room().map_err(Unknown::Unreadable)?;
            let mut data = vec![0; self.geometry.cluster_size() as usize].into_boxed_slice();
            self.file.read_at(&mut data, offset).map_err(Unknown::Unreadable)?;
            self.blocks.insert(index, Block { data, dirty: false, used: 0 });
        }
        let block = self.blocks.get_mut(&index).expect("it is there by now");
        block.used = self.clock;
        Ok(Some(block))
    }

    fn make_room(&mut self) -> Result<()> {
        while self.blocks.len() as u64 >= self.capacity {
            let oldest = self.blocks.iter().min_by_key(|(_, block)| block.used).map(|(index, _)| *index);
            let Some(index) = oldest else { break };
            self.write_block(index)?;
            self.blocks.remove(&index);
        }
        Ok(())
    }
}
