//! The tables of a qcow2 image as they lie in its file, read without the help of either tool, and plainly: what refers to
//! each cluster, counted one by one.

use std::collections::HashMap;
use std::path::Path;

/// An image without an external data file.
pub struct Image {
    bytes: Vec<u8>,
    bits: u32,
    extended: bool,
    refcount_order: u32,
}

/// A state of the disk: the present one, or that of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The ID of the snapshot; empty for the present state.
    pub id: String,
    /// Its virtual size, where it was recorded with the snapshot.
    pub size: Option<u64>,
    l1_offset: u64,
    l1_size: u64,
}

/// What a state takes: as `snapshot -l --details` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub referenced: u64,
    pub exclusive: u64,
    pub shared: u64,
    pub compressed: u64,
    pub compressed_clusters: u64,
}

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;

impl Image {
    pub fn read(path: &Path) -> Image {
        let len = std::fs::metadata(path).map_or(0, |data| data.len());
        assert!(len < 256 << 20, "too large to be read as a whole: {} ({len})", path.display());
        let mut image = Image {
            bytes: std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
            bits: 0,
            extended: false,
            refcount_order: 4,
        };
        image.bits = image.number(20, 4) as u32;
        if image.number(4, 4) >= 3 {
            image.extended = image.number(72, 8) & 1 << 4 != 0;
            image.refcount_order = image.number(96, 4) as u32;
        }
        image
    }

    /// A big-endian number; behind the end of the file there are zeros.
    fn number(&self, at: u64, len: u64) -> u64 {
        (at..at + len).fold(0, |sum, at| sum << 8 | u64::from(self.bytes.get(at as usize).copied().unwrap_or(0)))
    }

    pub fn cluster(&self) -> u64 {
        1 << self.bits
    }

    pub fn present(&self) -> State {
        State { id: String::new(), size: None, l1_offset: self.number(40, 8), l1_size: self.number(36, 4) }
    }

    pub fn snapshots(&self) -> Vec<State> {
        self.snapshot_table().0
    }

    /// How many clusters the snapshot table, the refcount table and the refcount blocks have.
    pub fn bookkeeping(&self) -> u64 {
        let (table, clusters) = (self.number(48, 8), self.number(56, 4));
        let entries = (table..table + clusters * self.cluster()).step_by(8);
        let blocks = entries.filter(|entry| self.number(*entry, 8) != 0).count() as u64;
        self.snapshot_table().1.div_ceil(self.cluster()) + clusters + blocks
    }

    fn snapshot_table(&self) -> (Vec<State>, u64) {
        let start = self.number(64, 8);
        let mut at = start;
        let mut states = Vec::new();
        for _ in 0..self.number(60, 4) {
            at = at.next_multiple_of(8);
            let (id_len, name_len, extra) = (self.number(at + 12, 2), self.number(at + 14, 2), self.number(at + 36, 4));
            let id = (at + 40 + extra) as usize;
            states.push(State {
                id: String::from_utf8_lossy(&self.bytes[id..id + id_len as usize]).into_owned(),
                size: (extra >= 16).then(|| self.number(at + 48, 8)),
                l1_offset: self.number(at, 8),
                l1_size: self.number(at + 8, 4),
            });
            at += 40 + extra + id_len + name_len;
        }
        (states, at - start)
    }

    fn refcount(&self, cluster: u64) -> u64 {
        let per_block = (self.cluster() * 8) >> self.refcount_order;
        let block = self.number(self.number(48, 8) + cluster / per_block * 8, 8);
        if block == 0 {
            return 0;
        }
        let (width, bit) = (1 << self.refcount_order, (cluster % per_block) << self.refcount_order);
        match width {
            8.. => self.number(block + bit / 8, width / 8),
            _ => self.number(block + bit / 8, 1) >> (bit % 8) & ((1 << width) - 1),
        }
    }

    /// How many clusters are in use.
    pub fn used(&self) -> u64 {
        let end = (self.bytes.len() as u64).div_ceil(self.cluster());
        (0..end).filter(|cluster| self.refcount(*cluster) > 0).count() as u64
    }

    fn entry_size(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// The L2 entry for a guest offset without the flag about the refcount, and its subclusters.
    pub fn entry(&self, state: &State, guest: u64) -> (u64, u64) {
        let (index, per_table) = (guest >> self.bits, self.cluster() / self.entry_size());
        let l1_index = index / per_table;
        let l1 = if l1_index < state.l1_size { self.number(state.l1_offset + l1_index * 8, 8) } else { 0 };
        if l1 & OFFSET == 0 {
            return (0, 0);
        }
        let at = (l1 & OFFSET) + index % per_table * self.entry_size();
        (self.number(at, 8) & !COPIED, if self.extended { self.number(at + 8, 8) } else { 0 })
    }

    /// How often a state refers to each cluster, and its compressed data: clusters and bytes.
    fn references(&self, state: &State) -> (HashMap<u64, u64>, u64, u64) {
        let mut counts = HashMap::new();
        let (mut clusters, mut bytes) = (0, 0);
        let mut add = |offset: u64, len: u64| {
            for cluster in offset >> self.bits..=(offset + len - 1) >> self.bits {
                *counts.entry(cluster).or_insert(0) += 1;
            }
        };
        if state.l1_size > 0 {
            add(state.l1_offset, state.l1_size * 8);
        }
        for l1_index in 0..state.l1_size {
            let table = self.number(state.l1_offset + l1_index * 8, 8) & OFFSET;
            if table == 0 {
                continue;
            }
            add(table, self.cluster());
            for at in (table..table + self.cluster()).step_by(self.entry_size() as usize) {
                let raw = self.number(at, 8);
                if raw & 1 << 62 != 0 {
                    let shift = 62 - (self.bits - 8);
                    let (offset, sectors) = (raw & ((1 << shift) - 1), (raw & ((1 << 62) - 1)) >> shift);
                    let len = (sectors + 1) * 512 - offset % 512;
                    (clusters, bytes) = (clusters + 1, bytes + len);
                    add(offset, len);
                } else if raw & OFFSET != 0 {
                    add(raw & OFFSET, self.cluster());
                }
            }
        }
        (counts, clusters, bytes)
    }

    /// What each snapshot takes.
    pub fn taken(&self) -> Vec<Taken> {
        let (present, ..) = self.references(&self.present());
        let of = |state: &State| {
            let (counts, compressed_clusters, compressed) = self.references(state);
            let bytes = |wanted: &dyn Fn(u64, u64) -> bool| {
                counts.iter().filter(|(cluster, count)| wanted(**cluster, **count)).count() as u64 * self.cluster()
            };
            Taken {
                referenced: bytes(&|_, _| true),
                exclusive: bytes(&|cluster, count| self.refcount(cluster) == count),
                shared: bytes(&|cluster, _| present.contains_key(&cluster)),
                compressed,
                compressed_clusters,
            }
        };
        self.snapshots().iter().map(of).collect()
    }
}
