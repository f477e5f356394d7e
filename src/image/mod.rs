//! Opened images: one [`Layer`] per image file, stacked in a [`Chain`] by backing files.
//!
//! Every command works on extents. [`Layer::map`] says what a layer itself has for a guest range, [`Layer::read`] turns
//! such an extent into guest bytes, [`Layer::prepare`] finds places for new bytes. Falling through to backing files,
//! the zeros behind a short backing file, and read-modify-write at the edges of a range happen once, in [`Chain`].

mod advice;
mod amend;
pub mod bitmaps;
mod chain;
mod check;
mod context;
mod debugrules;
mod drivers;
mod filename;
mod info;
pub mod jsonname;
mod keyorder;
mod nested;
mod node;
mod nodename;
mod open;
mod options;
mod patience;
mod probe;
mod report;
mod resize;
mod runtime;
mod snapshots;
mod spec;
mod status;
mod stream;
mod window;
mod write;

use std::fmt::Debug;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::storage::Storage;

pub use crate::storage::Preallocation;
pub use advice::backing as advise_on_backing;
pub use amend::Amend;
pub use bitmaps::{BitmapAction, BitmapChange, BitmapEdit, Bitmaps};
pub use chain::{Chain, ChainExtent};
pub use check::{CheckNote, CheckReport, Checks, Repair};
pub use context::{ImageLimits, OpenContext, OpenFlags, OpenPolicy, Reference, Warning, WarningSink};
pub use filename::{protocol_prefix, resolve_backing};
pub use info::{BitmapInfo, LayerInfo, SnapshotInfo};
pub use keyorder::{in_reference_order, ordered_keys};
pub use nested::storage_of;
pub(crate) use node::Child;
pub use node::{Node, file_identity, identity_of};
pub use nodename::NodeNames;
pub use open::{
    check_create_storage, create_storage, open_backing, open_chain, open_layer, open_storage, plain_name,
    reopen_for_writing,
};
pub use options::as_bool;
pub use probe::{Driver, creator, is_known_driver, probe, probes_as_raw};
pub use report::{NodeReport, snapshot_details_json, snapshot_json};
pub use resize::{Resize, check_length};
pub use snapshots::{Difference, Held, SnapshotDetails, Snapshots};
pub use spec::{ImageSpec, Options};
pub use status::Status;
pub use stream::StreamImage;
pub use window::Window;
pub use write::{Edit, EditKind, Layout, Range, push_range, write_payload};

/// What a layer has of its own at a guest range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Guest offset of the first byte.
    pub guest: u64,
    /// Length in bytes, at least 1.
    pub len: u64,
    /// What is there.
    pub kind: ExtentKind,
}

/// The kinds of an [`Extent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Bytes stored at `host` in the layer's data storage: as they are, or encrypted one to one.
    Data {
        /// Offset in [`Layer::data_storage`].
        host: u64,
        /// Whether the stored bytes are encrypted.
        encrypted: bool,
    },
    /// One compressed cluster; the extent does not reach beyond it.
    Compressed {
        /// Offset of the compressed bytes in the image file.
        host: u64,
        /// How many bytes are stored there at most (rounded up to sectors by some formats).
        stored: u64,
        /// Guest offset of the start of the cluster (the extent may start further in).
        cluster: u64,
    },
    /// Reads as zeros whatever the backing file says.
    Zero {
        /// The space that is nevertheless reserved for it, if there is any.
        host: Option<u64>,
        /// Whether bytes stored there would be encrypted.
        encrypted: bool,
    },
    /// Nothing of its own: the backing file shows through, or zeros where there is none.
    Unallocated,
}

impl ExtentKind {
    /// Zeros without a place.
    pub const ZERO: ExtentKind = ExtentKind::Zero { host: None, encrypted: false };
}

/// Granularities of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerLimits {
    /// Allocation unit in bytes: the cluster size; 1 for formats that allocate nothing themselves.
    pub cluster: u64,
    /// Writes must cover whole units of this many bytes (the subcluster size; the sector size of a cipher); the end of
    /// the image counts as such a border.
    pub granule: u64,
    /// What [`Layer::prepare_part`] takes covers whole units of this many bytes (the sector of a cipher; otherwise 1).
    pub sector: u64,
    /// Whether unallocated ranges of a newly created image read as zeros.
    pub zero_init: bool,
}

/// How the bytes of a [`Place`] will be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// As they are (encrypted if the layer is).
    Plain,
    /// Compressed to `stored` bytes; the place is exactly one cluster (or its part before the end of the image).
    Compressed {
        /// Length of the compressed bytes.
        stored: u64,
    },
}

/// A guest range that shall be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Guest offset; a multiple of the granule.
    pub guest: u64,
    /// Length in bytes; the end is a multiple of the granule, or the end of the image.
    pub len: u64,
    /// How it is stored.
    pub payload: Payload,
}

/// Where a guest range will lie. Pieces of plain payload merge where guest and host ranges are both contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Guest offset.
    pub guest: u64,
    /// Length in bytes (guest bytes, also for a compressed piece).
    pub len: u64,
    /// Offset in [`Layer::data_storage`].
    pub host: u64,
    /// How it is stored.
    pub payload: Payload,
    /// The host range already reads as zeros and needs no cipher: zero runs inside need not be written.
    pub zeroed: bool,
}

/// Reserved places whose bytes are about to be written.
///
/// [`Pending::commit`] makes them visible to the guest. Dropping it instead gives the places back.
#[must_use = "places are given back unless they are committed"]
pub trait Pending: Send {
    /// Where everything lies, in guest order.
    fn pieces(&self) -> &[Piece];

    /// Writes guest bytes into plain pieces; `guest..guest + data.len()` may span pieces. Encrypts where that is due
    /// (then `data` is whole sectors).
    fn write(&self, guest: u64, data: &[u8]) -> Result<()>;

