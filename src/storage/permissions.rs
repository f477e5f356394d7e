//! What one opener does with an image file and what it lets others do, told to others by locks on bytes of the file.
//!
//! There are four permissions. A shared lock on byte `100 + n` says "I use permission n", one on byte `200 + n` says "I
//! cannot stand others using permission n". An opener first puts up its own locks and then looks whether somebody else
//! holds the opposite ones. Nobody ever takes an exclusive lock, so that looking does not disturb. The numbers are those
//! of the reference, so both keep out of each other's images.
//!
//! Whoever only waits must not put up locks again and again: a virtual machine that starts in just that moment would be
//! refused. So this opener looks before it puts up its locks, too.

use std::os::fd::BorrowedFd;

use crate::error::{Error, Kind, Result};
use crate::sys::holders::LockedByte;
use crate::sys::lock;

/// Name and number of each permission.
const NAMES: [&str; 4] = ["consistent read", "write", "write unchanged", "resize"];
/// The same names as options have them.
const OPTION_NAMES: [&str; 4] = ["consistent-read", "write", "write-unchanged", "resize"];
const HELD: u64 = 100;
const REFUSED: u64 = 200;

const READ: u8 = 1 << 0;
const WRITE: u8 = 1 << 1;
const WRITE_UNCHANGED: u8 = 1 << 2;
const RESIZE: u8 = 1 << 3;

/// What part a file plays; see [`Permissions::for_file`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileRole {
    /// A raw image: the file is the disk.
    Raw,
    /// A file with metadata in it.
    #[default]
    Metadata,
    /// The external data file of another image.
    Data,
}

/// Permissions of one opener: those it uses, and those it refuses to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    held: u8,
    refused: u8,
}

impl Permissions {
    /// Uses nothing, minds nothing.
    pub const NONE: Permissions = Permissions { held: 0, refused: 0 };
    /// For making the contents of a file anew, before it is opened as an image.
    pub const CREATE: Permissions = Permissions { held: WRITE | RESIZE, refused: RESIZE };
    /// For writing a new image's metadata.
    pub const FORMAT: Permissions = Permissions { held: READ | WRITE | RESIZE, refused: WRITE | RESIZE };
    /// For using a device as a new image.
    pub const DEVICE: Permissions = Permissions { held: READ | WRITE | RESIZE, refused: 0 };

    /// What the reference uses and refuses for a file in this part. `share` is `-U`; `no_io` says that the contents of
    /// the disk will not be looked at.
    pub fn for_file(role: FileRole, write: bool, share: bool, no_io: bool) -> Permissions {
        let held = match (role, write) {
            (FileRole::Raw, true) => READ | WRITE,
            (_, true) => READ | WRITE | RESIZE,
            (_, false) => READ,
        };
        let held = if no_io && !write { 0 } else { held };
        let refused = match (role, write) {
            _ if share => 0,
            (FileRole::Raw, true) => 0,
            (FileRole::Raw, false) if no_io => 0,
            (FileRole::Data, true) => RESIZE,
            _ => WRITE | RESIZE,
        };
        Permissions { held, refused }
    }

    /// The same for somebody who gives the file another size (`held`), or does not let others do so (`refused`).
    pub fn with_resize(self, held: bool, refused: bool) -> Permissions {
        let set = |wanted| if wanted { RESIZE } else { 0 };
        Permissions { held: self.held | set(held), refused: self.refused | set(refused) }
    }

    /// The same for the reader of a disk that others may write to meanwhile, as long as its metadata stays: nothing is
    /// refused for a raw image, and only another size for a data file.
    pub fn tolerant(self, role: FileRole) -> Permissions {
        let refused = match role {
            FileRole::Metadata => self.refused,
            FileRole::Data if self.held != 0 => self.refused & RESIZE,
            FileRole::Raw | FileRole::Data => 0,
        };
        Permissions { refused, ..self }
    }

