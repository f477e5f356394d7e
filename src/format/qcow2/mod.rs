//! qcow2, versions 2 and 3, written from the specification ("The QCOW2 image format").
//!
//! | module | what it knows |
//! |---|---|
//! | `geometry` | the numbers that follow from the header; offset types |
//! | `header` | the header and its extensions, on disk and as [`header::Header`] |
//! | `entry` | L1 and L2 entries |
//! | `tables` | the L1 table and the cache of L2 tables |
//! | `open` | from a file to a [`Qcow2`] |
//! | `map` | guest offset to extent |
//! | `info` | what `info` shows |
//! | `refcount` | refcounts of all widths, finding and giving back clusters |
//! | `renew` | new refcount structures in the place of the old ones |
//! | `txn` | the only writer of metadata: in which order it reaches the disk |
//! | `write` | places for guest bytes, zero clusters, publishing |
//! | `compress`, `crypt` | payload transformations |
//! | `backing` | naming another backing file |
//! | `snapshot`, `bitmap` | what their tables hold and the operations on them; emptying an image |
//! | `check` | looking at all structures, and repairing them |
//! | `resize`, `amend` | another virtual size, version, refcount width, other names and keys |
//! | `options`, `create`, `measure` | creation options and new images |
//! | `stream` | new images that are written from front to back |
//!
//! One lock ([`Qcow2::meta`]) guards all tables. Payload is read and written without it.

mod amend;
mod backing;
mod bitmap;
mod check;
mod compress;
mod create;
mod crypt;
mod entry;
mod geometry;
mod header;
mod info;
mod map;
mod measure;
mod offset_map;
mod open;
mod options;
mod refcount;
mod renew;
mod resize;
mod row;
mod snapshot;
mod stream;
mod tables;
#[cfg(test)]
pub(crate) mod testing;
mod txn;
mod write;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use crate::error::{Error, Result};
use crate::format::Format;
use crate::image::{
    Amend, BackingRef, Bitmaps, Checks, CompressionLevel, Compressor, Extent, ExtentKind, Layer, LayerInfo,
    LayerLimits, Pending, Place, Resize, Snapshots, Warning, WarningSink, ZeroFlags, not_supported,
};
use crate::scratch;
use crate::storage::{DebugEvent, Storage};
use crate::units::{SECTOR, align_down, align_up};

/// The descriptor of the format.
pub static FORMAT: Format = Format {
    name: "qcow2",
    probe: |head| {
        if head.starts_with(b"QFI\xfb") && head.get(4..8).is_some_and(|v| *v >= [0, 0, 0, 2][..]) { 100 } else { 0 }
    },
    create_options: options::CREATE_OPTIONS,
    amend_options: amend::OPTIONS,
    open: open::open,
    create: Some(create::create),
    stream: Some(stream::stream),
    measure: Some(measure::measure),
    backing: true,
    compression: Some(options::check_level),
};

/// An opened qcow2 image.
#[derive(Debug)]
struct Qcow2 {
    /// The image file.
    file: Arc<dyn Storage>,
    /// Where guest data lies: the external data file, or the image file.
    data: Arc<dyn Storage>,
    /// The layout.
    geometry: geometry::Geometry,
    /// The virtual size in bytes; changes when a snapshot is shown or applied.
    size: AtomicU64,
    /// How clusters are compressed.
    compression: header::CompressionType,
    /// The cipher of an encrypted image; `None` also where only metadata is looked at and no key was given.
    crypt: Option<crypt::Crypt>,
    /// The encryption as `info` shows it (`encrypt`).
    crypt_info: Option<serde_json::Value>,
    /// The image this one lies on.
    backing: Option<BackingRef>,
    /// Whether clusters were reserved in advance; looked up when it matters.
    unwritten: OnceLock<bool>,
    /// Where warnings go.
    warnings: WarningSink,
    /// Whether it was opened for writing.
    writable: bool,
    /// The tables.
    meta: Mutex<Meta>,
}

/// Everything in memory that stands for metadata on disk.
#[derive(Debug)]
struct Meta {
    /// The header as it is on disk or will be after the next commit.
    header: header::Header,
    /// The L1 table that is in use: the active one, or that of the snapshot on show.
    l1: tables::L1Table,
    /// L2 tables.
    l2: tables::L2Cache,
    /// The snapshots.
    snapshots: snapshot::SnapshotTable,
    /// The persistent bitmaps.
    bitmaps: bitmap::BitmapSet,
    /// What writing needs; `None` in an image that is open for reading.
    writer: Option<txn::Writer>,
}

