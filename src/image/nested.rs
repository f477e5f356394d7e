//! What a guest sees, as a storage: an image inside an image.

use std::sync::Arc;

use super::{Chain, ExtentKind};
use crate::error::{Error, Result};
use crate::storage::{Limits, RangeKind, Storage, ZeroMode};

/// The contents of an opened image; read-only.
#[derive(Debug)]
pub(super) struct Nested(pub Arc<Chain>);

fn read_only() -> Error {
    Error::unsupported("Writing to an image inside another image is not supported yet")
}

impl Storage for Nested {
    fn len(&self) -> Result<u64> {
        Ok(self.0.size())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let inside = self.0.size().saturating_sub(offset).min(buf.len() as u64) as usize;
        let (mine, behind) = buf.split_at_mut(inside);
        behind.fill(0);
        self.0.read(offset, mine)
    }

    fn write_at(&self, _buf: &[u8], _offset: u64) -> Result<()> {
        Err(read_only())
    }

    fn zero(&self, _offset: u64, _len: u64, _mode: ZeroMode) -> Result<()> {
        Err(read_only())
    }

    fn extent(&self, offset: u64, len: u64) -> Result<(RangeKind, u64)> {
        let inside = self.0.size().saturating_sub(offset).min(len);
        if inside == 0 {
            return Ok((RangeKind::Hole, len));
        }
        let found = self.0.map(offset, inside)?.extent;
        let kind = match found.kind {
            ExtentKind::Zero { .. } | ExtentKind::Unallocated => RangeKind::Hole,
            ExtentKind::Data { .. } | ExtentKind::Compressed { .. } => RangeKind::Data,
        };
        Ok((kind, found.len))
    }

    fn set_len(&self, _len: u64) -> Result<()> {
        Err(read_only())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn limits(&self) -> Limits {
        Limits { alignment: 1, zero_init: false, fixed_len: true }
    }
}
