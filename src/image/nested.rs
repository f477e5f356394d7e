//! What a guest sees, as a storage: an image inside an image.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Chain, ExtentKind, ZeroFlags};
use crate::error::{Error, Result};
use crate::storage::{Limits, RangeKind, Storage, ZeroMode, zeros};

/// The contents of an opened image. Its length is the virtual size, which does not change: what would lie behind it is
/// refused, as there is no place for it that the image would remember.
#[derive(Debug)]
pub(super) struct Nested {
    chain: Arc<Chain>,
    /// A write may read what is around it, and move it: nobody else may write or read meanwhile. The layer itself only
    /// takes care of writers of different granules.
    order: RwLock<()>,
}

/// What the guest sees in `chain`, as a storage.
pub fn storage_of(chain: &Arc<Chain>) -> Arc<dyn Storage> {
    match chain.top().layer.as_storage() {
        Some(storage) => storage,
        None => Arc::new(Nested::new(Arc::clone(chain))),
    }
}

impl Nested {
    pub fn new(chain: Arc<Chain>) -> Self {
        Nested { chain, order: RwLock::new(()) }
    }

    fn reading(&self) -> RwLockReadGuard<'_, ()> {
        // The lock guards no data of its own that a panic could leave half changed.
        self.order.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> RwLockWriteGuard<'_, ()> {
        self.order.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what reaches behind the end.
    fn check_room(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.chain.size() => Ok(()),
            _ => Err(Error::os(libc::ENOSPC)),
        }
    }
}

impl Storage for Nested {
    fn len(&self) -> Result<u64> {
        Ok(self.chain.size())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let inside = self.chain.size().saturating_sub(offset).min(buf.len() as u64) as usize;
        let (mine, behind) = buf.split_at_mut(inside);
        behind.fill(0);
        let _order = self.reading();
        self.chain.read(offset, mine)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.check_room(offset, buf.len() as u64)?;
        let _order = self.writing();
        self.chain.write(offset, buf)
    }

    fn zero(&self, offset: u64, len: u64, mode: ZeroMode) -> Result<()> {
        self.check_room(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let _order = self.writing();
        match mode {
            ZeroMode::Discard => self.chain.zero(offset, len, ZeroFlags { may_unmap: true }),
            ZeroMode::Allocate => self.chain.zero(offset, len, ZeroFlags { may_unmap: false }),
            ZeroMode::Write => {
                let mut done = 0;
                while done < len {
                    let zeros = zeros();
                    let count = (len - done).min(zeros.len() as u64);
                    self.chain.write(offset + done, &zeros[..count as usize])?;
                    done += count;
                }
                Ok(())
            }
        }
    }

    fn extent(&self, offset: u64, len: u64) -> Result<(RangeKind, u64)> {
        let inside = self.chain.size().saturating_sub(offset).min(len);
        if inside == 0 {
            return Ok((RangeKind::Hole, len));
        }
        let _order = self.reading();
        let found = self.chain.map(offset, inside)?.extent;
        let kind = match found.kind {
            ExtentKind::Zero { .. } | ExtentKind::Unallocated => RangeKind::Hole,
            ExtentKind::Data { .. } | ExtentKind::Compressed { .. } => RangeKind::Data,
        };
        Ok((kind, found.len))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.check_room(0, len)
    }

    fn flush(&self) -> Result<()> {
        let _order = self.writing();
        self.chain.top().layer.flush()
    }

    fn limits(&self) -> Limits {
        Limits { alignment: 1, zero_init: false, fixed_len: true }
    }
}

#[cfg(test)]
#[path = "nested_tests.rs"]
mod tests;
