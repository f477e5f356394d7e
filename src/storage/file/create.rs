//! Creating files.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::unfinished::{Before, UnfinishedFile};
use super::{FileStorage, Kind, OpenMode, Protocol};
use crate::error::{Context, Error, Result};
use crate::storage::{CacheMode, FileRole, Permissions, Preallocation, Storage};
use crate::sys;
use crate::sys::space::Space;
use crate::text::to_os;

/// What a new file shall be like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewFile {
    /// Its length in bytes.
    pub size: u64,
    /// How its space is taken.
    pub preallocation: Preallocation,
    /// Ask the file system not to copy this file on write; ignored by file systems that never do.
    pub nocow: bool,
    /// In what unit, in bytes, the file system shall allocate space, where it can be told (XFS); 0 leaves that to the file
    /// system. `None` is the reference's default, a mebibyte: images that grow block by block over years fall into
    /// pieces otherwise.
    pub extent_size_hint: Option<u64>,
    /// What the file will be used for, which decides who else may use it meanwhile.
    pub role: FileRole,
    /// Flushes are left out: nobody relies on the file before it has been written in full.
    pub no_flush: bool,
}

/// The circumstance of an error while opening a device that shall become an image.
pub const DEVICE_NOT_OPENED: &str = "Protocol driver 'host_device' does not support creating new images, so an existing \
                                     image must be selected as the target; however, opening the given target as an \
                                     existing image failed";

/// See [`NewFile::extent_size_hint`].
const EXTENT_SIZE_HINT: u64 = 1 << 20;

impl NewFile {
    fn cache(&self) -> CacheMode {
        CacheMode { no_flush: self.no_flush, ..CacheMode::WRITEBACK }
    }
}

/// A file that was just created or emptied, open for reading and writing, and what takes care of it until it is
/// finished.
#[derive(Debug)]
pub struct Creation {
    /// The file.
    pub storage: FileStorage,
    /// Removes it again unless it is told that all went well.
    pub guard: UnfinishedFile,
    /// What was asked for and is not so, although the file is as good without.
    pub warning: Option<String>,
}

impl FileStorage {
    /// Creates the file called `name`, or makes an existing one anew. An existing file that somebody else is using stays
    /// untouched. A device is taken as it is if it is large enough.
    ///
    /// The file stays locked with [`Permissions::FORMAT`], what becomes a raw image with [`Permissions::CREATE`] (a
    /// device with [`Permissions::DEVICE`]).
    pub fn create(name: &str, new: &NewFile) -> Result<Creation> {
        let mut guard = UnfinishedFile::before(name);
        let path = PathBuf::from(to_os(name));
        if guard.before == Before::Device {
            let storage = Self::create_on_device(name, new)?;
            return Ok(Creation { storage, guard, warning: None });
        }
        if new.preallocation == Preallocation::Metadata {
            // Said before an existing file is emptied.
            return Err(Error::unsupported("Unsupported preallocation mode: metadata"));
        }
        let hint = u32::try_from(new.extent_size_hint.unwrap_or(EXTENT_SIZE_HINT))
            .map_err(|_| Error::invalid("Extent size hint is too large"))?;
        let (file, created) = open_new(&path).context(|| format!("Could not create '{name}'"))?;
        if created {
            guard.before = Before::Nothing;
            guard.arm(&file.metadata()?);
        } else if !path.is_symlink() {
            // It may have appeared a moment ago; then it is somebody else's.
            guard.before = Before::File;
        }
        let storage = Self::from_file(file, name, Kind::Regular, true, new.cache());
        storage.lock_anew(new)?;
        guard.arm(&storage.file.metadata()?);
        storage.set_len(0)?;
        if new.nocow {
            // Whether it worked is not our caller's business: the file is just as good without.
            let _ = sys::fs::set_nocow(storage.file.as_fd());
        }
        let warning = storage.hint_extent_size(hint, new.extent_size_hint.is_some());
        storage.take_space(new)?;
        Ok(Creation { storage, guard, warning })
    }

