//! The refcount blocks in memory: a bounded number, with dirty flags.

use super::super::offset_map::OffsetMap;

/// Bytes of refcount blocks kept in memory.
const BUDGET: usize = 8 << 20;
/// Blocks kept in memory whatever they cost.
const MIN_BLOCKS: usize = 8;

/// One refcount block.
#[derive(Debug)]
pub(super) struct Block {
    /// Its bytes, one cluster.
    pub data: Box<[u8]>,
    /// Whether it differs from what is on disk.
    pub dirty: bool,
    used: u64,
}

/// Refcount blocks by their index in the refcount table.
#[derive(Debug)]
pub(super) struct Cache {
    blocks: OffsetMap<usize, Block>,
    capacity: usize,
    clock: u64,
}

impl Cache {
    /// An empty cache of blocks of `block_size` bytes.
    pub fn new(block_size: usize) -> Self {
        Cache { blocks: OffsetMap::default(), capacity: (BUDGET / block_size).max(MIN_BLOCKS), clock: 0 }
    }

    /// The block with that index, if it is here.
    pub fn get(&mut self, index: usize) -> Option<&mut Block> {
        self.clock += 1;
        let block = self.blocks.get_mut(&index)?;
        block.used = self.clock;
        Some(block)
    }

    /// Puts a block in. [`Cache::overflow`] says what has to go first.
    pub fn insert(&mut self, index: usize, data: Box<[u8]>, dirty: bool) {
        self.clock += 1;
        self.blocks.insert(index, Block { data, dirty, used: self.clock });
    }

    /// Forgets a block.
    pub fn remove(&mut self, index: usize) {
        self.blocks.remove(&index);
    }

    /// The blocks to give up, in table order, when the cache is full: the older half, so that looking for them costs
    /// little per block.
    pub fn overflow(&self) -> Vec<usize> {
        if self.blocks.len() < self.capacity {
            return Vec::new();
        }
        let mut ages: Vec<(u64, usize)> = self.blocks.iter().map(|(index, block)| (block.used, *index)).collect();
        ages.sort_unstable();
        ages.truncate(self.capacity / 2);
        let mut indices: Vec<usize> = ages.into_iter().map(|(_, index)| index).collect();
        indices.sort_unstable();
        indices
    }

    /// Indices of the dirty blocks, in table order.
    pub fn dirty(&self) -> Vec<usize> {
        let mut indices: Vec<usize> =
            self.blocks.iter().filter(|(_, block)| block.dirty).map(|(index, _)| *index).collect();
        indices.sort_unstable();
        indices
    }
}
