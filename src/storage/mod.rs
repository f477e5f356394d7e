//! Where bytes live: a file, a block device, memory, or a storage that injects faults for the tests.
//!
//! A [`Storage`] is a flat, growable array of bytes with positional access from many threads. It knows nothing of image
//! formats. A new protocol is one file in this folder and one line where names are resolved (`image::open`).

mod aligned;
mod blkdebug;
mod cache;
#[cfg(test)]
pub(crate) mod crash;
mod event;
pub mod fault;
mod file;
mod mem;
mod null;
mod permissions;
mod preallocation;
mod stream;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt::Debug;
use std::os::fd::BorrowedFd;

use crate::error::Result;

pub use aligned::{AlignedBuf, BufferPool, PAGE, PooledBuf, zeros};
pub use blkdebug::{Action as DebugAction, DebugLimits, DebugStorage, IoType as DebugIoType, Rule as DebugRule};
pub use cache::CacheMode;
pub use event::DebugEvent;
pub use file::{
    Creation, DEVICE_NOT_OPENED, FileStorage, NewFile, OpenMode, Protocol, UnfinishedFile, UnfinishedFiles, allocated,
    remove_unfinished,
};
pub use mem::MemStorage;
pub use null::NullStorage;
pub use permissions::{FileRole, Permissions};
pub use preallocation::Preallocation;
pub use stream::{InputStream, OutputStream, StreamPart};

/// What [`Storage::zero`] may do to the space behind a range that shall read as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroMode {
    /// Give the space back where the storage can (a hole), write zeros where it cannot.
    Discard,
    /// Keep or make the space allocated, without writing where the storage can do that (`fallocate`).
    Allocate,
    /// Write zeros, so that every block is there and has been written (`preallocation=full`).
    Write,
}

/// Whether a range holds data or is known to read as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// Bytes that have to be read.
    Data,
    /// A hole: reads as zeros and takes no space.
    Hole,
}

/// What a storage wants its callers to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Offsets, lengths and memory of requests that are multiples of this are passed on as they are; others take a
    /// detour through an aligned buffer (direct I/O). 1 where nothing matters.
    pub alignment: u64,
    /// Whether ranges that were never written (past the former end after [`Storage::set_len`]) read as zeros.
    pub zero_init: bool,
    /// Whether the length is fixed from outside (a block device).
    pub fixed_len: bool,
}

/// A flat array of bytes. All methods may be called from several threads at once.
pub trait Storage: Send + Sync + Debug {
    /// The length in bytes.
    fn len(&self) -> Result<u64>;

    /// Whether there is not one byte.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buf` from `offset`. What lies past the end reads as zeros, so that a metadata table cut short by the end
    /// of the file is complete.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// Writes all of `buf` at `offset`; the storage grows where that is needed and possible.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()>;

    /// Makes `len` bytes from `offset` read as zeros. Grows the storage if the range reaches past its end.
    fn zero(&self, offset: u64, len: u64, mode: ZeroMode) -> Result<()>;

    /// What lies at `offset`, and for how many bytes (at least 1, at most `len`) that holds. Past the end: a hole.
    fn extent(&self, offset: u64, len: u64) -> Result<(RangeKind, u64)>;

    /// Cuts or extends to `len` bytes.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Begins to bring a range that has been written to stable storage, while there is other work to do: the next
    /// [`Storage::flush`] waits for what is left then. It makes nothing safe, and storages need not do anything.
    fn start_writeback(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    /// Returns when everything written so far is on stable storage (unless the cache mode says `unsafe`).
    fn flush(&self) -> Result<()>;

    /// See [`Limits`].
    fn limits(&self) -> Limits;

    /// Says what is about to be done. Only storages for fault tests take notice.
    fn event(&self, _event: DebugEvent) {}

    /// The descriptor behind this storage, for copying ranges inside the kernel, page cache advice, and `st_blocks`.
    /// `None` where there is none. What is done with it goes past the cache mode: with `writethrough`, changes made this
    /// way are stable only after [`Storage::flush`], and the page cache is used whatever the mode says.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
