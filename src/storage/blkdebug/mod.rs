//! The driver `blkdebug`: passes requests on, and makes those fail that its rules are about.

mod rules;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{DebugEvent, Limits, RangeKind, Storage, ZeroMode};
use crate::error::{Error, Result};
use crate::units::{align_down, align_up};

pub use rules::{Action, IoType, Rule};

use rules::Rules;

/// Limits that requests have to keep, in bytes; 0 for those of the storage below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DebugLimits {
    /// Offsets and lengths are multiples of this.
    pub align: u64,
    /// Most bytes of a read or write.
    pub max_transfer: u64,
    /// Most bytes of a request to write zeros.
    pub max_write_zero: u64,
    /// Most bytes of a request to give space back.
    pub max_discard: u64,
}

/// See the module documentation.
#[derive(Debug)]
pub struct DebugStorage {
    inner: Arc<dyn Storage>,
    limits: DebugLimits,
    rules: Mutex<Rules>,
}

impl DebugStorage {
    /// Lays these rules and limits over `inner`.
    pub fn new(inner: Arc<dyn Storage>, limits: DebugLimits, rules: Vec<Rule>) -> Self {
        DebugStorage { inner, limits, rules: Mutex::new(Rules::new(rules)) }
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        // Rules are never left half changed.
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, kind: IoType, range: Option<(u64, u64)>) -> Result<()> {
        match self.rules().check(kind, range) {
            Some(errno) => Err(Error::os(errno)),
            None => Ok(()),
        }
    }

    /// The aligned range around a request.
    fn around(&self, offset: u64, len: u64) -> Result<(u64, u64)> {
        let align = self.limits.align.max(1);
        let end = offset.checked_add(len).and_then(|end| align_up(end, align));
        let (start, end) = (align_down(offset, align), end.ok_or_else(|| Error::os(libc::EFBIG))?);
        Ok((start, end - start))
    }

    /// Splits a request where it would be longer than `most`.
    fn pieces(len: u64, most: u64, mut piece: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let most = if most == 0 { u64::MAX } else { most };
        let mut done = 0;
        loop {
            let count = (len - done).min(most);
            piece(done, count)?;
            done += count;
            if done >= len {
                return Ok(());
            }
        }
    }

    fn is_aligned(&self, offset: u64, len: u64) -> bool {
        let align = self.limits.align.max(1);
        offset.is_multiple_of(align) && len.is_multiple_of(align)
    }
}

impl Storage for DebugStorage {
    fn len(&self) -> Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let most = self.limits.max_transfer;
        Self::pieces(buf.len() as u64, most, |done, count| {
            self.enter(IoType::Read, Some(self.around(offset + done, count)?))?;
            // Both lie inside the buffer.
            self.inner.read_at(&mut buf[done as usize..(done + count) as usize], offset + done)
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let (start, len) = self.around(offset, buf.len() as u64)?;
        if !self.is_aligned(offset, buf.len() as u64) {
            // The blocks at both ends are read first, which may fail, too.
            self.event(DebugEvent::PwritevRmwHead);
            self.enter(IoType::Read, Some((start, len)))?;
            self.event(DebugEvent::PwritevRmwAfterTail);
        }
        self.event(DebugEvent::Pwritev);
        Self::pieces(buf.len() as u64, self.limits.max_transfer, |done, count| {
            self.enter(IoType::Write, Some(self.around(offset + done, count)?))?;
            self.inner.write_at(&buf[done as usize..(done + count) as usize], offset + done)
        })?;
        self.event(DebugEvent::PwritevDone);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, mode: ZeroMode) -> Result<()> {
        let (kind, most) = match mode {
            ZeroMode::Discard => (IoType::Discard, self.limits.max_discard),
            ZeroMode::Allocate | ZeroMode::Write => {
                self.event(DebugEvent::PwritevZero);
                (IoType::WriteZeroes, self.limits.max_write_zero)
            }
        };
        Self::pieces(len, most, |done, count| {
            self.enter(kind, Some((offset + done, count)))?;
            self.inner.zero(offset + done, count, mode)
        })?;
        if kind == IoType::WriteZeroes {
            self.event(DebugEvent::PwritevDone);
        }
        Ok(())
    }

    fn extent(&self, offset: u64, len: u64) -> Result<(RangeKind, u64)> {
        self.enter(IoType::BlockStatus, Some((offset, len)))?;
        self.inner.extent(offset, len)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.inner.set_len(len)
    }

    fn flush(&self) -> Result<()> {
        self.event(DebugEvent::FlushToOs);
        self.event(DebugEvent::FlushToDisk);
        self.enter(IoType::Flush, None)?;
        self.inner.flush()
    }

    fn limits(&self) -> Limits {
        let limits = self.inner.limits();
        Limits { alignment: limits.alignment.max(self.limits.align), ..limits }
    }

    fn event(&self, event: DebugEvent) {
        self.rules().event(event);
        self.inner.event(event);
    }
}
