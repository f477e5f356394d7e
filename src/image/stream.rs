//! Images that are written as a stream.

use super::{Layout, Range};
use crate::error::Result;

/// An image that is written from front to back, nothing of it twice. So its layout has to be known before its first byte:
/// everything that will be there is announced first, in guest order, and then written in the same order.
pub trait StreamImage: Send + Sync {
    /// Guest bytes are announced and written in whole units of this many bytes.
    fn granule(&self) -> u64;

    /// Whether the announcements matter; where everything has its place anyway there need not be any.
    fn is_laid_out(&self) -> bool;

    /// Announces a part of the disk.
    fn announce(&mut self, layout: &Layout);

    /// Everything has been announced: writes what comes before all guest bytes.
    fn begin(&mut self) -> Result<()>;

    /// The parts of a range that have a place.
    fn places(&self, range: Range) -> Vec<Range>;

    /// Turns the guest bytes at `guest`, whole granules, into what is stored of them.
    fn encode(&self, guest: u64, bytes: &mut [u8]) -> Result<()>;

    /// Writes what is stored of the bytes at `guest`, as far as they have a place, and zeros into the places before them that
    /// were not written. Only ever called for what lies behind the last call.
    fn write(&self, guest: u64, bytes: &[u8]) -> Result<()>;

    /// Writes what is left.
    fn finish(&self) -> Result<()>;
}
