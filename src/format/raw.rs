//! Raw images: the bytes of the disk, nothing else; or a window into a file (`offset`, `size`).

mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use super::{CreateRequest, Format, MeasureRequest, Measured, OpenRequest, protocol};
use crate::error::{Error, Result};
use crate::image::{
    Chain, Extent, ExtentKind, Layer, LayerInfo, LayerLimits, Options, Payload, Pending, Piece, Place, Resize, Window,
    ZeroFlags, check_length, create_storage, not_supported, probes_as_raw,
};
use crate::number::parse_size;
use crate::storage::{DebugEvent, FileRole, NewFile, Preallocation, RangeKind, Storage, ZeroMode};
use crate::units::{SECTOR, align_up};

/// The descriptor of the raw format.
pub static FORMAT: Format = DESCRIPTOR;

/// The same as a constant, for descriptors that differ in little.
pub const DESCRIPTOR: Format = Format {
    name: "raw",
    probe: |_| 1,
    create_options: protocol::DISK_OPTIONS,
    amend_options: &[],
    open,
    create: Some(create),
    stream: Some(stream::stream),
    measure: Some(measure),
    backing: false,
    compression: None,
};

fn open(request: OpenRequest<'_>) -> Result<Box<dyn Layer>> {
    let len = request.storage.len()?;
    let offset = take_size(request.options, "offset")?;
    let size = take_size(request.options, "size")?;
    let part = Part::new(len, offset, size)?;
    let guarded = request.probed && request.flags.write;
    let fixed = size.is_some();
    Ok(Box::new(Raw { storage: request.storage, offset: part.offset, size: AtomicU64::new(part.size), fixed, guarded }))
}

/// The part of a storage that starts at `offset` and has `size` bytes, to be read as a raw image.
pub fn part_of(storage: Arc<dyn Storage>, offset: u64, size: u64) -> Box<dyn Layer> {
    Box::new(Raw { storage, offset, size: AtomicU64::new(size), fixed: true, guarded: false })
}

/// A raw image over any storage, for tests.
#[cfg(test)]
pub fn over(storage: Arc<dyn Storage>) -> Box<dyn Layer> {
    let size = storage.len().expect("storages of tests know their length");
    Box::new(Raw { storage, offset: 0, size: AtomicU64::new(size), fixed: false, guarded: false })
}

/// Takes a size out of run-time options, which hold numbers or text.
fn take_size(options: &mut Options, name: &str) -> Result<Option<u64>> {
    let Some(value) = options.remove(name) else { return Ok(None) };
    let size = match &value {
        Value::Number(number) => number.as_u64().ok_or(()),
        Value::String(text) => parse_size(text).map_err(|_| ()),
        _ => Err(()),
    };
    match (size, &value) {
        (Ok(size), _) => Ok(Some(size)),
        (Err(()), Value::String(text)) if text.trim_start().starts_with('-') => {
            Err(Error::invalid(format!("Value '{text}' is out of range for parameter '{name}'")))
        }
        (Err(()), _) => Err(Error::invalid(format!("Parameter '{name}' expects a size"))),
    }
}

/// The part of the file that is the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    offset: u64,
    size: u64,
}

impl Part {
    /// The part that the options ask for in a file of `len` bytes.
    fn new(len: u64, offset: Option<u64>, size: Option<u64>) -> Result<Part> {
        let offset = offset.unwrap_or(0);
        // Files have whole sectors here.
        let len = align_up(len, SECTOR).unwrap_or(len);
        if offset > len {
            return Err(Error::invalid(format!(
                "Offset ({offset}) cannot be greater than size of the containing file ({len})"
            )));
        }
        let Some(size) = size else {
            // A disk has whole sectors; the bytes behind the end of the file read as zeros.
            let size = len - offset;
            return Ok(Part { offset, size: align_up(size, SECTOR).unwrap_or(size) });
        };
        if size > len - offset {
            return Err(Error::invalid(format!(
                "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the  actual size of \
                 the containing file ({len})"
            )));
        }
        if size % SECTOR != 0 {
            return Err(Error::invalid("Specified size is not multiple of 512"));
        }
        Ok(Part { offset, size })
    }
}

fn create(request: CreateRequest<'_>) -> Result<()> {
    let preallocation = match request.options.get("preallocation") {
        None => Preallocation::Off,
        Some(name) => {
            Preallocation::from_name(name).ok_or_else(|| Error::invalid(format!("invalid parameter value: {name}")))?
        }
    };
    let size = align_up(request.size, SECTOR).unwrap_or(request.size);
    let new = protocol::new_file(&request, size)?;
    let (_, guard) =
        create_storage(request.filename, &NewFile { preallocation, role: FileRole::Raw, ..new }, request.context)?;
    guard.keep();
    Ok(())
}

/// A raw image is as long as its disk.
fn measure(request: MeasureRequest<'_>) -> Result<Measured> {
    let size = request.source.map_or(request.size, Chain::size);
    let size = align_up(size, SECTOR).ok_or_else(|| Error::os(libc::EFBIG))?;
    Ok(Measured { required: size, fully_allocated: size, bitmaps: None })
}

/// An opened raw image.
#[derive(Debug)]
struct Raw {
    storage: Arc<dyn Storage>,
    /// Where the disk starts in the file.
    offset: u64,
    size: AtomicU64,
    /// The size was given: the file may go on behind the disk.
    fixed: bool,
    /// The format was guessed: the guest must not be able to write a first sector that looks like another format, which
    /// the next guess would believe (and so open files that the guest names).
    guarded: bool,
}

