//! What is copied: one opened image, or several one behind the other.

use crate::error::Result;
use crate::image::{Chain, ChainExtent, Extent, ExtentKind, Layer};
use crate::storage::{InputStream, RangeKind};
use crate::units::{SECTOR, align_up};

/// One image of a [`Source`].
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Where it starts in the whole, in bytes.
    pub start: u64,
    /// Its length in bytes: whole sectors.
    pub len: u64,
    /// The image.
    pub chain: &'a Chain,
}

/// The images to copy, as one disk.
#[derive(Debug)]
pub struct Source<'a> {
    parts: Vec<Part<'a>>,
    size: u64,
    scope: Scope<'a>,
    stream: Option<&'a InputStream>,
}

/// Which layers of the images count.
#[derive(Clone, Copy, Debug)]
enum Scope<'a> {
    /// All of them: what the guest sees.
    Everything,
    /// Only what the top layers have of their own; the rest is the target's backing file's.
    Top,
    /// What the given layers have of their own; the target has the rest.
    Own,
    /// What shows through the top layer, where that would change on another backing file.
    Below(NewBacking<'a>),
}

/// What an image will lie on instead of its present backing file.
#[derive(Clone, Copy, Debug)]
pub struct NewBacking<'a> {
    /// The disk it will lie on; `None` for zeros.
    pub disk: Option<&'a Chain>,
    /// How many layers below the top the new backing file is, if it is one of the present chain: what comes from there
    /// stays as it is.
    pub depth: Option<usize>,
}

impl NewBacking<'_> {
    /// For how many bytes from `guest` on, at most `len`, it has something or nothing but zeros.
    fn map(&self, guest: u64, len: u64) -> Result<(RangeKind, u64)> {
        let Some(disk) = self.disk.filter(|disk| guest < disk.size()) else { return Ok((RangeKind::Hole, len)) };
        let found = disk.map(guest, len.min(disk.size() - guest))?;
        let zero = matches!(found.extent.kind, ExtentKind::Zero { .. } | ExtentKind::Unallocated);
        Ok((if zero { RangeKind::Hole } else { RangeKind::Data }, found.extent.len))
    }

    /// Reads what it will show.
    pub fn read(&self, guest: u64, buf: &mut [u8]) -> Result<()> {
        match self.disk {
            Some(disk) => disk.read(guest, buf),
            None => {
                buf.fill(0);
                Ok(())
            }
        }
    }
}

/// What lies at a place of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Bytes to read out of this extent; its offsets are relative to the part.
    Data(ChainExtent),
    /// Bytes to read, in an extent that could not be found out.
    Unknown,
    /// Zeros.
    Zero,
    /// What the target, or its backing file, has already.
    Inherited,
}

/// The answer of [`Source::map`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Index of the part it lies in.
    pub part: usize,
    /// For how many bytes it holds, at least 1.
    pub len: u64,
    /// What is there.
    pub status: Status,
}

impl<'a> Source<'a> {
    /// These images one behind the other. With `top_only` (a target with a backing file), ranges that the top layer does
    /// not have but the source's own backing file covers are [`Status::Inherited`].
    pub fn new(chains: &'a [Chain], top_only: bool) -> Self {
        Source::with_scope(chains, if top_only { Scope::Top } else { Scope::Everything })
    }

    /// What the layers of `chain`, which do not include the one they lie on, have of their own. The rest is
    /// [`Status::Inherited`].
    pub fn own(chain: &'a Chain) -> Self {
        Source::with_scope(std::slice::from_ref(chain), Scope::Own)
    }

    /// What the top of `chain` has to be given so that it shows the same on `new`. Where it has something of its own, or
    /// nothing changes, that is [`Status::Inherited`]; bytes still have to be compared with those of `new`.
    pub fn below(chain: &'a Chain, new: NewBacking<'a>) -> Self {
        Source::with_scope(std::slice::from_ref(chain), Scope::Below(new))
    }

