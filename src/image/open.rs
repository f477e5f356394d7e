//! Opening: from what a user named to a [`Chain`] of layers.

use std::sync::Arc;

use super::{Chain, ImageSpec, Layer, Node, Options, probe, resolve_backing};
use crate::crypto::Secrets;
use crate::error::{Context, Error, Result};
use crate::format::{self, OpenRequest};
use crate::storage::{
    CacheMode, Creation, FileRole, FileStorage, NewFile, OpenMode, Permissions, Storage, UnfinishedFile,
};

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
    /// This run has created the image: nothing is lost if it is unusable after a crash, so metadata may be written in any
    /// order.
    pub fresh: bool,
}

impl OpenFlags {
    /// Read-only with the default cache mode.
    pub const READ: OpenFlags = OpenFlags {
        write: false,
        share: false,
        cache: CacheMode::WRITEBACK,
        no_backing: false,
        no_io: false,
        fresh: false,
    };
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
    let storage = open_file(filename, flags).context(|| format!("Could not open '{filename}'"))?;
    let probed = format.is_none();
    let format = match format {
        Some(name) => format::find(name).ok_or_else(|| Error::invalid(format!("Unknown driver '{name}'")))?,
        None => {
            let mut head = [0; 2048];
            storage.read_at(&mut head, 0)?;
            probe(&head)
        }
    };
    let role = if format.name == "raw" { FileRole::Raw } else { FileRole::Metadata };
    storage
        .lock(Permissions::for_file(role, flags.write, flags.share, flags.no_io))
        .context(|| format!("Could not open '{filename}'"))?;
    let mut options = Options::new();
    let request = OpenRequest { storage, filename, options: &mut options, flags, probed, context };
    let layer: Box<dyn Layer> = (format.open)(request).context(|| format!("Could not open '{filename}'"))?;
    Ok(Node { layer, filename: filename.clone() })
}

/// Opens the file behind an image. No locks are taken yet, as they depend on the format found in it.
fn open_file(filename: &str, flags: OpenFlags) -> Result<Arc<FileStorage>> {
    let mode = OpenMode { write: flags.write, ..OpenMode::READ };
    Ok(Arc::new(FileStorage::open(filename, mode, flags.cache)?))
}

/// Opens the file that holds the data of another image, and locks it.
pub fn open_storage(filename: &str, flags: OpenFlags) -> Result<Arc<dyn Storage>> {
    let storage = open_file(filename, flags)?;
    storage.lock(Permissions::for_file(FileRole::Data, flags.write, flags.share, flags.no_io))?;
    Ok(storage)
}

/// Creates (or empties) the file for a new image. The guard removes it again unless it is told to keep it.
pub fn create_storage(filename: &str, new: &NewFile) -> Result<(Arc<dyn Storage>, UnfinishedFile)> {
    let Creation { storage, guard } = FileStorage::create(filename, new)?;
    Ok((Arc::new(storage), guard))
}
