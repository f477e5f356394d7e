//! A storage in memory: for tests, and for building small images before they are written in one go.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Limits, RangeKind, Storage, ZeroMode};
use crate::error::{Error, Result};

/// A growable array of bytes in memory.
#[derive(Debug, Default)]
pub struct MemStorage {
    bytes: RwLock<Vec<u8>>,
}

impl MemStorage {
    /// A storage that holds `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        MemStorage { bytes: RwLock::new(bytes) }
    }

    /// A copy of what it holds.
    pub fn to_vec(&self) -> Vec<u8> {
        self.read().clone()
    }

    /// What it holds.
    pub fn into_vec(self) -> Vec<u8> {
        self.bytes.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    // Bytes are bytes, whatever a thread that panicked was about to do with them.
    fn read(&self) -> RwLockReadGuard<'_, Vec<u8>> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<u8>> {
        self.bytes.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index(offset: u64) -> Result<usize> {
    usize::try_from(offset).map_err(|_| Error::os(libc::EFBIG))
}

/// The bytes from `offset` on, `len` of them; makes the storage long enough.
fn range(bytes: &mut Vec<u8>, offset: u64, len: u64) -> Result<&mut [u8]> {
    let start = index(offset)?;
    let end = start.checked_add(index(len)?).ok_or_else(|| Error::os(libc::EFBIG))?;
    grow(bytes, end)?;
    Ok(&mut bytes[start..end])
}

/// Makes the storage at least `len` long; more than there is memory for is an error, not an abort.
fn grow(bytes: &mut Vec<u8>, len: usize) -> Result<()> {
    if let Some(more) = len.checked_sub(bytes.len()) {
        bytes.try_reserve(more).map_err(|_| Error::os(libc::ENOMEM))?;
        bytes.resize(len, 0);
    }
    Ok(())
}

impl Storage for MemStorage {
    fn len(&self) -> Result<u64> {
        Ok(self.read().len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let bytes = self.read();
        let start = index(offset)?.min(bytes.len());
        let available = buf.len().min(bytes.len() - start);
        buf[..available].copy_from_slice(&bytes[start..start + available]);
        buf[available..].fill(0);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        if !buf.is_empty() {
            range(&mut self.write(), offset, buf.len() as u64)?.copy_from_slice(buf);
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, _mode: ZeroMode) -> Result<()> {
        if len > 0 {
            range(&mut self.write(), offset, len)?.fill(0);
        }
        Ok(())
    }

    fn extent(&self, offset: u64, len: u64) -> Result<(RangeKind, u64)> {
        let end = self.len()?;
        Ok(if offset < end { (RangeKind::Data, len.min(end - offset)) } else { (RangeKind::Hole, len) })
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let len = index(len)?;
        let mut bytes = self.write();
        grow(&mut bytes, len)?;
        bytes.truncate(len);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn limits(&self) -> Limits {
        Limits { alignment: 1, zero_init: true, fixed_len: false }
    }
}
