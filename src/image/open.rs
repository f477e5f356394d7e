//! Opening: from what a user named to a [`Chain`] of layers.

use std::sync::Arc;

use super::{Chain, ImageSpec, Layer, Node, Options, probe, resolve_backing};
use crate::crypto::Secrets;
use crate::error::{Context, Error, Result};
use crate::format::{self, OpenRequest};
use crate::storage::{CacheMode, FileStorage, OpenMode, Storage};

/// Which files named inside an image may be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpenPolicy {
    /// Everything an image refers to, as the reference does.
    #[default]
    Trusting,
}

/// How an image is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFlags {
    /// Open for writing.
    pub write: bool,
    /// Do not care who else uses the image (`-U`).
    pub share: bool,
    /// The cache mode.
    pub cache: CacheMode,
    /// Leave the backing file closed.
    pub no_backing: bool,
    /// Only metadata will be looked at: a missing key for the contents is no error.
    pub no_io: bool,
}

impl OpenFlags {
    /// Read-only with the default cache mode.
    pub const READ: OpenFlags =
        OpenFlags { write: false, share: false, cache: CacheMode::WRITEBACK, no_backing: false, no_io: false };
    /// Read and write with the default cache mode.
    pub const WRITE: OpenFlags = OpenFlags { write: true, ..OpenFlags::READ };
}

/// What opening needs to know besides names: secrets and policy.
#[derive(Debug, Default)]
pub struct OpenContext {
    /// The secrets given with `--object secret,...`.
    pub secrets: Secrets,
    /// Which referenced files may be opened.
    pub policy: OpenPolicy,
}

/// Opens the image and everything it lies on.
pub fn open_chain(spec: &ImageSpec, flags: OpenFlags, context: &OpenContext) -> Result<Chain> {
    let mut nodes = Vec::new();
    let mut node = open_layer(spec, flags, context)?;
    loop {
        let backing = if flags.no_backing { None } else { node.layer.backing() };
        let name = node.filename.clone();
        nodes.push(node);
        let Some(backing) = backing else { break };
        let filename = resolve_backing(&name, &backing.filename);
        let spec = ImageSpec::name(filename, backing.format.as_deref());
        let flags = OpenFlags { write: false, ..flags };
        node = open_layer(&spec, flags, context).context(|| "Could not open backing file")?;
    }
    Ok(Chain::new(nodes))
}

/// Opens one image without its backing file.
pub fn open_layer(spec: &ImageSpec, flags: OpenFlags, context: &OpenContext) -> Result<Node> {
    let ImageSpec::Name { filename, format } = spec else {
        return Err(Error::unsupported("image options"));
    };
    let storage = open_storage(filename, flags)?;
    let format = match format {
        Some(name) => format::find(name).ok_or_else(|| Error::invalid(format!("Unknown driver '{name}'")))?,
        None => {
            let mut head = [0; 2048];
            storage.read_at(&mut head, 0)?;
            probe(&head)
        }
    };
    let mut options = Options::new();
    let request = OpenRequest { storage, filename, options: &mut options, flags, context };
    let layer: Box<dyn Layer> = (format.open)(request).context(|| format!("Could not open '{filename}'"))?;
    Ok(Node { layer, filename: filename.clone() })
}

/// Opens the file behind an image.
pub fn open_storage(filename: &str, flags: OpenFlags) -> Result<Arc<dyn Storage>> {
    let mode = OpenMode { write: flags.write, create: false, share: flags.share };
    Ok(Arc::new(FileStorage::open(filename, mode, flags.cache).context(|| format!("Could not open '{filename}'"))?))
}

/// Creates (or empties) the file for a new image.
pub fn create_storage(filename: &str) -> Result<Arc<dyn Storage>> {
    let mode = OpenMode { write: true, create: true, share: false };
    Ok(Arc::new(FileStorage::open(filename, mode, CacheMode::WRITEBACK)?))
}
