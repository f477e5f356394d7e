//! What `info` shows about an image and the nodes it is made of.

use serde_json::{Map, Value, json};

use super::filename::resolve_backing;
use super::info::{LayerInfo, SnapshotInfo};
use super::node::{Child, FileNode, Node, ProtocolNode};
use super::{BackingRef, Chain, SnapshotDetails};
use crate::error::Result;
use crate::storage::Storage;
use crate::units::{SECTOR, align_up};

/// One node: an image, or a file below one.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// Its name.
    pub filename: String,
    /// The driver: `qcow2`, `raw`, `file`, `host_device`.
    pub driver: &'static str,
    /// Whether it is a file or device, not an image.
    pub is_file: bool,
    /// Virtual size, or length of the file, in bytes.
    pub size: u64,
    /// Disk space taken by the files that hold it, in bytes.
    pub allocated: Option<u64>,
    /// Whether it can be told that it was not closed properly.
    pub tells_dirty: bool,
    /// What the format knows. `format_specific` is complete, with its type.
    pub info: LayerInfo,
    /// The backing file as the image names it.
    pub backing: Option<BackingRef>,
    /// The name by which the backing file would be opened; `None` if that cannot be said.
    pub full_backing: Option<String>,
    /// The nodes below, by name.
    pub children: Vec<(&'static str, NodeReport)>,
}

impl NodeReport {
    /// The report on an opened image. Its backing files are not part of it.
    pub fn new(node: &Node) -> Result<Self> {
        let mut info = node.layer.info()?;
        let children = node.parts.children.iter().map(|(name, child)| Ok((*name, Self::child(child)?)));
        let mut children: Vec<_> = children.collect::<Result<_>>()?;
        if node.parts.protocol.is_some() {
            children.clear();
            match node.parts.children.first() {
                Some((_, Child::Protocol(protocol))) => return Self::protocol(protocol).map(Self::into_image),
                Some((_, Child::File(file))) => info.format_specific = Some(file_specific(file)),
                _ => info.format_specific = Some(specific("file", json!({}))),
            }
        } else {
            info.format_specific = info.format_specific.map(|data| specific(node.driver(), data));
        }
        // A raw image shows what the image inside it has.
        if let Some((_, inner)) = children.iter().find(|(name, report)| *name == "file" && !report.is_file)
            && node.driver() == "raw"
        {
            info = inner.shown_through(info);
        }
        let below = children.iter().find(|(name, _)| *name == "file");
        let tells_dirty = node.driver() != "raw" || below.is_none_or(|(_, report)| report.tells_dirty);
        let backing = node.layer.backing();
        let full = backing.as_ref().and_then(|backing| resolve_backing(node.base_name(), &backing.filename).ok());
        Ok(NodeReport {
            filename: node.filename.clone(),
            driver: node.driver(),
            is_file: false,
            size: node.layer.size(),
            allocated: node.allocated()?,
            tells_dirty,
            info,
            backing,
            full_backing: full,
            children,
        })
    }

    fn child(child: &Child) -> Result<Self> {
        match child {
            Child::File(file) => Self::file(file),
            Child::Image(chain) => Self::nested(chain),
            Child::Protocol(node) => Self::protocol(node),
        }
    }

    /// A node that is neither an image nor a file.
    fn protocol(node: &ProtocolNode) -> Result<Self> {
        let len = node.storage.len()?;
        let image = node.image.as_deref().map(Self::child).transpose()?;
        let through = image.as_ref().filter(|image| !image.is_file);
        Ok(NodeReport {
            filename: node.filename.clone(),
            driver: node.driver,
            is_file: node.image.is_none(),
            size: align_up(len, SECTOR).unwrap_or(len),
            allocated: node.image.is_none().then_some(0),
            tells_dirty: image.as_ref().is_some_and(|image| image.tells_dirty),
            info: through.map_or_else(LayerInfo::default, |image| image.shown_through(LayerInfo::default())),
            backing: None,
            full_backing: None,
            children: image.into_iter().map(|image| ("image", image)).collect(),
        })
    }

    /// What a node that passes everything on says about itself where this image lies below: `info`, with what it has from
    /// the image.
    fn shown_through(&self, info: LayerInfo) -> LayerInfo {
        let LayerInfo { cluster_size, dirty, snapshots, .. } = self.info.clone();
        LayerInfo { cluster_size, dirty, snapshots, ..info }
    }

