//! Byte-range locks that belong to an open file, not to a process (`F_OFD_SETLK`).
//!
//! They go away when the last descriptor of the open file is closed, survive that some other descriptor of the same
//! file is closed, and two opens within one process conflict as two processes do.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

fn range(kind: libc::c_int, start: u64, len: u64) -> nix::Result<libc::flock> {
    Ok(libc::flock {
        l_type: kind as libc::c_short, // F_RDLCK, F_WRLCK and F_UNLCK are 0 to 2
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: super::off(start)?,
        l_len: super::off(len)?,
        l_pid: 0, // must be 0 for this kind of lock
    })
}

/// Whether the kernel has such locks.
pub fn supported() -> bool {
    static SUPPORTED: OnceLock<bool> = OnceLock::new();
    *SUPPORTED.get_or_init(|| match File::open("/dev/null") {
        Ok(file) => {
            range(libc::F_WRLCK, 0, 0).and_then(|mut lock| fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock))).is_ok()
        }
        Err(_) => false,
    })
}

/// Takes a shared lock on one byte without waiting; `EAGAIN` or `EACCES` when somebody has locked it exclusively.
pub fn lock_shared(fd: BorrowedFd<'_>, at: u64) -> nix::Result<()> {
    super::retry(|| fcntl(fd, FcntlArg::F_OFD_SETLK(&range(libc::F_RDLCK, at, 1)?))).map(drop)
}

/// Gives up the lock on one byte.
pub fn unlock(fd: BorrowedFd<'_>, at: u64) -> nix::Result<()> {
    super::retry(|| fcntl(fd, FcntlArg::F_OFD_SETLK(&range(libc::F_UNLCK, at, 1)?))).map(drop)
}

/// Whether another open file holds any lock on one byte.
pub fn held_by_others(fd: BorrowedFd<'_>, at: u64) -> nix::Result<bool> {
    let mut lock = range(libc::F_WRLCK, at, 1)?;
    super::retry(|| fcntl(fd, FcntlArg::F_OFD_GETLK(&mut lock)))?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

/// Whether an error number of [`lock_shared`] says that somebody else is in the way.
pub fn is_conflict(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::EACCES)
}
