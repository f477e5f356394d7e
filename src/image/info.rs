//! What `info` shows about one image: plain data, filled in by the formats and printed by `cmd::info`.

use serde_json::Value;

/// An internal snapshot as it stands in the snapshot table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The ID, unique within the image; usually a decimal number.
    pub id: String,
    /// The name, often not unique. Bytes that are not UTF-8 are carried as [`crate::text`] says.
    pub name: String,
    /// Size of the saved state of the virtual machine in bytes; 0 for a snapshot of the disk alone.
    pub vm_state_size: u64,
    /// When it was taken: seconds since the epoch.
    pub date_sec: u32,
    /// The fraction of that second, in nanoseconds.
    pub date_nsec: u32,
    /// How long the guest had been running, in nanoseconds.
    pub vm_clock_nsec: u64,
    /// Instruction count of the guest for replay; `None` where it was not recorded.
    pub icount: Option<u64>,
    /// Virtual disk size when it was taken, in bytes.
    pub disk_size: u64,
}

/// A persistent dirty bitmap as its directory entry describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapInfo {
    /// The name.
    pub name: String,
    /// Bytes of the guest that one bit stands for.
    pub granularity: u32,
    /// The flags as `info` names them: "in-use", "auto".
    pub flags: Vec<&'static str>,
}

/// Everything a layer knows about itself beyond what every layer has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerInfo {
    /// The cluster size in bytes, for formats that have clusters.
    pub cluster_size: Option<u64>,
    /// Whether the contents are encrypted.
    pub encrypted: bool,
    /// Whether the contents contain compressed clusters as a rule (formats that only know compressed images).
    pub compressed: bool,
    /// Whether the image was not closed properly.
    pub dirty: bool,
    /// Internal snapshots.
    pub snapshots: Vec<SnapshotInfo>,
    /// The `data` of `format-specific` in JSON, keys in the reference's order; `None` where the format has none.
    pub format_specific: Option<Value>,
}
