//! One opened image with the nodes it is made of, and the names the reference gives them.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;

use serde_json::{Value, json};

use super::nested::storage_of;
use super::nodename::NodeName;
use super::options::NodeOptions;
use super::spec::Options;
use super::{Chain, Layer, OpenFlags};
use crate::error::Result;
use crate::json;
use crate::storage::{FileRole, FileStorage, Permissions, Storage};
use crate::text;

/// The longest name; what is longer is cut, as in the reference.
const MAX_FILENAME: usize = 4096;

/// One opened image of a chain.
#[derive(Debug)]
pub struct Node {
    /// The image.
    pub layer: Box<dyn Layer>,
    /// Its name, as `info` shows it: a file name, or `json:{...}` where a file name would not lead to this image.
    pub filename: String,
    /// What it is made of.
    pub(super) parts: Parts,
}

/// What an image is made of.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// The driver where it is none of an image format: the node is the file itself.
    pub protocol: Option<&'static str>,
    /// The children in the reference's order, by name. Empty in tests only.
    pub children: Vec<(&'static str, Child)>,
    /// Options that belong into a description of this image: the driver, and what changes the guest's view.
    pub strong: Options,
    /// The backing file, where it is not the one the image names: its description, or null.
    pub backing: Option<Value>,
    /// How to lock it once the chain is complete, where that waits until then.
    pub lock_later: Option<OpenFlags>,
    /// Whether the user must give options to get this image.
    pub needs_options: bool,
    /// The name that the user gave it.
    pub name: Option<NodeName>,
    /// What it was opened by: a file name, options, or both.
    pub given: (Option<String>, Options),
}

impl Node {
    /// A node for a layer that was not opened by name.
    pub fn new(layer: Box<dyn Layer>, filename: impl Into<String>) -> Self {
        Node { layer, filename: filename.into(), parts: Parts::default() }
    }

    pub(super) fn with_parts(layer: Box<dyn Layer>, parts: Parts) -> Self {
        let mut node = Node { layer, filename: String::new(), parts };
        node.refresh_filename();
        node
    }

    /// Notes that the backing file is not the one that the image names.
    pub(super) fn override_backing(&mut self, backing: Value) {
        self.parts.backing = Some(backing);
        self.refresh_filename();
    }

    fn refresh_filename(&mut self) {
        let simple = !self.parts.needs_options && self.parts.backing.is_none();
        self.filename = match self.parts.children.iter().find(|(name, _)| *name == "file") {
            Some((_, child @ (Child::File(_) | Child::Protocol(_)))) if simple && child.exact_name().is_some() => {
                child.name().to_owned()
            }
            _ => {
                let mut name = format!("json:{}", json::one_line(&Value::Object(self.full_options())));
                // The description is ASCII.
                if name.len() >= MAX_FILENAME {
                    name.truncate(MAX_FILENAME - 4);
                    name.push_str("...");
                }
                name
            }
        };
    }

    /// The complete description of this image by options.
    pub(super) fn full_options(&self) -> Options {
        if self.parts.protocol.is_some()
            && let Some((_, child)) = self.parts.children.first()
        {
            return child.full_options();
        }
        let mut options = self.parts.strong.clone();
        for (name, child) in &self.parts.children {
            options.insert((*name).to_owned(), Value::Object(child.full_options()));
        }
        if let Some(backing) = &self.parts.backing {
            options.insert("backing".to_owned(), backing.clone());
        }
        options
    }

