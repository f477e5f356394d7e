//! A storage in memory: for tests, and for building small images before they are written in one go.

use std::sync::RwLock;

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
        self.bytes.read().expect("no writer panics while holding the lock").clone()
    }
}

fn index(offset: u64) -> Result<usize> {
    usize::try_from(offset).map_err(|_| Error::os(libc::EFBIG))
}

impl Storage for MemStorage {
    fn len(&self) -> Result<u64> {
        Ok(self.bytes.read().expect("not poisoned").len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let bytes = self.bytes.read().expect("not poisoned");
        let start = index(offset)?.min(bytes.len());
        let available = buf.len().min(bytes.len() - start);
        buf[..available].copy_from_slice(&bytes[start..start + available]);
        buf[available..].fill(0);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let mut bytes = self.bytes.write().expect("not poisoned");
        let start = index(offset)?;
        let end = start.checked_add(buf.len()).ok_or_else(|| Error::os(libc::EFBIG))?;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(buf);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, _mode: ZeroMode) -> Result<()> {
        self.write_at(&vec![0; index(len)?], offset)
    }

    fn extent(&self, offset: u64, len: u64) -> Result<(RangeKind, u64)> {
        let end = self.len()?;
        Ok(if offset < end { (RangeKind::Data, len.min(end - offset)) } else { (RangeKind::Hole, len) })
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.bytes.write().expect("not poisoned").resize(index(len)?, 0);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn limits(&self) -> Limits {
        Limits { alignment: 1, zero_init: true, fixed_len: false }
    }
}
