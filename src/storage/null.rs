//! The drivers `null-co` and `null-aio`: a disk that forgets what is written to it.

use std::thread;
use std::time::Duration;

use super::{Limits, RangeKind, Storage, ZeroMode};
use crate::error::{Error, Result};

/// A storage of a fixed length that holds nothing. It always reads as zeros; `reads_zeros` decides whether it says so.
#[derive(Clone, Copy, Debug)]
pub struct NullStorage {
    /// The length in bytes.
    pub len: u64,
    /// How long each request takes.
    pub latency: Duration,
    /// Whether callers are told that there are only zeros.
    pub reads_zeros: bool,
}

impl NullStorage {
    fn request(&self, offset: u64, len: u64) -> Result<()> {
        if !self.latency.is_zero() {
            thread::sleep(self.latency);
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(Error::os(libc::EIO)),
        }
    }
}

impl Storage for NullStorage {
    fn len(&self) -> Result<u64> {
        Ok(self.len)
    }

    fn read_at(&self, buf: &mut [u8], _offset: u64) -> Result<()> {
        self.request(0, 0)?;
        buf.fill(0);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.request(offset, buf.len() as u64)
    }

    fn zero(&self, offset: u64, len: u64, _mode: ZeroMode) -> Result<()> {
        self.request(offset, len)
    }

    fn extent(&self, offset: u64, len: u64) -> Result<(RangeKind, u64)> {
        let inside = self.len.saturating_sub(offset).min(len);
        match (inside, self.reads_zeros) {
            (0, _) | (_, true) => Ok((RangeKind::Hole, len)),
            (inside, false) => Ok((RangeKind::Data, inside)),
        }
    }

    fn set_len(&self, len: u64) -> Result<()> {
        if len <= self.len { Ok(()) } else { Err(Error::os(libc::ENOSPC)) }
    }

    fn flush(&self) -> Result<()> {
        self.request(0, 0)
    }

    fn limits(&self) -> Limits {
        Limits { alignment: 1, zero_init: self.reads_zeros, fixed_len: true }
    }
}
