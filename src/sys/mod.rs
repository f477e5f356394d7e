//! The operating system below what the standard library offers. The only place with `unsafe`.
//!
//! Every wrapper here is safe to call with any argument; what the system refuses comes back as an error. Operations
//! that a file system or device may simply not have come back as `false` or `None`, so that callers can take another
//! way instead of failing.
#![allow(unsafe_code)]

pub mod advise;
pub mod copy;
pub mod descriptor;
pub mod device;
pub mod errno;
pub mod fs;
pub mod holders;
pub mod lock;
pub mod memory;
pub mod secret;
pub mod signal;
pub mod space;
#[cfg(test)]
mod tests;
pub mod time;

use nix::errno::Errno;

/// Whether an error number says "not here" (this file system, device or kernel lacks the operation) rather than "it went
/// wrong".
pub(crate) fn lacks(errno: Errno) -> bool {
    matches!(errno, Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENOTTY | Errno::ENODEV | Errno::EINVAL)
}

/// Calls again for as long as a signal interrupts.
pub(crate) fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// An offset or length in the type of system calls; what does not fit cannot exist in a file.
pub(crate) fn off(value: u64) -> nix::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| Errno::EFBIG)
}
