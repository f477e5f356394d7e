//! Internal snapshots, as the commands see them.

use super::info::SnapshotInfo;
use crate::error::Result;

/// What one snapshot takes of the image file: bytes of clusters, each counted once, the tables of the snapshot among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotDetails {
    /// All that the snapshot refers to.
    pub referenced: u64,
    /// What nothing else refers to: deleting the snapshot gives it back.
    pub exclusive: u64,
    /// What the present state refers to, too.
    pub shared: u64,
    /// Bytes of compressed data, up to the end of the 512-byte sector in which each cluster's ends.
    pub compressed: u64,
    /// Number of compressed guest clusters.
    pub compressed_clusters: u64,
}

/// What a state of the disk holds in some range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Data.
    Data,
    /// Compressed data.
    Compressed,
    /// Zeros.
    Zero,
    /// Nothing of its own: the backing file shows, or zeros where there is none.
    Unallocated,
    /// The disk ends before.
    Absent,
}

impl Held {
    /// The name in output.
    pub fn name(self) -> &'static str {
        match self {
            Held::Data => "data",
            Held::Compressed => "compressed",
            Held::Zero => "zero",
            Held::Unallocated => "unallocated",
            Held::Absent => "absent",
        }
    }
}

/// A range in which two states of a disk may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Guest offset of its first byte.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What the first state holds there.
    pub from: Held,
    /// What the second state holds there.
    pub to: Held,
}

/// The internal snapshots of a layer.
pub trait Snapshots {
    /// All of them, in the order of the table.
    fn list(&self) -> Result<Vec<SnapshotInfo>>;
    /// What each of them takes of the image file, in the order of the table, from the tables on disk. Fails where data is
    /// not counted, and where refcounts are lower than what is found.
    fn details(&self) -> Result<Vec<SnapshotDetails>>;
    /// Shows, in guest order, the ranges in which the own data of this image may differ between two snapshots, each named by
    /// its ID or its name; without `to`, between one and the present state. Only the tables on disk are read. What is not
    /// shown is the same; an error of `visit` ends the walk.
    fn differences(&self, from: &str, to: Option<&str>, visit: &mut dyn FnMut(&Difference) -> Result<()>)
    -> Result<()>;
    /// Takes one of the present state. `name` need not be unique.
    fn create(&self, name: &str) -> Result<()>;
    /// Makes the state of the snapshot with this ID, or if there is none the first with this name, the present one.
    fn apply(&self, name_or_id: &str) -> Result<()>;
    /// Deletes the first snapshot with this name and gives its clusters back.
    fn delete(&self, name: &str) -> Result<()>;
    /// Shows the contents of a snapshot instead of the present state until the layer is closed; the layer must have been
    /// opened read-only.
    fn view(&self, id: Option<&str>, name: Option<&str>) -> Result<()>;
}