    /// The name of the driver, as `info` prints it.
    pub fn driver(&self) -> &'static str {
        self.parts.protocol.unwrap_or_else(|| self.layer.format())
    }

    /// The name of the node: the one that the user gave it, or one like those that the reference makes up.
    pub fn node_name(&self) -> &str {
        let below = match self.parts.children.first() {
            Some((_, Child::Protocol(node))) if self.parts.protocol.is_some() => node.name.as_ref(),
            Some((_, Child::File(file))) if self.parts.protocol.is_some() => file.name.as_ref(),
            _ => None,
        };
        self.parts.name.as_ref().or(below).map_or("#block100", NodeName::as_str)
    }

    /// Disk space taken by the files that hold this image, in bytes; its backing files are not counted. `None` where
    /// that is not known.
    pub fn allocated(&self) -> Result<Option<u64>> {
        let mut sum = None;
        for (_, child) in &self.parts.children {
            if let Some(bytes) = child.allocated()? {
                sum = Some(sum.unwrap_or(0u64).saturating_add(bytes));
            }
        }
        Ok(sum)
    }

    /// Takes the locks of a raw image.
    pub(super) fn lock_raw(&self) -> Result<()> {
        let Some(flags) = self.parts.lock_later else { return Ok(()) };
        self.parts.children.iter().try_for_each(|(_, child)| child.lock(FileRole::Raw, flags))
    }

    /// The name of the file that names inside this image are relative to.
    pub(super) fn base_name(&self) -> &str {
        match self.parts.children.iter().find(|(name, _)| *name == "file") {
            Some((_, child)) => child.base_name(),
            None => &self.filename,
        }
    }

    /// The files and devices that hold this image, those of its backing files not counted: name and [`file_identity`].
    pub fn files(&self) -> Vec<(&str, (u64, u64))> {
        let mut files = Vec::new();
        for (_, child) in &self.parts.children {
            child.add_files(&mut files);
        }
        files
    }

    /// What guest data lies in: the external data file, or the image file itself.
    pub(super) fn data_child(&self) -> Option<&Child> {
        let child = |wanted| self.parts.children.iter().find(|(name, _)| *name == wanted).map(|(_, child)| child);
        child("data-file").or_else(|| child("file"))
    }

    /// Device and inode number of the file behind this image.
    pub fn identity(&self) -> Option<(u64, u64)> {
        let (_, child) = self.parts.children.iter().find(|(name, _)| *name == "file")?;
        child.identity()
    }
}

/// What tells files apart, whatever their names: device and inode number; for a block device its own number.
pub fn file_identity(name: &str) -> Option<(u64, u64)> {
    identity_of(&std::fs::metadata(text::to_os(name)).ok()?)
}

/// The same for what is known of a file already.
pub fn identity_of(info: &std::fs::Metadata) -> Option<(u64, u64)> {
    let kind = info.file_type();
    if kind.is_block_device() {
        return Some((u64::MAX, info.rdev()));
    }
    kind.is_file().then(|| (info.dev(), info.ino()))
}

/// What the bytes of an image come from.
#[derive(Debug)]
pub(crate) enum Child {
    /// A file or device.
    File(FileNode),
    /// Another image, read through its format.
    Image(Arc<Chain>),
    /// Something else, which may lie on another child.
    Protocol(ProtocolNode),
}

/// An opened node of a driver that is neither a format nor the way to a file.
#[derive(Debug)]
pub(crate) struct ProtocolNode {
    pub storage: Arc<dyn Storage>,
    /// Its name, or its description where no name leads to it.
    pub filename: String,
    /// Whether that is a name.
    pub is_exact: bool,
    pub driver: &'static str,
    /// The complete description.
    pub options: Options,
    /// What lies below (`image`).
    pub image: Option<Box<Child>>,
    /// The name that the user gave it, which is taken while it is open.
    pub name: Option<NodeName>,
    /// Whether it does not say what it holds.
    pub says_nothing: bool,
    /// What it uses of what lies below, and refuses to others, besides what is needed.
    pub permissions: Permissions,
}

/// An opened file or device.
#[derive(Debug)]
pub(crate) struct FileNode {
    pub storage: Arc<FileStorage>,
    /// The name without a protocol in front.
    pub filename: String,
    /// `file` or `host_device`.
    pub driver: &'static str,
    /// Whether locks shall be taken.
    pub locking: bool,
    /// The name that the user gave it, which is taken while it is open.
    pub name: Option<NodeName>,
}

