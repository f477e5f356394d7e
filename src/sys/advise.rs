//! Telling the page cache what is to be written now, and what is not needed any more.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::error::Result;

fn advise(fd: BorrowedFd<'_>, offset: u64, len: u64, advice: PosixFadviseAdvice) {
    if let (Ok(offset), Ok(len)) = (super::off(offset), super::off(len)) {
        // A file or device that does not take advice loses nothing.
        let _ = posix_fadvise(fd, offset, len, advice);
    }
}

/// This range will not be read again: its clean pages may go. Dirty pages stay; see [`write_out`].
pub fn drop_cache(fd: BorrowedFd<'_>, offset: u64, len: u64) {
    // A length of 0 would mean everything up to the end.
    if len > 0 {
        advise(fd, offset, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}

/// Starts writing the dirty pages of a range to the disk; with `wait`, waits for that and for what was already on its
/// way. This is for keeping dirty memory small, it does not make anything safe: only a flush does. An error is one of
/// writing back, which the kernel reports only once for each open file, so it must not be dropped.
pub fn write_out(fd: BorrowedFd<'_>, offset: u64, len: u64, wait: bool) -> Result<()> {
    let mut flags = libc::SYNC_FILE_RANGE_WRITE;
    if wait {
        flags |= libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    }
    if len == 0 {
        return Ok(()); // the kernel takes 0 for "to the end"
    }
    let (offset, len) = (super::off(offset)?, super::off(len)?);
    // SAFETY: takes an open descriptor and numbers, touches no memory of ours.
    match super::retry(|| Errno::result(unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, len, flags) })) {
        Ok(_) => Ok(()),
        // Pipes, character devices and kernels without it have nothing to write out.
        Err(errno) if super::lacks(errno) || errno == Errno::ESPIPE => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