impl Raw {
    /// Refuses what must not stand in the first sector of an image whose format was guessed.
    fn check_first_sector(&self, guest: u64, data: &[u8]) -> Result<()> {
        if !self.guarded || guest >= SECTOR {
            return Ok(());
        }
        let mut sector = [0; SECTOR as usize];
        self.storage.read_at(&mut sector, self.offset)?;
        let from = guest as usize;
        let count = data.len().min(sector.len() - from);
        sector[from..from + count].copy_from_slice(&data[..count]);
        if probes_as_raw(&sector) { Ok(()) } else { Err(Error::os(libc::EPERM)) }
    }
}

impl Layer for Raw {
    fn format(&self) -> &'static str {
        "raw"
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn limits(&self) -> LayerLimits {
        LayerLimits { cluster: 1, granule: 1, sector: 1, zero_init: self.storage.limits().zero_init }
    }

    fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    fn as_storage(&self) -> Option<Arc<dyn Storage>> {
        if self.guarded {
            return None;
        }
        let size = self.fixed.then(|| self.size());
        let whole = self.offset == 0 && size.is_none();
        let storage = Arc::clone(&self.storage);
        Some(if whole { storage } else { Arc::new(Window::new(storage, self.offset, size)) })
    }

    fn map(&self, guest: u64, len: u64) -> Result<Extent> {
        let host = self.offset + guest;
        let (kind, len) = self.storage.extent(host, len)?;
        let kind = match kind {
            RangeKind::Data => ExtentKind::Data { host, encrypted: false },
            RangeKind::Hole => ExtentKind::Zero { host: Some(host), encrypted: false },
        };
        Ok(Extent { guest, len, kind })
    }

    fn read(&self, _extent: &Extent, guest: u64, buf: &mut [u8]) -> Result<()> {
        self.storage.event(DebugEvent::ReadAio);
        self.storage.read_at(buf, self.offset + guest)
    }

    fn info(&self) -> Result<LayerInfo> {
        Ok(LayerInfo::default())
    }

    fn prepare<'a>(&'a self, places: &[Place]) -> Result<Box<dyn Pending + 'a>> {
        // What was there before is not known here.
        let zeroed = false;
        let piece = |place: &Place| match place.payload {
            Payload::Plain => Ok(Piece {
                guest: place.guest,
                len: place.len,
                host: self.offset + place.guest,
                payload: Payload::Plain,
                zeroed,
            }),
            Payload::Compressed { .. } => Err(not_supported()),
        };
        let pieces = places.iter().map(piece).collect::<Result<_>>()?;
        Ok(Box::new(RawPending { raw: self, pieces }))
    }

    fn zero(&self, guest: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        let offset = self.offset + guest;
        if !flags.may_unmap {
            return self.storage.zero(offset, len, ZeroMode::Allocate);
        }
        // A file that ends inside the disk's last sector reads as zeros behind its end; it need not grow for that.
        let end = (offset + len).min(self.storage.len()?);
        if end > offset { self.storage.zero(offset, end - offset, ZeroMode::Discard) } else { Ok(()) }
    }

    fn resize(&self, resize: &Resize<'_>) -> Result<()> {
        if self.fixed {
            return Err(Error::unsupported("Cannot resize fixed-size raw disks"));
        }
        let Some(len) = self.offset.checked_add(resize.size).filter(|len| *len <= i64::MAX as u64) else {
            return Err(Error::invalid("Disk size too large for the chosen offset"));
        };
        check_length(len)?;
        resize_file(&*self.storage, len, resize.preallocation)?;
        self.size.store(align_up(resize.size, SECTOR).unwrap_or(resize.size), Ordering::Release);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.storage.flush()
    }
}

/// Gives a file another length; what is new of it is taken as `mode` says.
fn resize_file(file: &dyn Storage, len: u64, mode: Preallocation) -> Result<()> {
    let fixed = file.limits().fixed_len;
    match mode {
        Preallocation::Off if fixed && file.len()? != len => Err(Error::unsupported("Cannot resize device files")),
        Preallocation::Off if fixed => Ok(()),
        Preallocation::Off => file.set_len(len),
        mode if fixed => Err(mode.not_for_devices()),
        Preallocation::Metadata => Err(Error::unsupported("Unsupported preallocation mode: metadata")),
        Preallocation::Falloc | Preallocation::Full => extend(file, len, mode),
    }
}

/// Adds zeros at the end of a file; where that fails, it keeps its length.
fn extend(file: &dyn Storage, len: u64, mode: Preallocation) -> Result<()> {
    let old = file.len()?;
    if len <= old {
        return file.set_len(len);
    }
    let extended = mode.take(file, old, len - old);
    if extended.is_err() {
        // The first error is the one to report.
        let _ = file.set_len(old);
    }
    extended
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
        self.raw.check_first_sector(guest, data)?;
        self.raw.storage.event(DebugEvent::WriteAio);
        self.raw.storage.write_at(data, self.raw.offset + guest)
    }

    fn write_compressed(&self, _guest: u64, _stored: &[u8]) -> Result<()> {
        Err(not_supported())
    }

    fn commit(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "raw_tests.rs"]
mod tests;