impl Child {
    /// The bytes.
    pub fn storage(&self) -> Arc<dyn Storage> {
        match self {
            Child::File(file) => Arc::clone(&file.storage) as Arc<dyn Storage>,
            Child::Image(chain) => storage_of(chain),
            Child::Protocol(node) => Arc::clone(&node.storage),
        }
    }

    /// Tells others what it is used for. Images inside images have been locked when they were opened.
    pub fn lock(&self, role: FileRole, flags: OpenFlags) -> Result<()> {
        let file = match self {
            Child::File(file) => file,
            Child::Image(_) => return Ok(()),
            Child::Protocol(node) => {
                let flags = OpenFlags { more: flags.more.and(node.permissions), ..flags };
                return node.image.as_ref().map_or(Ok(()), |image| image.lock(role, flags));
            }
        };
        if !file.locking {
            return Ok(());
        }
        let permissions = Permissions::for_file(role, flags.write, flags.share, flags.no_io);
        let permissions = permissions.with_resize(flags.resize, flags.keep_size);
        let tolerant = !flags.write && !flags.exclusive;
        let permissions = if tolerant { permissions.tolerant(role) } else { permissions };
        file.storage.lock(permissions.and(if flags.share { flags.more.sharing() } else { flags.more }))
    }

    fn allocated(&self) -> Result<Option<u64>> {
        match self {
            Child::File(file) => file.storage.allocated().map(Some),
            Child::Image(chain) => chain.top().allocated(),
            // The reference does not look through.
            Child::Protocol(node) => Ok(node.image.is_none().then_some(0)),
        }
    }

    pub(super) fn full_options(&self) -> Options {
        match self {
            Child::File(file) => {
                NodeOptions::from_pairs([("driver", json!(file.driver)), ("filename", json!(file.filename))]).into_map()
            }
            Child::Image(chain) => chain.top().full_options(),
            Child::Protocol(node) => node.options.clone(),
        }
    }

    /// The name of the file, or the description of the image.
    pub fn name(&self) -> &str {
        match self {
            Child::File(file) => &file.filename,
            Child::Image(chain) => &chain.top().filename,
            Child::Protocol(node) => &node.filename,
        }
    }

    /// The name of the file at the bottom.
    pub fn base_name(&self) -> &str {
        match self {
            Child::File(file) => &file.filename,
            Child::Image(chain) => chain.top().base_name(),
            Child::Protocol(node) => node.image.as_ref().map_or(&*node.filename, |image| image.base_name()),
        }
    }

    /// The name, where it leads here without further options.
    pub fn exact_name(&self) -> Option<&str> {
        match self {
            Child::Protocol(node) => node.is_exact.then_some(&*node.filename),
            _ => Some(self.name()).filter(|name| !name.starts_with("json:")),
        }
    }

    /// The image that a filter passes everything on to.
    pub fn filtered(&self) -> Option<&Chain> {
        let Child::Protocol(node) = self else { return None };
        match node.image.as_deref()? {
            Child::Image(chain) => Some(chain),
            below => below.filtered(),
        }
    }

    /// Whether it does not say what it holds.
    pub fn says_nothing(&self) -> bool {
        matches!(self, Child::Protocol(node) if node.says_nothing)
    }

    fn add_files<'a>(&'a self, files: &mut Vec<(&'a str, (u64, u64))>) {
        match self {
            Child::File(file) => {
                files.extend(file_identity(&file.filename).map(|identity| (&*file.filename, identity)));
            }
            Child::Image(chain) => chain.nodes().iter().for_each(|node| files.extend(node.files())),
            Child::Protocol(node) => node.image.iter().for_each(|image| image.add_files(files)),
        }
    }

    fn identity(&self) -> Option<(u64, u64)> {
        match self {
            Child::File(file) => {
                let info = std::fs::metadata(text::to_os(&file.filename)).ok()?;
                Some((info.dev(), info.ino()))
            }
            Child::Image(chain) => chain.top().identity(),
            Child::Protocol(node) => node.image.as_ref()?.identity(),
        }
    }
}