    /// Fails where [`FileStorage::create`] would, as far as that can be seen without a change: for what is made after something
    /// else, which would be emptied for nothing.
    pub fn check_create(name: &str, new: &NewFile) -> Result<()> {
        let path = PathBuf::from(to_os(name));
        let failed = || format!("Could not create '{name}'");
        match std::fs::metadata(&path) {
            Ok(info) if info.is_file() => {
                let file = OpenOptions::new().read(true).write(true).open(&path).context(failed)?;
                Self::from_file(file, name, Kind::Regular, true, new.cache()).lock_anew(new)
            }
            Ok(info) if info.is_dir() => Err(Error::os(libc::EISDIR)).context(failed),
            // A device.
            Ok(_) => Ok(()),
            Err(_) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
                access(folder, AccessFlags::W_OK | AccessFlags::X_OK).context(failed)
            }
        }
    }

    /// Locks a file that is to be made anew.
    fn lock_anew(&self, new: &NewFile) -> Result<()> {
        self.lock(Permissions::CREATE)?;
        if new.role != FileRole::Raw {
            // What will be needed in a moment is asked for before anything is lost.
            self.lock(Permissions::FORMAT)?;
        }
        Ok(())
    }

    /// As [`FileStorage::create`], where the name says by which protocol.
    pub fn create_by(protocol: Protocol, name: &str, new: &NewFile) -> Result<Creation> {
        let guard = UnfinishedFile::before(name);
        match protocol {
            Protocol::HostDevice => Ok(Creation { storage: Self::create_on_device(name, new)?, guard, warning: None }),
            Protocol::File if guard.before == Before::Device => {
                Err(Error::os(libc::EINVAL).context("Could not resize file"))
            }
            _ => Self::create(name, new),
        }
    }

    /// Says in what units space shall be allocated. A warning where a hint that was asked for cannot be had.
    fn hint_extent_size(&self, hint: u32, asked_for: bool) -> Option<String> {
        if hint == 0 {
            return None;
        }
        let error = sys::fs::set_extent_size_hint(self.file.as_fd(), hint).err().filter(|_| asked_for)?;
        Some(error.context("Failed to set extent size hint").to_string())
    }

    /// Gives an empty file its length.
    fn take_space(&self, new: &NewFile) -> Result<()> {
        match new.preallocation {
            Preallocation::Off => return self.set_len(new.size),
            _ if new.size == 0 => return Ok(()),
            Preallocation::Falloc => {
                // Where the file system cannot reserve, writing zeros gives what was asked for.
                let reserved = self
                    .set_range(Space::Reserve, 0, new.size)
                    .context(|| "Could not preallocate new data")
                    .map_err(|error| self.emptied(error))?;
                if reserved {
                    self.write_first_block(new.size);
                    return Ok(());
                }
            }
            Preallocation::Full | Preallocation::Metadata => {}
        }
        self.zero_write(0, new.size)
            .context(|| "Could not write zeros for preallocation")
            .map_err(|error| self.emptied(error))?;
        self.flush().context(|| "Could not flush file to disk")
    }

    /// Gives space back that was taken in vain: a full disk helps nobody.
    fn emptied(&self, error: Error) -> Error {
        let _ = self.file.set_len(0); // the first error is the one to tell
        error
    }

    fn create_on_device(name: &str, new: &NewFile) -> Result<FileStorage> {
        if new.preallocation != Preallocation::Off {
            let mode = new.preallocation.name();
            return Err(Error::unsupported(format!("Unsupported preallocation mode '{mode}'")));
        }
        let mode = OpenMode { write: true, protocol: Protocol::HostDevice };
        let open = || -> Result<FileStorage> {
            let storage = Self::open(name, mode, new.cache())?;
            storage.lock(Permissions::DEVICE)?;
            Ok(storage)
        };
        let storage = open().context(|| DEVICE_NOT_OPENED)?;
        storage.set_len(new.size)?;
        if new.role != FileRole::Raw {
            storage.lock(Permissions::FORMAT)?;
        }
        // What begins with the old contents' magic number must not be taken for the old image.
        let first = storage.len()?.min(512);
        storage.zero_write(0, first).context(|| "Failed to clear the new image's first sector")?;
        Ok(storage)
    }
}

/// Opens a file for writing, creates it where there is none, and says whether this call created it.
fn open_new(path: &Path) -> Result<(File, bool)> {
    let mut options = OpenOptions::new();
    // An existing file is not emptied before it is certain that nobody uses it.
    options.read(true).write(true).truncate(false).mode(0o644);
    match options.clone().create_new(true).open(path) {
        Ok(file) => Ok((file, true)),
        // A link that leads nowhere counts as existing, too; without `create_new` the file behind it is made.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Ok((options.create(true).open(path)?, false))
        }
        Err(error) => Err(error.into()),
    }
}
