//! Files and block devices.

mod behind;
mod create;
#[cfg(test)]
mod device_tests;
mod direct;
mod open;
mod space;
#[cfg(test)]
mod tests;
mod unfinished;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{CacheMode, Limits, Permissions, RangeKind, Storage, ZeroMode};
use crate::error::{Context, Error, Result};
use crate::sys;
use crate::units::SECTOR;
use behind::Behind;
use direct::Direct;

pub use create::{Creation, DEVICE_NOT_OPENED, NewFile};
pub use unfinished::{UnfinishedFile, UnfinishedFiles, remove_unfinished};

/// How much one system call writes, in bytes. The page cache takes memory in pieces as large as the call, and pieces of
/// 2 MiB are those that virtual machines hand back to their hosts while they are free: getting them again costs more
/// than the copy (docs/performance.md).
const WRITE_MAX: usize = 1 << 20;

/// Which kind of file a name must lead to, and what `info` calls it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Whatever it is.
    #[default]
    Any,
    /// A regular file (`file`).
    File,
    /// A block or character device (`host_device`).
    HostDevice,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// For writing, too.
    pub write: bool,
    /// What it must be.
    pub protocol: Protocol,
}

impl OpenMode {
    /// For reading.
    pub const READ: OpenMode = OpenMode { write: false, protocol: Protocol::Any };
    /// For reading and writing.
    pub const WRITE: OpenMode = OpenMode { write: true, protocol: Protocol::Any };
}

/// What was found under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Regular,
    Block,
    Character,
}

/// A regular file, a block device or a character device.
///
/// It is opened without locks; [`FileStorage::lock`] takes them once it is known what the file is for.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    name: String,
    kind: Kind,
    write: bool,
    cache: CacheMode,
    /// Set where requests must be aligned.
    direct: Option<Direct>,
    /// The unit in which space can be zeroed without writing: the sector of a device, 1 for files.
    sector: u64,
    permissions: Mutex<Permissions>,
    /// The error number of the first flush that failed, or 0.
    flush_error: AtomicI32,
    /// Whether the file has no way to tell holes from data.
    opaque: AtomicBool,
    /// Where data was last found, kept only while nobody here can write.
    last_data: Mutex<std::ops::Range<u64>>,
    /// What was written and is still only in memory.
    behind: Mutex<Behind>,
    /// How long the file was when it was opened, if it is read only: what was there then must not be taken for zeros.
    length_before: u64,
}

impl FileStorage {
    /// The name it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cache mode it was opened with.
    pub fn cache(&self) -> CacheMode {
        self.cache
    }

    /// What `info` calls the way this file is reached: `file` or `host_device`.
    pub fn protocol(&self) -> &'static str {
        match self.kind {
            Kind::Regular => "file",
            Kind::Block | Kind::Character => "host_device",
        }
    }

    /// Changes what this opener uses and refuses to others; fails with [`crate::error::Kind::Locked`] and the
    /// reference's message if somebody is in the way, and then everything stays as it was.
    pub fn lock(&self, wanted: Permissions) -> Result<()> {
        let mut current = self.permissions.lock().unwrap_or_else(PoisonError::into_inner);
        current.change(self.file.as_fd(), wanted, &self.name)?;
        *current = wanted;
        Ok(())
    }

    /// How many bytes of disk space the file takes.
    pub fn allocated(&self) -> Result<u64> {
        allocated(self.file.as_fd())
    }

    /// In what unit, in bytes, the file system allocates space for the file; `None` where it has not been told.
    pub fn extent_size_hint(&self) -> Option<u64> {
        match self.kind {
            Kind::Regular => sys::fs::extent_size_hint(self.file.as_fd()).filter(|hint| *hint > 0).map(u64::from),
            _ => None,
        }
    }

    /// Reads until the buffer is full or the file ends, and returns how many bytes there were.
    fn read_some(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("Reading", offset + done as u64, buf.len() - done, error)),
            }
            // Direct requests go on in whole blocks; a part of one is the end of the file.
            if let Some(direct) = &self.direct
                && !direct.aligned(done as u64)
            {
                break;
            }
        }
        Ok(done)
    }

    /// Fails if the file, which ends at `end` now, was longer when it was opened: somebody is cutting it off while we read.
    fn check_end(&self, end: u64) -> Result<()> {
        if end >= self.length_before {
            return Ok(());
        }
        let text = format!("'{}' has become shorter while it was read", self.name);
        Err(Error::os(libc::EIO).replace(text))
    }

    /// Writes the whole buffer.
    fn write_all(&self, buf: &[u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let part = &buf[done..buf.len().min(done + WRITE_MAX)];
            match self.file.write_at(part, offset + done as u64) {
                // Only devices do that, at their end.
                Ok(0) => return Err(self.failed("Writing", offset + done as u64, part.len(), Error::os(libc::ENOSPC))),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("Writing", offset + done as u64, part.len(), error)),
            }
        }
        Ok(())
    }

    /// See [`behind`].
    fn write_behind(&self, offset: u64, len: u64) -> Result<()> {
        let work = self
            .behind
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .wrote(offset..offset + len, sys::memory::available);
        for range in work.start {
            self.write_out(range.start, range.end - range.start, false)?;
        }
        for range in work.finish {
            let len = range.end - range.start;
            self.write_out(range.start, len, true)?;
            sys::advise::drop_cache(self.file.as_fd(), range.start, len);
        }
        Ok(())
    }

    /// See [`sys::advise::write_out`].
    fn write_out(&self, offset: u64, len: u64, wait: bool) -> Result<()> {
        sys::advise::write_out(self.file.as_fd(), offset, len, wait).map_err(|error| {
            self.remember(error.errno());
            self.failed("Writing", offset, len, error)
        })
    }

    /// Says of an error which request on which file it was of. Many of the reference's messages do not.
    fn failed(&self, doing: &str, offset: u64, len: impl fmt::Display, error: impl Into<Error>) -> Error {
        error.into().request(format!("{doing} {len} bytes at offset {offset} of '{}' failed", self.name))
    }

    /// The same for what concerns the whole file.
    fn failed_whole(&self, doing: &str, error: impl Into<Error>) -> Error {
        error.into().request(format!("{doing} '{}' failed", self.name))
    }

    /// Makes all later flushes fail with this error. The kernel reports a failed write-back once and then forgets the
    /// pages it could not write: a second flush that succeeds would be a lie.
    fn remember(&self, errno: i32) {
        self.flush_error.store(errno, Ordering::Relaxed);
    }

    /// Gives a file that was empty, and is `len` bytes long now, a beginning that is no hole. The reference does so, too:
    /// QEMU finds out by reading there what alignment direct requests need, and in holes some file systems take any.
    fn write_first_block(&self, len: u64) {
        const BLOCK: u64 = 4096;
        let block = if len < BLOCK { len.min(SECTOR) } else { BLOCK };
        // The file is as good without.
        let _ = self.zero_write(0, block);
    }

    /// What is written must be stable before a request ends, and the system does not see to that by itself (it does for
    /// plain writes, through `O_DSYNC`).
    fn settle(&self) -> Result<()> {
        if self.cache.writethrough { self.flush() } else { Ok(()) }
    }
}

