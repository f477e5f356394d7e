//! Descriptors that somebody else has opened for this process.

use std::fs::File;
use std::os::fd::{FromRawFd, RawFd};

use nix::errno::Errno;

/// A descriptor of our own for what `number` is open on; `None` where that is not open for writing.
pub fn duplicate_for_writing(number: RawFd) -> Option<File> {
    // SAFETY: asks about a number, touches no memory of ours.
    let flags = super::retry(|| Errno::result(unsafe { libc::fcntl(number, libc::F_GETFL) })).ok()?;
    if flags & libc::O_ACCMODE == libc::O_RDONLY {
        return None;
    }
    // SAFETY: makes a new descriptor out of a number, touches no memory of ours.
    let own = super::retry(|| Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })).ok()?;
    // SAFETY: the call above has just opened it, and nobody else knows of it.
    Some(unsafe { File::from_raw_fd(own) })
}