impl Qcow2 {
    /// The tables, locked.
    fn meta(&self) -> MutexGuard<'_, Meta> {
        // A thread that panics while it holds the lock leaves tables nobody may trust; going on would write them.
        self.meta.lock().expect("no thread panicked while it changed the tables")
    }

    /// The virtual size in bytes.
    fn virtual_size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Whether a newly created image reads as zeros: not if all of its clusters are there already and what they hold is
    /// decrypted, or lies in a storage that may hold anything.
    fn reads_as_zeros_when_new(&self) -> bool {
        let preallocated = self.meta().l1.get(0).table().is_some();
        !preallocated || (self.crypt.is_none() && self.data.limits().zero_init)
    }

    fn read_data(&self, host: u64, guest: u64, encrypted: bool, buf: &mut [u8]) -> Result<()> {
        self.data.event(DebugEvent::ReadAio);
        if !encrypted {
            return self.data.read_at(buf, host);
        }
        let crypt = self.crypt.as_ref().ok_or_else(not_supported)?;
        let end = guest + buf.len() as u64;
        let start = align_down(guest, SECTOR);
        let aligned_end = align_up(end, SECTOR).ok_or_else(|| Error::os(libc::EFBIG))?;
        let host_start = host - (guest - start);
        if start == guest && aligned_end == end {
            self.data.read_at(buf, host)?;
            return crypt.decrypt(guest, host, buf);
        }
        let mut sectors = vec![0; (aligned_end - start) as usize];
        self.data.read_at(&mut sectors, host_start)?;
        crypt.decrypt(start, host_start, &mut sectors)?;
        let skipped = (guest - start) as usize;
        buf.copy_from_slice(&sectors[skipped..skipped + buf.len()]);
        Ok(())
    }

    fn read_compressed(&self, host: u64, stored: u64, skipped: u64, buf: &mut [u8]) -> Result<()> {
        // Both are at most two clusters, that is 4 MiB; `skipped` is less than a cluster.
        scratch::with(stored as usize, |bytes| {
            self.file.event(DebugEvent::ReadCompressed);
            self.file.read_at(bytes, host)?;
            let cluster_size = self.geometry.cluster_size() as usize;
            if skipped == 0 && buf.len() == cluster_size {
                return compress::decompress(self.compression, bytes, buf);
            }
            let mut cluster = vec![0; cluster_size];
            compress::decompress(self.compression, bytes, &mut cluster)?;
            buf.copy_from_slice(&cluster[skipped as usize..skipped as usize + buf.len()]);
            Ok(())
        })
    }
}

impl Layer for Qcow2 {
    fn format(&self) -> &'static str {
        "qcow2"
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn limits(&self) -> LayerLimits {
        LayerLimits {
            cluster: self.geometry.cluster_size(),
            granule: self.geometry.subcluster_size(),
            sector: if self.crypt.is_some() { SECTOR } else { 1 },
            zero_init: self.reads_as_zeros_when_new(),
        }
    }

    fn storage(&self) -> &Arc<dyn Storage> {
        &self.file
    }

    fn data_storage(&self) -> &Arc<dyn Storage> {
        &self.data
    }

    fn map(&self, guest: u64, len: u64) -> Result<Extent> {
        self.map_extent(guest, len)
    }

    fn reserved(&self, guest: u64) -> Result<(Option<u64>, u64)> {
        self.reserved_place(guest)
    }

    fn is_reserved_in_advance(&self) -> bool {
        if let Some(known) = self.unwritten.get() {
            return *known;
        }
        let found = self.has_unwritten_clusters().unwrap_or_else(|error| {
            // Guest data does not depend on refcounts.
            error
                .for_reader()
                .notices()
                .iter()
                .cloned()
                .map(Warning::Headed)
                .for_each(|warning| (self.warnings.0)(&warning));
            false
        });
        *self.unwritten.get_or_init(|| found)
    }

    fn read(&self, extent: &Extent, guest: u64, buf: &mut [u8]) -> Result<()> {
        match extent.kind {
            ExtentKind::Data { host, encrypted } => {
                self.read_data(host + (guest - extent.guest), guest, encrypted, buf)
            }
            ExtentKind::Compressed { host, stored, cluster } => {
                self.read_compressed(host, stored, guest - cluster, buf)
            }
            ExtentKind::Zero { .. } | ExtentKind::Unallocated => {
                buf.fill(0);
                Ok(())
            }
        }
    }

    fn backing(&self) -> Option<BackingRef> {
        self.backing.clone()
    }

    fn check_backing(&self, backing: Option<&BackingRef>) -> Result<()> {
        self.renamed_header(backing).map(|_| ())
    }

    fn set_backing(&self, backing: Option<&BackingRef>) -> Result<()> {
        self.rename_backing(backing)
    }

    fn make_empty(&self) -> Result<()> {
        self.give_up_everything()
    }

    fn info(&self) -> Result<LayerInfo> {
        self.layer_info()
    }

    fn checks(&self) -> Option<&dyn Checks> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        // Version 2 has no feature bit to say whether they are consistent.
        (self.meta().header.version >= 3).then_some(self)
    }

    fn prepare<'a>(&'a self, places: &[Place]) -> Result<Box<dyn Pending + 'a>> {
        self.prepare_places(places)
    }

    fn prepare_part<'a>(&'a self, guest: u64, len: u64) -> Result<Option<Box<dyn Pending + 'a>>> {
        self.existing_places(guest, len)
    }

    fn zero(&self, guest: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.zero_range(guest, len, flags)
    }

    fn resize(&self, resize: &Resize<'_>) -> Result<()> {
        self.resize_disk(resize)
    }

    fn amend(&self, amend: &Amend<'_>) -> Result<()> {
        self.amend_image(amend)
    }

    fn compressor(&self, level: CompressionLevel) -> Option<Result<Box<dyn Compressor>>> {
        Some(compress::compressor(self.compression, level, self.geometry.cluster_size()))
    }

    fn flush(&self) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        let mut meta = self.meta();
        meta.flush()?;
        let stored = meta.store_bitmaps(&self.file);
        meta.guard(stored)
    }
}
