//! Descriptors that somebody else has opened for this process.

use std::fs::{File, OpenOptions};
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// A descriptor of our own for what `number` is open on; `None` where that is not open for writing.
pub fn duplicate_for_writing(number: RawFd) -> Option<File> {
    duplicate(number, libc::O_RDONLY)
}

/// The same for reading.
pub fn duplicate_for_reading(number: RawFd) -> Option<File> {
    duplicate(number, libc::O_WRONLY)
}

/// Unless it is open in the mode `unless` alone.
fn duplicate(number: RawFd, unless: libc::c_int) -> Option<File> {
    // SAFETY: asks about a number, touches no memory of ours.
    let flags = super::retry(|| Errno::result(unsafe { libc::fcntl(number, libc::F_GETFL) })).ok()?;
    if flags & libc::O_ACCMODE == unless {
        return None;
    }
    // SAFETY: makes a new descriptor out of a number, touches no memory of ours.
    let own = super::retry(|| Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })).ok()?;
    // SAFETY: the call above has just opened it, and nobody else knows of it.
    Some(unsafe { File::from_raw_fd(own) })
}

/// Opens a FIFO for writing when somebody has opened it for reading; `None` if nobody has after `patience`.
pub fn open_fifo(path: &Path, patience: Duration) -> std::io::Result<Option<File>> {
    let until = Instant::now() + patience;
    loop {
        match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path) {
            Ok(file) => {
                let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
                fcntl(&file, FcntlArg::F_SETFL(flags.difference(OFlag::O_NONBLOCK)))?;
                return Ok(Some(file));
            }
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {}
            Err(error) => return Err(error),
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
