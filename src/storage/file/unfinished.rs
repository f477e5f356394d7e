//! What happens to a target when the run that makes it does not get to its end.

use std::fs::{Metadata, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use crate::text::to_os;

/// What a name led to before this run touched it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    File,
    Device,
}

/// A file that is being made.
#[derive(Debug)]
struct Entry {
    id: u64,
    path: PathBuf,
    before: Before,
    /// Device and inode number.
    identity: (u64, u64),
}

/// All files that are being made, so that a signal can have them removed while the threads that make them are busy.
#[derive(Debug)]
struct Register {
    entries: Vec<Entry>,
    /// Who takes over what a thread creates.
    collectors: Vec<(u64, ThreadId)>,
    last_id: u64,
}

static REGISTER: Mutex<Register> = Mutex::new(Register { entries: Vec::new(), collectors: Vec::new(), last_id: 0 });

impl Register {
    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

fn register() -> MutexGuard<'static, Register> {
    // The list is whole at every point where something could panic.
    REGISTER.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    /// Removes or empties the file, if the name still leads to it.
    fn clean_up(&self) {
        match std::fs::symlink_metadata(&self.path) {
            Ok(info) if (info.dev(), info.ino()) == self.identity => {}
            // Somebody has put another file in its place, or taken it away.
            _ => return,
        }
        // There is an error or a signal under way already; that the file could not be removed would only hide it.
        let _ = match self.before {
            Before::Nothing => std::fs::remove_file(&self.path),
            Before::File => OpenOptions::new().write(true).truncate(true).open(&self.path).map(drop),
            Before::Device => Ok(()),
        };
    }
}

/// Does for every [`UnfinishedFile`] of this process what dropping it would do. To be called right before the process
/// ends because of a signal.
pub fn remove_unfinished() {
    let entries = std::mem::take(&mut register().entries);
    for entry in entries {
        entry.clean_up();
    }
}

/// Makes sure that a half-made file does not stay behind looking like a good one.
///
/// Unless [`UnfinishedFile::keep`] is called, dropping it removes a file that this run created, and empties a file that
/// existed and was made anew (its old contents are lost in any case, but its owner, mode and links are not). It does
/// nothing to devices, nor before [`UnfinishedFile::armed`] or `FileStorage::create` has said that the file was
/// really changed. The same happens when a signal ends the process; see [`remove_unfinished`].
#[derive(Debug)]
#[must_use = "the file is removed when this is dropped"]
pub struct UnfinishedFile {
    path: PathBuf,
    pub(super) before: Before,
    /// Which entry of the register, once there is one.
    id: Option<u64>,
}

impl UnfinishedFile {
    /// Notes what `name` leads to now.
    pub fn before(name: &str) -> Self {
        let path = PathBuf::from(to_os(name));
        let before = match std::fs::metadata(&path) {
            Ok(info) if info.file_type().is_block_device() || info.file_type().is_char_device() => Before::Device,
            Ok(_) => Before::File,
            Err(_) => Before::Nothing,
        };
        UnfinishedFile { path, before, id: None }
    }

    /// From now on the file counts as being made: what the name leads to now is what will be removed.
    pub fn armed(mut self) -> Self {
        if let Ok(info) = std::fs::metadata(&self.path) {
            self.arm(&info);
        }
        self
    }

    /// From now on the file with this inode counts as being made.
    pub(super) fn arm(&mut self, info: &Metadata) {
        if self.id.is_some() || !info.is_file() {
            return;
        }
        // The file itself behind any links, wherever the working directory is later.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut register = register();
        let id = register.new_id();
        register.entries.push(Entry { id, path, before: self.before, identity: (info.dev(), info.ino()) });
        self.id = Some(id);
    }

    /// Takes the entry out of the register.
    fn take(&mut self) -> Option<Entry> {
        let id = self.id.take()?;
        let mut register = register();
        let at = register.entries.iter().position(|entry| entry.id == id)?;
        Some(register.entries.swap_remove(at))
    }

    /// The file is finished; from now on it is in the care of an [`UnfinishedFiles`] of this thread, if there is one.
    pub fn keep(mut self) {
        let Some(id) = self.id.take() else { return };
        let mut register = register();
        let Some(at) = register.entries.iter().position(|entry| entry.id == id) else { return };
        let thread = std::thread::current().id();
        match register.collectors.iter().rev().find(|(_, owner)| *owner == thread) {
            Some(&(collector, _)) => register.entries[at].id = collector,
            None => drop(register.entries.swap_remove(at)),
        }
    }
}

/// Takes over all files that this thread creates from now on, without a moment in which a signal could leave one behind:
/// those of an image are finished one by one, but the run that fills it is not. Dropping it does to them what
/// dropping each [`UnfinishedFile`] would.
#[derive(Debug)]
#[must_use = "the files are removed when this is dropped"]
pub struct UnfinishedFiles {
    id: u64,
}

impl UnfinishedFiles {
    /// From now on.
    pub fn collect() -> Self {
        let mut register = register();
        let id = register.new_id();
        register.collectors.push((id, std::thread::current().id()));
        UnfinishedFiles { id }
    }

    fn take(&self) -> Vec<Entry> {
        let mut register = register();
        register.collectors.retain(|(id, _)| *id != self.id);
        let (own, others) = std::mem::take(&mut register.entries).into_iter().partition(|entry| entry.id == self.id);
        register.entries = others;
        own
    }

    /// All of them are finished.
    pub fn keep(self) {
        self.take();
    }
}

impl Drop for UnfinishedFiles {
    fn drop(&mut self) {
        self.take().iter().for_each(Entry::clean_up);
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        if let Some(entry) = self.take() {
            entry.clean_up();
        }
    }
}
