//! Copying ranges between files without the bytes passing through this process.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::copy_file_range;

use crate::error::{Error, Result};

/// What came of an attempt to let the kernel copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// So many bytes were copied, at least one; fewer than asked for is usual.
    Bytes(u64),
    /// The source ends at or before the offset.
    End,
    /// These two files cannot be copied that way (different file systems, or one without the operation). Copy by reading
    /// and writing, and do not ask again for the same pair.
    NotHere,
}

/// Error numbers with which the kernel says that a pair of files does not go together.
fn not_here(errno: Errno) -> bool {
    // EBADF: a descriptor opened for appending. EPERM and ETXTBSY: immutable files and swap files; a plain write then
    // reports the real reason. EIO is no such case: network file systems give it for real errors.
    super::lacks(errno) || matches!(errno, Errno::EXDEV | Errno::EBADF | Errno::EPERM | Errno::ETXTBSY | Errno::EISDIR)
}

/// Copies up to `len` bytes. File systems that can share blocks between files do that here, too.
pub fn copy_range(
    from: BorrowedFd<'_>,
    from_offset: u64,
    to: BorrowedFd<'_>,
    to_offset: u64,
    len: u64,
) -> Result<Copied> {
    let mut source = super::off(from_offset)?;
    let mut target = super::off(to_offset)?;
    // One call copies at most about 2 GiB anyway; smaller steps leave room for progress and interruption.
    let count = usize::try_from(len.min(1 << 30)).unwrap_or(1 << 30);
    match super::retry(|| copy_file_range(from, Some(&mut source), to, Some(&mut target), count)) {
        Ok(0) if len > 0 => Ok(Copied::End),
        Ok(count) => Ok(Copied::Bytes(count as u64)),
        Err(errno) if not_here(errno) => Ok(Copied::NotHere),
        Err(errno) => Err(Error::from(errno)),
    }
}

/// `struct file_clone_range` of `linux/fs.h`.
#[repr(C)]
struct FileCloneRange {
    src_fd: i64,
    src_offset: u64,
    src_length: u64,
    dest_offset: u64,
}

/// The requests in the numbers of the kernel.
mod request {
    use super::FileCloneRange;

    nix::ioctl_write_ptr!(ficlonerange, 0x94, 13, FileCloneRange);
}

/// Makes `len` bytes of `to` share the blocks of `from`. All numbers must be multiples of the file system's block size,
/// except that the range may end at the end of the source. `false` where that is not possible: nothing was changed then.
pub fn clone_range(
    from: BorrowedFd<'_>,
    from_offset: u64,
    to: BorrowedFd<'_>,
    to_offset: u64,
    len: u64,
) -> Result<bool> {
    if len == 0 {
        return Ok(true); // the kernel takes 0 for "to the end"
    }
    let range = FileCloneRange {
        src_fd: i64::from(from.as_raw_fd()),
        src_offset: from_offset,
        src_length: len,
        dest_offset: to_offset,
    };
    // SAFETY: both descriptors are open for as long as the borrows live, and `range` has the layout the request expects.
    match super::retry(|| unsafe { request::ficlonerange(to.as_raw_fd(), &range) }) {
        Ok(_) => Ok(true),
        Err(errno) if not_here(errno) => Ok(false),
        Err(errno) => Err(Error::from(errno)),
    }
}
