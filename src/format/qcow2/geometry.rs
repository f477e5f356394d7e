//! The numbers that follow from the header, in one value: every conversion between offsets, indices and table positions
//! goes through [`Geometry`].

use crate::units::align_down;

/// An offset in the virtual disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestOffset(pub u64);

/// An offset in the image file (or, for guest data of an image with one, in the external data file), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostOffset(pub u64);

/// The layout of one image. Specification: "Header", "Cluster mapping", "Extended L2 Entries", "Reference counts".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// log2 of the cluster size: 9 to 21.
    pub cluster_bits: u32,
    /// Whether L2 entries are 16 bytes long and describe 32 subclusters each.
    pub extended_l2: bool,
    /// log2 of the width of a refcount in bits: 0 to 6.
    pub refcount_order: u32,
    /// Whether guest data lies in an external data file, where it has the guest's own offsets, 0 included.
    pub external_data: bool,
}

impl Geometry {
    /// Subclusters in a cluster with extended L2 entries.
    pub const SUBCLUSTERS: u32 = 32;

    /// The cluster size in bytes.
    pub const fn cluster_size(self) -> u64 {
        1 << self.cluster_bits
    }

    /// The length of an L2 entry in bytes.
    pub const fn l2_entry_size(self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// log2 of the number of entries in an L2 table, which fills one cluster.
    pub const fn l2_bits(self) -> u32 {
        if self.extended_l2 { self.cluster_bits - 4 } else { self.cluster_bits - 3 }
    }

    /// Entries in an L2 table.
    pub const fn l2_entries(self) -> u64 {
        1 << self.l2_bits()
    }

    /// Guest bytes that one L2 table maps.
    pub const fn l2_span(self) -> u64 {
        1 << (self.l2_bits() + self.cluster_bits)
    }

    /// The unit of allocation below the cluster: the subcluster, or the cluster where there are none.
    pub const fn subcluster_size(self) -> u64 {
        if self.extended_l2 { self.cluster_size() / Self::SUBCLUSTERS as u64 } else { self.cluster_size() }
    }

    /// Index into the L1 table of a guest offset.
    pub const fn l1_index(self, guest: GuestOffset) -> u64 {
        guest.0 >> (self.l2_bits() + self.cluster_bits)
    }

    /// Index into its L2 table of a guest offset.
    pub const fn l2_index(self, guest: GuestOffset) -> u64 {
        (guest.0 >> self.cluster_bits) & (self.l2_entries() - 1)
    }

    /// Offset of a byte in its cluster.
    pub const fn in_cluster(self, offset: u64) -> u64 {
        offset & (self.cluster_size() - 1)
    }

    /// The start of the cluster of a byte.
    pub const fn cluster_start(self, offset: u64) -> u64 {
        align_down(offset, self.cluster_size())
    }

    /// Clusters that `bytes` bytes need.
    pub const fn clusters(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size())
    }

    /// L1 entries that a disk of `size` bytes needs.
    pub const fn l1_entries(self, size: u64) -> u64 {
        size.div_ceil(self.l2_span())
    }

    /// Bits of one refcount.
    pub const fn refcount_bits(self) -> u32 {
        1 << self.refcount_order
    }

    /// The largest value a refcount can have.
    pub const fn refcount_max(self) -> u64 {
        u64::MAX >> (64 - self.refcount_bits())
    }

    /// log2 of the number of refcounts in a refcount block, which fills one cluster.
    pub const fn refcount_block_bits(self) -> u32 {
        self.cluster_bits + 3 - self.refcount_order
    }

    /// Refcounts in a refcount block.
    pub const fn refcount_block_entries(self) -> u64 {
        1 << self.refcount_block_bits()
    }

    /// log2 of where the length field of a compressed entry starts. Specification: "Compressed Clusters Descriptor".
    pub const fn compressed_shift(self) -> u32 {
        62 - (self.cluster_bits - 8)
    }
}
