//! Files and block devices.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use super::{Limits, RangeKind, Storage, ZeroMode};
use crate::error::Result;

/// How writes reach the disk, as `-t` and `-T` say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheMode {
    /// Go around the page cache (`O_DIRECT`).
    pub direct: bool,
    /// Ignore requests to flush.
    pub no_flush: bool,
    /// Flush after every write.
    pub writethrough: bool,
}

impl CacheMode {
    /// `writeback`: the page cache, flushed when it matters.
    pub const WRITEBACK: CacheMode = CacheMode { direct: false, no_flush: false, writethrough: false };
    /// `unsafe`: the page cache, never flushed.
    pub const UNSAFE: CacheMode = CacheMode { no_flush: true, ..CacheMode::WRITEBACK };
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenMode {
    /// For writing.
    pub write: bool,
    /// Create it, or cut an existing one to nothing.
    pub create: bool,
    /// Take no locks that would keep others away.
    pub share: bool,
}

/// A regular file or a block device.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    name: String,
    cache: CacheMode,
}

impl FileStorage {
    /// Opens (or creates) the file called `name`.
    pub fn open(name: &str, mode: OpenMode, cache: CacheMode) -> Result<Self> {
        let file =
            OpenOptions::new().read(true).write(mode.write).create(mode.create).truncate(mode.create).open(name)?;
        Ok(FileStorage { file, name: name.to_owned(), cache })
    }

    /// The name it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Storage for FileStorage {
    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => {
                    buf[done..].fill(0);
                    break;
                }
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(buf, offset)?;
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, _mode: ZeroMode) -> Result<()> {
        let block = vec![0; len.min(1 << 20) as usize];
        let mut done = 0;
        while done < len {
            let count = (len - done).min(block.len() as u64);
            self.write_at(&block[..count as usize], offset + done)?;
            done += count;
        }
        Ok(())
    }

    fn extent(&self, offset: u64, len: u64) -> Result<(RangeKind, u64)> {
        let end = self.len()?;
        Ok(if offset < end { (RangeKind::Data, len.min(end - offset)) } else { (RangeKind::Hole, len) })
    }

    fn set_len(&self, len: u64) -> Result<()> {
        Ok(self.file.set_len(len)?)
    }

    fn flush(&self) -> Result<()> {
        if !self.cache.no_flush {
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn limits(&self) -> Limits {
        Limits { alignment: 1, zero_init: true, fixed_len: false }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}
