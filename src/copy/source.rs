//! What is copied: one opened image, or several one behind the other.

use crate::error::Result;
use crate::image::{Chain, ChainExtent, ExtentKind, Layer};
use crate::storage::RangeKind;
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
    /// Only what the top layers have of their own counts; the rest is the target's backing file's.
    top_only: bool,
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
    /// What the backing file of the target has already.
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
        let mut start = 0u64;
        let mut parts = Vec::with_capacity(chains.len());
        for chain in chains {
            let len = align_up(chain.size(), SECTOR).unwrap_or(chain.size());
            parts.push(Part { start, len, chain });
            start = start.saturating_add(len);
        }
        Source { parts, size: start, top_only }
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
        let layers = if self.top_only { 1 } else { part.chain.nodes().len() };
        let found = part.chain.map_above(at, len, layers)?;
        let mut len = found.extent.len;
        let status = match found.extent.kind {
            ExtentKind::Unallocated if self.top_only => {
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
        Ok(Found { part: index, len, status })
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

/// Whether the bytes of a plain extent are there, or were only reserved (`preallocation=metadata`): a hole in the file reads
/// as zeros.
fn stored(layer: &dyn Layer, host: u64, len: u64) -> Result<(RangeKind, u64)> {
    if layer.limits().cluster == 1 {
        // Formats without clusters have looked at the file to answer at all.
        return Ok((RangeKind::Data, len));
    }
    layer.data_storage().extent(host, len)
}
