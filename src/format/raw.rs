//! Raw images: the bytes of the disk, nothing else.

use std::sync::Arc;

use super::{CreateRequest, Format, OpenRequest};
use crate::error::Result;
use crate::image::{
    Extent, ExtentKind, Layer, LayerInfo, LayerLimits, Payload, Pending, Piece, Place, ZeroFlags, create_storage,
};
use crate::storage::{FileRole, NewFile, RangeKind, Storage, ZeroMode};
use crate::units::{SECTOR, align_up};

/// The descriptor of the raw format.
pub static FORMAT: Format = Format {
    name: "raw",
    probe: |_| 1,
    create_options: super::protocol::DISK_OPTIONS,
    open,
    create: Some(create),
    backing: false,
    compression: false,
};

fn open(request: OpenRequest<'_>) -> Result<Box<dyn Layer>> {
    let len = request.storage.len()?;
    // A disk has whole sectors; the bytes behind the end of the file read as zeros.
    let size = align_up(len, SECTOR).unwrap_or(len);
    Ok(Box::new(Raw { storage: request.storage, size }))
}

fn create(request: CreateRequest<'_>) -> Result<()> {
    let new = NewFile { size: request.size, role: FileRole::Raw, ..NewFile::default() };
    let (_, guard) = create_storage(request.filename, &new)?;
    guard.keep();
    Ok(())
}

/// An opened raw image.
#[derive(Debug)]
struct Raw {
    storage: Arc<dyn Storage>,
    size: u64,
}

impl Layer for Raw {
    fn format(&self) -> &'static str {
        "raw"
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> LayerLimits {
        LayerLimits { cluster: 1, granule: 1, zero_init: self.storage.limits().zero_init }
    }

    fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    fn map(&self, guest: u64, len: u64) -> Result<Extent> {
        let (kind, len) = self.storage.extent(guest, len)?;
        let kind = match kind {
            RangeKind::Data => ExtentKind::Data { host: guest, encrypted: false },
            RangeKind::Hole => ExtentKind::Zero { host: Some(guest) },
        };
        Ok(Extent { guest, len, kind })
    }

    fn read(&self, _extent: &Extent, guest: u64, buf: &mut [u8]) -> Result<()> {
        self.storage.read_at(buf, guest)
    }

    fn info(&self) -> Result<LayerInfo> {
        Ok(LayerInfo::default())
    }

    fn prepare<'a>(&'a self, places: &[Place]) -> Result<Box<dyn Pending + 'a>> {
        let zeroed = false;
        let piece = |place: &Place| Piece {
            guest: place.guest,
            len: place.len,
            host: place.guest,
            payload: Payload::Plain,
            zeroed,
        };
        Ok(Box::new(RawPending { raw: self, pieces: places.iter().map(piece).collect() }))
    }

    fn zero(&self, guest: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        let mode = if flags.may_unmap { ZeroMode::Discard } else { ZeroMode::Allocate };
        self.storage.zero(guest, len, mode)
    }

    fn flush(&self) -> Result<()> {
        self.storage.flush()
    }
}

/// A write to a raw image: nothing has to be reserved, nothing published.
struct RawPending<'a> {
    raw: &'a Raw,
    pieces: Vec<Piece>,
}

impl Pending for RawPending<'_> {
    fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    fn write(&self, guest: u64, data: &[u8]) -> Result<()> {
        self.raw.storage.write_at(data, guest)
    }

    fn write_compressed(&self, _guest: u64, _stored: &[u8]) -> Result<()> {
        Err(crate::image::not_supported())
    }

    fn commit(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
