//! Space behind ranges of a file or device: taking it, giving it back, finding out what is there.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use crate::error::{Error, Result};

/// What `fallocate` shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Reserve blocks; what is there stays. The file grows if the range reaches past its end.
    Reserve,
    /// As `Reserve`, but the length of the file stays.
    ReserveKeepSize,
    /// Reserve blocks that read as zeros, whatever was there. The file grows if the range reaches past its end.
    Zero,
    /// Give the blocks back; the range reads as zeros, the length of the file stays.
    Punch,
}

/// Does what `what` says with a range. `false` where the file system or device does not have the operation.
pub fn set_range(fd: BorrowedFd<'_>, what: Space, offset: u64, len: u64) -> Result<bool> {
    if len == 0 {
        return Ok(true);
    }
    let flags = match what {
        Space::Reserve => FallocateFlags::empty(),
        Space::ReserveKeepSize => FallocateFlags::FALLOC_FL_KEEP_SIZE,
        Space::Zero => FallocateFlags::FALLOC_FL_ZERO_RANGE,
        Space::Punch => FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
    };
    let (offset, len) = (super::off(offset)?, super::off(len)?);
    match super::retry(|| fallocate(fd, flags, offset, len)) {
        Ok(()) => Ok(true),
        // EPERM: a sealed or append-only file; a write gives the better message. EBUSY: a device that is mounted or held
        // by a volume manager; it can still be written.
        Err(errno) if super::lacks(errno) || matches!(errno, Errno::EPERM | Errno::EBUSY) => Ok(false),
        Err(errno) => Err(Error::from(errno)),
    }
}

/// Reserves blocks for a range that is about to be written; `false` where the file system does not have that.
/// With `keep_size` the file does not grow.
pub fn preallocate(fd: BorrowedFd<'_>, offset: u64, len: u64, keep_size: bool) -> Result<bool> {
    set_range(fd, if keep_size { Space::ReserveKeepSize } else { Space::Reserve }, offset, len)
}

/// What `SEEK_DATA` or `SEEK_HOLE` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The next data or hole starts here.
    At(u64),
    /// There is none before the end of the file, or the offset lies behind it.
    Nothing,
    /// The file system cannot tell.
    NotHere,
}

fn seek(fd: BorrowedFd<'_>, offset: u64, whence: Whence) -> Result<Found> {
    let offset = super::off(offset)?;
    match super::retry(|| lseek(fd, offset, whence)) {
        Ok(at) => Ok(u64::try_from(at).map_or(Found::NotHere, Found::At)),
        Err(Errno::ENXIO) => Ok(Found::Nothing),
        Err(errno) if super::lacks(errno) || errno == Errno::ESPIPE => Ok(Found::NotHere),
        Err(errno) => Err(Error::from(errno)),
    }
}

/// Where the next data at or behind `offset` starts.
pub fn next_data(fd: BorrowedFd<'_>, offset: u64) -> Result<Found> {
    seek(fd, offset, Whence::SeekData)
}

/// Where the next hole at or behind `offset` starts; the end of the file counts as one.
pub fn next_hole(fd: BorrowedFd<'_>, offset: u64) -> Result<Found> {
    seek(fd, offset, Whence::SeekHole)
}
