//! Another virtual size for the top image of a chain.

use super::{Chain, ExtentKind, Preallocation, ZeroFlags};
use crate::error::{Error, Result};
use crate::units::align_up;

/// No image can be longer than this, in bytes: the reference's limit, which leaves room for rounding below 2^63.
pub const MAX_LENGTH: u64 = i64::MAX as u64 / (1 << 30) * (1 << 30);

/// A request to a layer to change its virtual size.
pub struct Resize<'a> {
    /// The new virtual size in bytes.
    pub size: u64,
    /// What becomes of the new part of an image that grows.
    pub preallocation: Preallocation,
    /// A backing file would show in the new part if nothing were done about it.
    pub covers_backing: bool,
    /// To be called by layers that have a backing file or allocation units, when [`super::Layer::size`] is the new one and
    /// the new part can be written, but nobody who opens the image can see it yet. Makes it read as zeros.
    pub blank: &'a dyn Fn() -> Result<()>,
}

/// Checks a length before it reaches the system.
pub fn check_length(size: u64) -> Result<()> {
    if size > MAX_LENGTH {
        return Err(Error::os(libc::EFBIG).replace(format!("offset({size}) exceeds maximum({MAX_LENGTH})")));
    }
    Ok(())
}

impl Chain {
    /// Gives the top image another virtual size. What is new reads as zeros, whatever lies below.
    pub fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        check_length(size)?;
        let old = self.size();
        let covers_backing = size > old && self.nodes().get(1).is_some_and(|below| below.layer.size() > old);
        let blank = || self.blank(old, size, covers_backing && !preallocation.takes_space(), covers_backing);
        let result = self.top().layer.resize(&Resize { size, preallocation, covers_backing, blank: &blank });
        result.and_then(|()| self.top().layer.flush())
    }

    /// Zeros from `old` on: everywhere where `all`, else in the rest of the cluster in which the disk ended, where that has
    /// bytes of a former, larger disk, or (`tail`) would get those of a backing file.
    fn blank(&self, old: u64, size: u64, all: bool, tail: bool) -> Result<()> {
        let flags = ZeroFlags { may_unmap: false };
        if all {
            return self.zero(old, size - old, flags);
        }
        let layer = &self.top().layer;
        let mut at = old;
        let end = align_up(old, layer.limits().cluster).unwrap_or(size).min(size);
        while at < end {
            let extent = layer.map(at, end - at)?;
            let stale = matches!(extent.kind, ExtentKind::Data { .. } | ExtentKind::Compressed { .. });
            if (stale && self.holds_bytes(at, extent.len)?) || (tail && extent.kind == ExtentKind::Unallocated) {
                self.zero(at, extent.len, flags)?;
            }
            at += extent.len;
        }
        Ok(())
    }

    /// Whether a part of a cluster has anything but zeros.
    fn holds_bytes(&self, guest: u64, len: u64) -> Result<bool> {
        let mut bytes = vec![0; len as usize];
        self.read(guest, &mut bytes)?;
        Ok(bytes.iter().any(|byte| *byte != 0))
    }
}
