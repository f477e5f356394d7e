//! Requests around the page cache (`O_DIRECT`).
//!
//! The kernel takes only requests whose offset, length and memory are multiples of some block size. What does not fit
//! goes through an aligned buffer; blocks that are written in part are read first.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{FileStorage, Kind};
use crate::error::Result;
use crate::storage::Storage;
use crate::storage::aligned::{BufferPool, PAGE};
use crate::sys::fs::{DirectAlign, direct_align};
use crate::sys::{self};

/// Size of the buffers that requests take a detour through.
const BOUNCE: usize = 1 << 20;
/// Buffers kept for reuse; more threads than that at a time allocate.
const KEEP: usize = 8;

/// What direct I/O on one file needs.
#[derive(Debug)]
pub(super) struct Direct {
    align: u64,
    buffers: BufferPool,
    /// Held exclusively while a block is written in part (others writing the same block would be undone), and shared
    /// by writes of whole blocks, which matters only while the file is switched to buffered writing.
    edges: RwLock<()>,
}

impl Direct {
    /// Finds out what the file needs.
    pub fn probe(fd: BorrowedFd<'_>, block_device: bool) -> Self {
        let align = match direct_align(fd) {
            DirectAlign::Known { memory, offset } => memory.max(offset),
            // Opening succeeded, so the kernel goes through the page cache after all; or it is too old to say. For
            // devices it is the sector, for files the page is a multiple of what any of them asks for.
            _ if block_device => sys::device::sector(fd).unwrap_or(PAGE as u64),
            _ => PAGE as u64,
        };
        let align = if align.is_power_of_two() { align.min(BOUNCE as u64) } else { PAGE as u64 };
        let memory = (align as usize).max(PAGE); // at most BOUNCE
        Direct { align, buffers: BufferPool::new(BOUNCE, memory, KEEP), edges: RwLock::new(()) }
    }

    /// The alignment of everything.
    pub fn align(&self) -> u64 {
        self.align
    }

    /// Whether a number is a multiple of the alignment.
    pub fn aligned(&self, value: u64) -> bool {
        value & (self.align - 1) == 0
    }

    fn down(&self, value: u64) -> u64 {
        value & !(self.align - 1)
    }

    /// Whether memory may be given to the kernel.
    fn fits(&self, buf: &[u8]) -> bool {
        self.aligned(buf.as_ptr().addr() as u64)
    }

    fn shared(&self) -> RwLockReadGuard<'_, ()> {
        self.edges.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, ()> {
        self.edges.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until the buffer is full or the file ends, and returns how many bytes there were.
    pub fn read(&self, storage: &FileStorage, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let rest = &mut buf[done..];
            let whole = self.down(rest.len() as u64) as usize; // not more than the length
            let (wanted, count) = if self.aligned(at) && whole > 0 && self.fits(rest) {
                (whole, storage.read_some(&mut rest[..whole], at)?)
            } else {
                self.read_bounced(storage, rest, at)?
            };
            done += count;
            if count < wanted {
                break;
            }
        }
        Ok(done)
    }

    /// Reads the start of `buf` through an aligned buffer; returns how much was wanted and how much there was.
    fn read_bounced(&self, storage: &FileStorage, buf: &mut [u8], offset: u64) -> Result<(usize, usize)> {
        let mut bounce = self.buffers.take();
        let start = self.down(offset);
        let skip = (offset - start) as usize; // less than the alignment, which a buffer holds
        // If memory and offset are off by the same amount, everything after the first block can do without the detour.
        let room = if (buf.as_ptr().addr() as u64).wrapping_sub(offset) & (self.align - 1) == 0 && skip > 0 {
            self.align as usize
        } else {
            bounce.len()
        };
        let wanted = buf.len().min(room - skip);
        let span = (skip + wanted).next_multiple_of(self.align as usize);
        let count = storage.read_some(&mut bounce[..span], start)?;
        let count = count.saturating_sub(skip).min(wanted);
        buf[..count].copy_from_slice(&bounce[skip..skip + count]);
        Ok((wanted, count))
    }

    /// Writes the whole buffer.
    pub fn write(&self, storage: &FileStorage, buf: &[u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let rest = &buf[done..];
            let whole = self.down(rest.len() as u64) as usize;
            done += if !self.aligned(at) || whole == 0 {
                self.write_part(storage, rest, at)?
            } else if self.fits(rest) {
                let _others = self.shared();
                storage.write_all(&rest[..whole], at)?;
                whole
            } else {
                let mut bounce = self.buffers.take();
                let count = whole.min(bounce.len());
                bounce[..count].copy_from_slice(&rest[..count]);
                let _others = self.shared();
                storage.write_all(&bounce[..count], at)?;
                count
            };
        }
        Ok(())
    }

    /// Writes the start of `buf` into a part of one block; returns how many bytes that was.
    fn write_part(&self, storage: &FileStorage, buf: &[u8], offset: u64) -> Result<usize> {
        let start = self.down(offset);
        let skip = (offset - start) as usize;
        let count = buf.len().min(self.align as usize - skip);
        let _alone = self.exclusive();
        if storage.kind == Kind::Regular && start + self.align > storage.len()? {
            // A whole block would make the file longer than it shall be, and cutting it off again could cut off what
            // others write behind it meanwhile.
            self.write_buffered(storage, &buf[..count], offset)?;
            return Ok(count);
        }
        let mut bounce = self.buffers.take();
        let block = &mut bounce[..self.align as usize];
        let had = storage.read_some(block, start)?;
        block[had..].fill(0);
        block[skip..skip + count].copy_from_slice(&buf[..count]);
        storage.write_all(block, start)?;
        Ok(count)
    }

    /// Writes through the page cache, with direct I/O switched off meanwhile.
    fn write_buffered(&self, storage: &FileStorage, buf: &[u8], offset: u64) -> Result<()> {
        let fd = storage.file.as_fd();
        let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
        fcntl(fd, FcntlArg::F_SETFL(flags & !OFlag::O_DIRECT))?;
        let written = storage.write_all(buf, offset);
        let restored = fcntl(fd, FcntlArg::F_SETFL(flags));
        written?;
        restored?;
        Ok(())
    }
}