    /// Writes the compressed bytes of the cluster at `guest`.
    fn write_compressed(&self, guest: u64, stored: &[u8]) -> Result<()>;

    /// Publishes: from now on the guest sees the new bytes. Everything must have been written before.
    fn commit(self: Box<Self>) -> Result<()>;
}

/// How hard a [`Compressor`] tries (`-o compression_level`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompressionLevel {
    /// As fast as it can.
    Fast,
    /// What suits most.
    #[default]
    Default,
    /// As small as it can.
    Best,
    /// A level of the compression type's own scale.
    Number(i32),
}

/// Compresses clusters; one per thread, as it keeps its working memory.
pub trait Compressor: Send {
    /// The compressed form of one whole cluster, or `None` if that would not be smaller than the cluster.
    fn compress(&mut self, cluster: &[u8]) -> Result<Option<&[u8]>>;
}

/// How to make a guest range read as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroFlags {
    /// Space behind the range may be given back.
    pub may_unmap: bool,
}

/// What a layer says about the image it lies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingRef {
    /// The name as it is written in the image.
    pub filename: String,
    /// The format as it is written in the image, if it is.
    pub format: Option<String>,
}

/// One opened image's own data. All methods may be called from several threads at once.
pub trait Layer: Send + Sync + Debug {
    /// Name of the format, as `info` prints it.
    fn format(&self) -> &'static str;

    /// The virtual size in bytes.
    fn size(&self) -> u64;

    /// See [`LayerLimits`].
    fn limits(&self) -> LayerLimits;

    /// The image file itself (metadata, and data unless [`Layer::data_storage`] is another one).
    fn storage(&self) -> &Arc<dyn Storage>;

    /// The disk as a storage, where the format adds nothing to the bytes of one; `None` where reading and writing have to
    /// go through the layer.
    fn as_storage(&self) -> Option<Arc<dyn Storage>> {
        None
    }

    /// Where plain data lies.
    fn data_storage(&self) -> &Arc<dyn Storage> {
        self.storage()
    }

    /// What lies at `guest`, for as far as that holds within `len` bytes. `guest + len` must not pass the virtual size.
    fn map(&self, guest: u64, len: u64) -> Result<Extent>;

    /// Reads guest bytes out of an extent that [`Layer::map`] returned; `guest..guest + buf.len()` lies within it.
    fn read(&self, extent: &Extent, guest: u64, buf: &mut [u8]) -> Result<()>;

    /// The image this one lies on, as its header says.
    fn backing(&self) -> Option<BackingRef> {
        None
    }

    /// Whether [`Layer::set_backing`] is possible.
    fn check_backing(&self, _backing: Option<&BackingRef>) -> Result<()> {
        Err(not_supported())
    }

    /// Makes everything written so far durable, and then another backing file (or none) the one this image names. What
    /// the guest sees is the caller's business.
    fn set_backing(&self, _backing: Option<&BackingRef>) -> Result<()> {
        Err(not_supported())
    }

    /// Gives up all data of the present state, so that the backing file shows everywhere.
    fn make_empty(&self) -> Result<()> {
        Err(not_supported())
    }

    /// The host offset that is kept for an unallocated `guest` offset, if there is one, and for how many bytes the answer
    /// holds.
    fn reserved(&self, _guest: u64) -> Result<(Option<u64>, u64)> {
        Ok((None, u64::MAX))
    }

    /// Whether places were reserved for far more data than was ever written, so that data may be holes.
    fn is_reserved_in_advance(&self) -> bool {
        false
    }

    /// Everything `info` shows.
    fn info(&self) -> Result<LayerInfo>;

    /// Reserves places for `places` (in guest order, not overlapping). Ranges that already have a place of their own
    /// keep it.
    fn prepare<'a>(&'a self, places: &[Place]) -> Result<Box<dyn Pending + 'a>>;

    /// The places that all of `guest..guest + len` (whole [`LayerLimits::sector`]s) has already, for itself and with plain
    /// bytes in them, so that only these bytes have to be written; `None` where some of it needs [`Layer::prepare`].
    fn prepare_part<'a>(&'a self, _guest: u64, _len: u64) -> Result<Option<Box<dyn Pending + 'a>>> {
        Ok(None)
    }

    /// Makes a range (whole granules) read as zeros without writing payload, in the way that suits the format best.
    fn zero(&self, guest: u64, len: u64, flags: ZeroFlags) -> Result<()>;

    /// Changes the virtual size. Guest bytes below both sizes stay as they are.
    fn resize(&self, _resize: &Resize<'_>) -> Result<()> {
        Err(Error::unsupported("Image format driver does not support resize"))
    }

    /// Changes what the image itself says about its format. Options that the format does not have have been refused.
    fn amend(&self, _amend: &Amend<'_>) -> Result<()> {
        Err(not_supported())
    }

    /// A compressor for this layer's compression type; `None` where the format has none. Fails where the type has no such
    /// level.
    fn compressor(&self, _level: CompressionLevel) -> Option<Result<Box<dyn Compressor>>> {
        None
    }

    /// Writes out all metadata in an order that is safe at every point, and flushes unless the cache mode forbids it.
    fn flush(&self) -> Result<()>;

    /// Access to persistent bitmaps; `None` where the image cannot have any.
    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        None
    }

    /// Access to the check of the image's own structures; `None` where the format has nothing to be checked.
    fn checks(&self) -> Option<&dyn Checks> {
        None
    }

    /// Access to internal snapshots; `None` where the format has none.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }
}

/// The error of an operation that a format does not have.
pub fn not_supported() -> Error {
    Error::unsupported("Operation not supported")
}