/// How many bytes of disk space an open file takes (0 for devices, as the reference says).
pub fn allocated(fd: BorrowedFd<'_>) -> Result<u64> {
    let info = nix::sys::stat::fstat(fd)?;
    // st_blocks counts 512 bytes on every file system, and is not negative.
    Ok(u64::try_from(info.st_blocks).unwrap_or(0).saturating_mul(512))
}

/// Checks that a range lies within what system calls can name.
fn check_range(offset: u64, len: u64) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= i64::MAX as u64 => Ok(()),
        _ => Err(Error::os(libc::EFBIG)),
    }
}

impl Storage for FileStorage {
    fn len(&self) -> Result<u64> {
        match self.kind {
            Kind::Regular => Ok(self.file.metadata()?.len()),
            Kind::Block => sys::device::len(self.file.as_fd()),
            // Seeking in /dev/null and the like says 0; a tape or terminal refuses.
            Kind::Character => Ok(io::Seek::seek(&mut &self.file, io::SeekFrom::End(0))?),
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(offset, buf.len() as u64)?;
        let count = match &self.direct {
            Some(direct) => direct.read(self, buf, offset)?,
            None => self.read_some(buf, offset)?,
        };
        if count < buf.len() {
            // Nothing was there at the offset itself if that lies behind the end.
            if offset < self.length_before {
                self.check_end(offset + count as u64)?;
            }
            buf[count..].fill(0);
        }
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        check_range(offset, buf.len() as u64)?;
        match &self.direct {
            Some(direct) => direct.write(self, buf, offset),
            None => {
                self.write_all(buf, offset)?;
                self.write_behind(offset, buf.len() as u64)
            }
        }
    }

    fn zero(&self, offset: u64, len: u64, mode: ZeroMode) -> Result<()> {
        check_range(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let (start, end) = (offset, offset + len);
        // The parts of sectors at both ends are written.
        let first = start.next_multiple_of(self.sector);
        let last = end / self.sector * self.sector;
        if mode == ZeroMode::Write || first >= last {
            return self.zero_write(start, len);
        }
        self.zero_write(start, first - start)?;
        match mode {
            ZeroMode::Discard => self.zero_discard(first, last - first),
            _ => self.zero_allocate(first, last - first),
        }?;
        self.zero_write(last, end - last)?;
        self.settle()
    }

    fn extent(&self, offset: u64, len: u64) -> Result<(RangeKind, u64)> {
        self.find_extent(offset, len)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        if self.kind != Kind::Regular {
            return match len <= self.len()? {
                true => Ok(()),
                false => Err(Error::invalid("Cannot grow device files")),
            };
        }
        let old = self.len()?;
        check_range(0, len)
            .and_then(|()| Ok(self.file.set_len(len)?))
            .map_err(|error| self.failed_whole(&format!("Setting the length to {len} bytes of"), error))
            .context(|| "Could not resize file")?;
        if old == 0 {
            self.write_first_block(len);
        }
        self.settle()
    }

    fn start_writeback(&self, offset: u64, len: u64) -> Result<()> {
        // Where nobody will wait for it, or everybody has already, it would only be work.
        if self.cache.no_flush || self.cache.writethrough || self.direct.is_some() {
            return Ok(());
        }
        self.write_out(offset, len, false)
    }

    fn flush(&self) -> Result<()> {
        if self.cache.no_flush || !self.write {
            return Ok(());
        }
        match self.flush_error.load(Ordering::Relaxed) {
            0 => {}
            errno => return Err(self.failed_whole("Flushing", Error::os(errno))),
        }
        loop {
            match self.file.sync_data() {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Character devices have nothing to flush.
                Err(error) if self.kind == Kind::Character && error.raw_os_error() == Some(libc::EINVAL) => {
                    return Ok(());
                }
                Err(error) => {
                    self.remember(error.raw_os_error().unwrap_or(libc::EIO));
                    return Err(self.failed_whole("Flushing", error));
                }
            }
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            alignment: self.direct.as_ref().map_or(1, Direct::align),
            zero_init: self.kind == Kind::Regular,
            fixed_len: self.kind != Kind::Regular,
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}