    /// What bytes of this source have to be compared with, as only those that differ shall be written.
    pub fn new_backing(&self) -> Option<NewBacking<'a>> {
        match self.scope {
            Scope::Below(new) => Some(new),
            _ => None,
        }
    }

    fn with_scope(chains: &'a [Chain], scope: Scope<'a>) -> Self {
        let mut start = 0u64;
        let mut parts = Vec::with_capacity(chains.len());
        for chain in chains {
            let len = align_up(chain.size(), SECTOR).unwrap_or(chain.size());
            parts.push(Part { start, len, chain });
            start = start.saturating_add(len);
        }
        Source { parts, size: start, scope, stream: None }
    }

    /// What arrives as a stream. It has no size, nor anything to ask about; it can be copied once.
    pub fn from_stream(stream: &'a InputStream) -> Self {
        Source { parts: Vec::new(), size: 0, scope: Scope::Everything, stream: Some(stream) }
    }

    /// The stream, if this is one.
    pub fn stream(&self) -> Option<&'a InputStream> {
        self.stream
    }

    /// The length of the whole in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The part with this index.
    pub fn part(&self, index: usize) -> &Part<'a> {
        &self.parts[index]
    }

    /// Index of the part that holds `guest`, which must lie below the size.
    pub fn part_at(&self, guest: u64) -> usize {
        // Empty parts share their start with the one behind them: the last that starts early enough is the right one.
        self.parts.partition_point(|part| part.start <= guest) - 1
    }

    /// What lies at `guest`, for as far as that holds within `len` bytes.
    pub fn map(&self, guest: u64, len: u64) -> Result<Found> {
        let index = self.part_at(guest);
        let part = &self.parts[index];
        let at = guest - part.start;
        let len = len.min(part.len - at);
        let size = part.chain.size();
        if at >= size {
            return Ok(Found { part: index, len, status: Status::Zero });
        }
        let len = len.min(size - at);
        let layers = if matches!(self.scope, Scope::Top) { 1 } else { part.chain.nodes().len() };
        let found = part.chain.map_above(at, len, layers)?;
        let mut len = found.extent.len;
        if let Scope::Below(new) = self.scope
            && (is_own(&found) || new.depth.is_some_and(|depth| found.depth >= depth))
        {
            return Ok(Found { part: index, len, status: Status::Inherited });
        }
        let mut status = match found.extent.kind {
            ExtentKind::Unallocated if matches!(self.scope, Scope::Own) => Status::Inherited,
            ExtentKind::Unallocated if matches!(self.scope, Scope::Top) => {
                // Only what the source itself has from a backing file is taken to be in the target's, too; where it has
                // none, or a shorter one, it reads as zeros and the target must, whatever its backing file holds.
                let below = part.chain.nodes().get(1).map_or(0, |node| node.layer.size());
                if at < below {
                    len = len.min(below - at);
                    Status::Inherited
                } else {
                    Status::Zero
                }
            }
            ExtentKind::Unallocated | ExtentKind::Zero { .. } => Status::Zero,
            ExtentKind::Data { host, encrypted: false } => {
                let layer = &part.chain.nodes()[found.depth].layer;
                let (kind, part_len) = stored(&**layer, host, len)?;
                len = part_len;
                if kind == RangeKind::Hole { Status::Zero } else { Status::Data(found) }
            }
            _ => Status::Data(found),
        };
        if let (Scope::Below(new), Status::Zero) = (self.scope, status) {
            let (kind, part_len) = new.map(at, len)?;
            len = part_len;
            let zeros = Extent { guest: at, len, kind: ExtentKind::ZERO };
            status = match kind {
                RangeKind::Hole => Status::Inherited,
                RangeKind::Data => Status::Data(ChainExtent { depth: 0, extent: zeros }),
            };
        }
        Ok(Found { part: index, len, status })
    }

    /// Whether the top layer has a place for the cluster at `guest`, even if it does not use it.
    pub fn is_occupied(&self, guest: u64, len: u64) -> Result<bool> {
        let part = &self.parts[self.part_at(guest)];
        let layer = &part.chain.top().layer;
        let at = guest - part.start;
        let extent = layer.map(at, len)?;
        Ok(extent.kind != ExtentKind::Unallocated || extent.len < len || layer.reserved(at)?.0.is_some())
    }

    /// Reads guest bytes of the part `index`, out of `extent` if it is known. `guest` counts in the whole.
    pub fn read(&self, index: usize, extent: Option<&ChainExtent>, guest: u64, buf: &mut [u8]) -> Result<()> {
        let part = &self.parts[index];
        let at = guest - part.start;
        match extent {
            Some(extent) => part.chain.read_extent(extent, at, buf),
            None => part.chain.read(at, buf),
        }
    }

    /// Reads bytes that may lie in several parts.
    pub fn read_across(&self, guest: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = guest + done as u64;
            let index = self.part_at(at);
            let part = &self.parts[index];
            let rest = (part.start + part.len - at).min((buf.len() - done) as u64) as usize;
            self.read(index, None, at, &mut buf[done..done + rest])?;
            done += rest;
        }
        Ok(())
    }
}

/// Whether it comes from the top layer.
fn is_own(found: &ChainExtent) -> bool {
    found.depth == 0 && found.extent.kind != ExtentKind::Unallocated
}

/// Whether the bytes of a plain extent are there, or were only reserved (`preallocation=metadata`): a hole in the file reads
/// as zeros.
fn stored(layer: &dyn Layer, host: u64, len: u64) -> Result<(RangeKind, u64)> {
    if layer.limits().cluster == 1 {
        // Formats without clusters have looked at the file to answer at all.
        return Ok((RangeKind::Data, len));
    }
    layer.data_storage().extent(host, len)
}
