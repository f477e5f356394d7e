//! Space that is taken before anything is written.

use super::{Storage, ZeroMode};
use crate::error::{Context, Error, Result};

/// How much of an image, of a new part of it, or of a file is there before anything is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// Every cluster has its place, without space being taken for it. There is no such thing for a plain file.
    Metadata,
    /// Space is reserved.
    Falloc,
    /// Space is written with zeros.
    Full,
}

impl Preallocation {
    /// The mode of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Preallocation::Off, Preallocation::Metadata, Preallocation::Falloc, Preallocation::Full];
        all.into_iter().find(|mode| mode.name() == name)
    }

    /// Its name in options and messages.
    pub fn name(self) -> &'static str {
        match self {
            Preallocation::Off => "off",
            Preallocation::Metadata => "metadata",
            Preallocation::Falloc => "falloc",
            Preallocation::Full => "full",
        }
    }

    /// Whether the file system is asked for space.
    pub fn takes_space(self) -> bool {
        matches!(self, Preallocation::Falloc | Preallocation::Full)
    }

    /// Refuses to take the space of a device in advance.
    pub fn check(self, storage: &dyn Storage) -> Result<()> {
        if self.takes_space() && storage.limits().fixed_len { Err(self.not_for_devices()) } else { Ok(()) }
    }

    /// The error of a device that cannot be resized in this mode.
    pub fn not_for_devices(self) -> Error {
        let name = self.name();
        Error::unsupported(format!("Preallocation mode '{name}' unsupported for this non-regular file"))
    }

    /// Takes the space of a range, which reads as zeros then; nothing where the mode takes none.
    pub fn take(self, storage: &dyn Storage, offset: u64, len: u64) -> Result<()> {
        let (mode, what) = match self {
            Preallocation::Off | Preallocation::Metadata => return Ok(()),
            Preallocation::Falloc => (ZeroMode::Allocate, "Could not preallocate new data"),
            Preallocation::Full => (ZeroMode::Write, "Could not write zeros for preallocation"),
        };
        storage.zero(offset, len, mode).context(|| what)
    }
}