    /// The use of one permission, and the refusal of it to others, by the name that options give it.
    pub fn named(name: &str) -> Option<(Permissions, Permissions)> {
        let number = OPTION_NAMES.iter().position(|known| *known == name)?;
        let set = 1 << number;
        Some((Permissions { held: set, ..Self::NONE }, Permissions { refused: set, ..Self::NONE }))
    }

    /// These and `more`.
    pub fn and(self, more: Permissions) -> Permissions {
        Permissions { held: self.held | more.held, refused: self.refused | more.refused }
    }

    /// The same for somebody who refuses nothing (`-U`).
    pub fn sharing(self) -> Permissions {
        Permissions { refused: 0, ..self }
    }

    /// Whether anything is written that way.
    pub fn writes(self) -> bool {
        self.held & (WRITE | WRITE_UNCHANGED) != 0
    }

    /// The bytes that are locked for these permissions.
    fn bytes(self) -> impl Iterator<Item = u64> {
        numbers(self.held).map(|n| HELD + n).chain(numbers(self.refused).map(|n| REFUSED + n))
    }

    /// Goes from `self`, which is locked now, to `wanted`. When somebody is in the way, `self` stays in force. `name` is
    /// the file's, for the message.
    pub(super) fn change(self, fd: BorrowedFd<'_>, wanted: Permissions, name: &str) -> Result<()> {
        if !lock::supported() {
            return Ok(());
        }
        let result = wanted.take(fd, name);
        let (keep, release) = if result.is_ok() { (wanted, self) } else { (self, wanted) };
        for at in release.bytes().filter(|at| !keep.bytes().any(|kept| kept == *at)) {
            // Nothing depends on it: what is not released here goes when the file is closed.
            let _ = lock::unlock(fd, at);
        }
        result
    }

    /// Looks for locks of others, puts up its own, and looks again for what came in between.
    fn take(self, fd: BorrowedFd<'_>, name: &str) -> Result<()> {
        self.look_around(fd, name)?;
        for at in self.bytes() {
            lock::lock_shared(fd, at).map_err(|errno| with_cause(format!("Failed to lock byte {at}"), errno))?;
        }
        self.look_around(fd, name)
    }

    /// An error if somebody refuses what this opener uses, or uses what it refuses.
    fn look_around(self, fd: BorrowedFd<'_>, name: &str) -> Result<()> {
        for n in numbers(self.held) {
            let what = || format!("Failed to get \"{}\" lock", NAMES[n as usize]);
            look(fd, REFUSED + n, what).map_err(|error| error.hint(in_use(name)))?;
        }
        for n in numbers(self.refused) {
            let what = || format!("Failed to get shared \"{}\" lock", NAMES[n as usize]);
            look(fd, HELD + n, what).map_err(|error| error.hint(in_use(name)))?;
        }
        Ok(())
    }
}

/// The numbers of the permissions in a set.
fn numbers(set: u8) -> impl Iterator<Item = u64> {
    (0..NAMES.len() as u64).filter(move |n| set & (1 << n) != 0)
}

fn in_use(name: &str) -> String {
    format!("Is another process using the image [{name}]?")
}

fn with_cause(what: String, errno: nix::errno::Errno) -> Error {
    Error::from(errno).context(what)
}

/// An error called `what` if somebody else has locked the byte.
fn look(fd: BorrowedFd<'_>, at: u64, what: impl Fn() -> String) -> Result<()> {
    match lock::held_by_others(fd, at) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Error::new(Kind::Locked { text: what(), byte: locked_byte(fd, at) })),
        Err(errno) => Err(with_cause(what(), errno)),
    }
}

fn locked_byte(fd: BorrowedFd<'_>, offset: u64) -> Option<LockedByte> {
    let info = nix::sys::stat::fstat(fd).ok()?;
    Some(LockedByte { device: info.st_dev, inode: info.st_ino, offset })
}

#[cfg(test)]
#[path = "permissions_tests.rs"]
mod tests;
