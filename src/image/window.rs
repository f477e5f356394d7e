//! A part of a storage, as a storage: what the raw format makes of a file with `offset` and `size`.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::storage::{DebugEvent, Limits, RangeKind, Storage, ZeroMode};

/// The bytes from an offset on: up to a fixed size, or up to the end, wherever that is.
#[derive(Debug)]
pub struct Window {
    storage: Arc<dyn Storage>,
    offset: u64,
    size: Option<u64>,
}

impl Window {
    /// The part of `storage` that starts at `offset`. With a `size` it cannot grow.
    pub fn new(storage: Arc<dyn Storage>, offset: u64, size: Option<u64>) -> Self {
        Window { storage, offset, size }
    }

    /// Where a range that shall be changed lies.
    fn place(&self, offset: u64, len: u64) -> Result<u64> {
        let end = offset.checked_add(len).ok_or_else(|| Error::os(libc::EFBIG))?;
        if self.size.is_some_and(|size| end > size) {
            return Err(Error::os(libc::ENOSPC));
        }
        end.checked_add(self.offset).map(|end| end - len).ok_or_else(|| Error::os(libc::EFBIG))
    }

    /// How much of a range lies inside.
    fn inside(&self, offset: u64, len: u64) -> u64 {
        let most = self.size.unwrap_or(u64::MAX).min(u64::MAX - self.offset);
        most.saturating_sub(offset).min(len)
    }
}

impl Storage for Window {
    fn len(&self) -> Result<u64> {
        match self.size {
            Some(size) => Ok(size),
            None => Ok(self.storage.len()?.saturating_sub(self.offset)),
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        // Not longer than the buffer.
        let inside = self.inside(offset, buf.len() as u64) as usize;
        let (mine, behind) = buf.split_at_mut(inside);
        behind.fill(0);
        if mine.is_empty() { Ok(()) } else { self.storage.read_at(mine, self.offset + offset) }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.storage.write_at(buf, self.place(offset, buf.len() as u64)?)
    }

    fn zero(&self, offset: u64, len: u64, mode: ZeroMode) -> Result<()> {
        self.storage.zero(self.place(offset, len)?, len, mode)
    }

    fn extent(&self, offset: u64, len: u64) -> Result<(RangeKind, u64)> {
        match self.inside(offset, len) {
            0 => Ok((RangeKind::Hole, len)),
            inside => self.storage.extent(self.offset + offset, inside),
        }
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let end = self.place(0, len)? + len;
        if self.size.is_some() { Ok(()) } else { self.storage.set_len(end) }
    }

    fn flush(&self) -> Result<()> {
        self.storage.flush()
    }

    fn event(&self, event: DebugEvent) {
        self.storage.event(event);
    }

    fn limits(&self) -> Limits {
        let limits = self.storage.limits();
        Limits { fixed_len: limits.fixed_len || self.size.is_some(), ..limits }
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
