//! Block devices.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::{Error, Result};

/// The requests in the numbers of the kernel.
mod request {
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), libc::c_int);
    nix::ioctl_read_bad!(blkroget, nix::request_code_none!(0x12, 94), libc::c_int);
    nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);
}

/// The length of a block device in bytes.
pub fn len(fd: BorrowedFd<'_>) -> Result<u64> {
    let mut len = 0;
    // SAFETY: the descriptor is open and the request writes one u64.
    super::retry(|| unsafe { request::blkgetsize64(fd.as_raw_fd(), &mut len) })?;
    Ok(len)
}

/// The size of a logical sector in bytes: what direct requests must be multiples of.
pub fn sector(fd: BorrowedFd<'_>) -> Result<u64> {
    let mut size = 0;
    // SAFETY: the descriptor is open and the request writes one int.
    super::retry(|| unsafe { request::blksszget(fd.as_raw_fd(), &mut size) })?;
    u64::try_from(size).map_err(|_| Error::os(libc::EINVAL))
}

/// Whether the device refuses to be written.
pub fn read_only(fd: BorrowedFd<'_>) -> Result<bool> {
    let mut flag = 0;
    // SAFETY: the descriptor is open and the request writes one int.
    super::retry(|| unsafe { request::blkroget(fd.as_raw_fd(), &mut flag) })?;
    Ok(flag != 0)
}

/// Zeros a range (whole sectors) by the device's own means, or by writing inside the kernel. `false` where that is not
/// possible, though writing may be: the kernel does not do it on a device that is mounted.
pub fn zero_out(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<bool> {
    // SAFETY: the descriptor is open and the request reads two u64.
    match super::retry(|| unsafe { request::blkzeroout(fd.as_raw_fd(), &[offset, len]) }) {
        Ok(_) => Ok(true),
        Err(errno) if super::lacks(errno) || errno == nix::errno::Errno::EBUSY => Ok(false),
        Err(errno) => Err(Error::from(errno)),
    }
}
