//! File systems: which one it is, what it asks of direct I/O, and flags of files.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use nix::sys::stat::fstat;
use nix::sys::statfs::fstatfs;
use nix::sys::statvfs::statvfs;

use crate::error::{Error, Result};

/// The file systems whose way with holes, clones and reservations the data mover knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext2, ext3 or ext4: no clones; reserving blocks ahead of writing helps.
    Ext4,
    /// XFS: clones.
    Xfs,
    /// btrfs: clones; reserving ahead hurts.
    Btrfs,
    /// Memory.
    Tmpfs,
    /// NFS, CIFS and the like.
    Network,
    /// Something else, or a device.
    Other,
}

/// The file system an open regular file lies on.
pub fn file_system(fd: BorrowedFd<'_>) -> FileSystem {
    // A device would answer with the file system of /dev.
    let regular = |mode: libc::mode_t| mode & libc::S_IFMT == libc::S_IFREG;
    if !fstat(fd).is_ok_and(|info| regular(info.st_mode)) {
        return FileSystem::Other;
    }
    // The magic numbers are those of linux/magic.h; the type of the field differs between platforms.
    #[allow(clippy::unnecessary_cast)]
    let magic = fstatfs(fd).map(|info| info.filesystem_type().0 as u32).unwrap_or(0);
    match magic {
        0xef53 => FileSystem::Ext4,
        0x5846_5342 => FileSystem::Xfs,
        0x9123_683e => FileSystem::Btrfs,
        0x0102_1994 => FileSystem::Tmpfs,
        0x6969 | 0xff53_4d42 | 0xfe53_4d42 | 0x517b => FileSystem::Network,
        _ => FileSystem::Other,
    }
}

/// What direct I/O on an open file asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectAlign {
    /// Memory and offsets must be multiples of these.
    Known {
        /// Alignment of buffers in memory.
        memory: u64,
        /// Alignment of offsets and lengths.
        offset: u64,
    },
    /// Not possible on this file.
    Impossible,
    /// The kernel does not say.
    Unknown,
}

/// Asks the kernel (6.1 and later) what direct I/O needs.
pub fn direct_align(fd: BorrowedFd<'_>) -> DirectAlign {
    let mut info = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, which with AT_EMPTY_PATH means the descriptor, and `info` is writable
    // memory of the size the call fills.
    let result = unsafe {
        libc::statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, info.as_mut_ptr())
    };
    if result != 0 {
        return DirectAlign::Unknown;
    }
    // SAFETY: every bit pattern is valid for this structure of integers, and it was zeroed before the call.
    let info = unsafe { info.assume_init() };
    if info.stx_mask & libc::STATX_DIOALIGN == 0 {
        return DirectAlign::Unknown;
    }
    match (u64::from(info.stx_dio_mem_align), u64::from(info.stx_dio_offset_align)) {
        (0, _) | (_, 0) => DirectAlign::Impossible,
        (memory, offset) => DirectAlign::Known { memory, offset },
    }
}

/// The requests in the numbers of the kernel.
mod request {
    nix::ioctl_read!(fs_ioc_getflags, b'f', 1, libc::c_long);
    nix::ioctl_write_ptr!(fs_ioc_setflags, b'f', 2, libc::c_long);
    nix::ioctl_read!(fs_ioc_fsgetxattr, b'X', 31, super::FsXattr);
    nix::ioctl_write_ptr!(fs_ioc_fssetxattr, b'X', 32, super::FsXattr);
}

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Default)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// `FS_XFLAG_EXTSIZE` of `linux/fs.h`.
const EXTSIZE: u32 = 0x800;

/// In what unit, in bytes, the file system allocates space for this file; 0 where there is no such hint, `None` where
/// the file system has no such thing.
pub fn extent_size_hint(fd: BorrowedFd<'_>) -> Option<u32> {
    let mut attributes = FsXattr::default();
    // SAFETY: the descriptor is open and the request writes one `fsxattr`.
    super::retry(|| unsafe { request::fs_ioc_fsgetxattr(fd.as_raw_fd(), &mut attributes) }).ok()?;
    Some(attributes.extsize)
}

/// Asks the file system to allocate space for this (still empty) file in units of `bytes`. An error where it has no
/// such thing, or cannot have this unit.
pub fn set_extent_size_hint(fd: BorrowedFd<'_>, bytes: u32) -> Result<()> {
    let mut attributes = FsXattr::default();
    // SAFETY: the descriptor is open and the request writes one `fsxattr`.
    let read = super::retry(|| unsafe { request::fs_ioc_fsgetxattr(fd.as_raw_fd(), &mut attributes) });
    let result = read.and_then(|_| {
        attributes.xflags |= EXTSIZE;
        attributes.extsize = bytes;
        // SAFETY: the descriptor is open and the request reads one `fsxattr`.
        super::retry(|| unsafe { request::fs_ioc_fssetxattr(fd.as_raw_fd(), &attributes) })
    });
    result.map(drop).map_err(Error::from)
}

/// `FS_NOCOW_FL` of `linux/fs.h`.
const NOCOW: libc::c_long = 0x0080_0000;

/// Asks a file system that copies on write not to do that for this (still empty) file. `false` where it has no such
/// thing.
pub fn set_nocow(fd: BorrowedFd<'_>) -> Result<bool> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the descriptor is open and the request writes at most one long.
    let read = super::retry(|| unsafe { request::fs_ioc_getflags(fd.as_raw_fd(), &mut flags) });
    let result = read.and_then(|_| {
        flags |= NOCOW;
        // SAFETY: the descriptor is open and the request reads at most one long.
        super::retry(|| unsafe { request::fs_ioc_setflags(fd.as_raw_fd(), &flags) })
    });
    match result {
        Ok(_) => Ok(true),
        Err(errno) if super::lacks(errno) => Ok(false),
        Err(errno) => Err(Error::from(errno)),
    }
}

/// Whether the file is exempt from copy on write.
pub fn is_nocow(fd: BorrowedFd<'_>) -> bool {
    let mut flags: libc::c_long = 0;
    // SAFETY: the descriptor is open and the request writes at most one long.
    unsafe { request::fs_ioc_getflags(fd.as_raw_fd(), &mut flags) }.is_ok() && flags & NOCOW != 0
}

/// How many bytes this user can still write into the file system that a folder is in.
pub fn free(folder: &Path) -> Result<u64> {
    let info = super::retry(|| statvfs(folder))?;
    Ok(info.blocks_available().saturating_mul(info.fragment_size()))
}