    /// The same as the node that was asked for.
    fn into_image(self) -> Self {
        NodeReport { is_file: false, ..self }
    }

    /// An image inside an image, which was opened together with its backing files.
    fn nested(chain: &Chain) -> Result<Self> {
        let mut below: Option<NodeReport> = None;
        for node in chain.nodes().iter().rev() {
            let mut report = NodeReport::new(node)?;
            if let Some(backing) = below.take() {
                report.children.insert(0, ("backing", backing));
            }
            below = Some(report);
        }
        Ok(below.expect("a chain has a top"))
    }

    fn file(file: &FileNode) -> Result<Self> {
        let len = file.storage.len()?;
        Ok(NodeReport {
            filename: file.filename.clone(),
            driver: file.driver,
            is_file: true,
            size: align_up(len, SECTOR).unwrap_or(len),
            allocated: Some(file.storage.allocated()?),
            tells_dirty: true,
            info: LayerInfo { format_specific: Some(file_specific(file)), ..LayerInfo::default() },
            backing: None,
            full_backing: None,
            children: Vec::new(),
        })
    }

    /// As JSON. Keys are in the order in which the reference adds them, which matters where it prints them (see
    /// [`crate::json`]).
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| {
            object.insert(key.to_owned(), value);
        };
        put("filename", json!(self.filename));
        put("format", json!(self.driver));
        if self.tells_dirty {
            put("dirty-flag", json!(self.info.dirty));
        }
        if let Some(bytes) = self.allocated {
            put("actual-size", json!(bytes));
        }
        put("virtual-size", json!(self.size));
        if let Some(bytes) = self.info.cluster_size {
            put("cluster-size", json!(bytes));
        }
        if self.info.encrypted {
            put("encrypted", json!(true));
        }
        if self.info.compressed {
            put("compressed", json!(true));
        }
        if let Some(backing) = &self.backing {
            put("backing-filename", json!(backing.filename));
            if let Some(full) = &self.full_backing {
                put("full-backing-filename", json!(full));
            }
            if let Some(format) = &backing.format {
                put("backing-filename-format", json!(format));
            }
        }
        if !self.info.snapshots.is_empty() {
            put("snapshots", self.info.snapshots.iter().map(snapshot_json).collect());
        }
        if let Some(specific) = &self.info.format_specific {
            put("format-specific", specific.clone());
        }
        let child = |(name, report): &(&str, NodeReport)| json!({"name": name, "info": report.to_json()});
        put("children", self.children.iter().map(child).collect());
        Value::Object(object)
    }
}

fn specific(kind: &str, data: Value) -> Value {
    json!({"type": kind, "data": data})
}

/// What is known about a file besides its length.
fn file_specific(file: &FileNode) -> Value {
    let data = match file.storage.extent_size_hint() {
        Some(hint) => json!({"extent-size-hint": hint}),
        None => json!({}),
    };
    specific("file", data)
}

/// A snapshot as JSON.
pub fn snapshot_json(snapshot: &SnapshotInfo) -> Value {
    const NANOSECONDS: u64 = 1_000_000_000;
    let mut value = json!({
        "id": snapshot.id,
        "name": snapshot.name,
        "vm-state-size": snapshot.vm_state_size,
        "date-sec": snapshot.date_sec,
        "date-nsec": snapshot.date_nsec,
        "vm-clock-sec": snapshot.vm_clock_nsec / NANOSECONDS,
        "vm-clock-nsec": snapshot.vm_clock_nsec % NANOSECONDS,
    });
    if let Some(icount) = snapshot.icount {
        value["icount"] = json!(icount);
    }
    value
}

/// A snapshot as JSON, with what it takes of the file.
pub fn snapshot_details_json(snapshot: &SnapshotInfo, details: &SnapshotDetails) -> Value {
    let mut value = snapshot_json(snapshot);
    for (key, number) in [
        ("virtual-size", snapshot.disk_size),
        ("referenced-size", details.referenced),
        ("exclusive-size", details.exclusive),
        ("shared-size", details.shared),
        ("compressed-size", details.compressed),
        ("compressed-clusters", details.compressed_clusters),
    ] {
        value[key] = json!(number);
    }
    value
}
