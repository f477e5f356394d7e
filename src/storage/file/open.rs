//! Opening files by name.

use std::fs::{File, Metadata, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32};

use super::{Direct, FileStorage, Kind, OpenMode, Protocol};
use crate::error::{Context, Error, Result};
use crate::storage::{CacheMode, Permissions, Storage};
use crate::sys;
use crate::text::to_os;

impl Kind {
    /// What a file is, if it can hold an image.
    fn of(info: &Metadata) -> Option<Kind> {
        let kind = info.file_type();
        if kind.is_file() {
            Some(Kind::Regular)
        } else if kind.is_block_device() {
            Some(Kind::Block)
        } else if kind.is_char_device() {
            Some(Kind::Character)
        } else {
            None
        }
    }

    /// What an existing file is, checked against what it must be.
    pub(super) fn check(info: &Metadata, name: &str, protocol: Protocol) -> Result<Kind> {
        match (Kind::of(info), protocol) {
            (Some(Kind::Regular), Protocol::HostDevice) | (None, Protocol::HostDevice) => Err(Error::invalid(format!(
                "'host_device' driver requires '{name}' to be either a character or block device"
            ))),
            (Some(Kind::Block | Kind::Character), Protocol::File) | (None, _) => {
                Err(Error::invalid(format!("'file' driver requires '{name}' to be a regular file")))
            }
            (Some(kind), _) => Ok(kind),
        }
    }
}

impl FileStorage {
    /// Opens the existing file or device called `name` (carried as `text` says). No locks are taken yet.
    ///
    /// An error of the system is wrapped in "Could not open 'name'", as the reference's protocol level does; what opens
    /// an image wraps it once more.
    pub fn open(name: &str, mode: OpenMode, cache: CacheMode) -> Result<Self> {
        let could_not = || format!("Could not open '{name}'");
        if name.is_empty() {
            return Err(Error::invalid("The 'file' block driver requires a file name"));
        }
        let path = to_os(name);
        let info = std::fs::metadata(&path).context(could_not)?;
        // A socket cannot be opened at all, a folder not for writing; let the system say so.
        let refused_by_system = info.file_type().is_socket() || (info.is_dir() && mode.write);
        if !refused_by_system {
            // Looked at before opening, as opening a pipe would wait for its other end.
            Kind::check(&info, name, mode.protocol)?;
        }
        let mut flags = 0;
        if cache.direct {
            flags |= libc::O_DIRECT;
        }
        if cache.writethrough {
            flags |= libc::O_DSYNC;
        }
        let file = match OpenOptions::new().read(true).write(mode.write).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) if cache.direct && error.raw_os_error() == Some(libc::EINVAL) => {
                return Err(Error::invalid("filesystem does not support O_DIRECT").context(could_not()));
            }
            Err(error) => return Err(Error::from(error).context(could_not())),
        };
        let kind = Kind::check(&file.metadata().context(could_not)?, name, mode.protocol)?;
        if kind == Kind::Block && mode.write && sys::device::read_only(file.as_fd()).unwrap_or(false) {
            return Err(Error::os(libc::EACCES).context("The device is not writable"));
        }
        let storage = Self::from_file(file, name, kind, mode.write, cache);
        storage.len().context(|| "Could not refresh total sector count")?;
        Ok(storage)
    }

    /// Wraps an opened file.
    pub(super) fn from_file(file: File, name: &str, kind: Kind, write: bool, cache: CacheMode) -> Self {
        let sector = match kind {
            Kind::Block => sys::device::sector(file.as_fd()).unwrap_or(512).max(1),
            _ => 1,
        };
        let direct = cache.direct.then(|| Direct::probe(file.as_fd(), kind == Kind::Block));
        let length_before = match kind {
            Kind::Regular if !write => file.metadata().map_or(0, |info| info.len()),
            _ => 0,
        };
        FileStorage {
            file,
            name: name.to_owned(),
            kind,
            write,
            cache,
            direct,
            sector,
            permissions: Mutex::new(Permissions::NONE),
            flush_error: AtomicI32::new(0),
            opaque: AtomicBool::new(kind != Kind::Regular),
            last_data: Mutex::new(0..0),
            behind: Mutex::default(),
            length_before,
        }
    }
}
