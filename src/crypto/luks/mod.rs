//! LUKS version 1: opening, creating and describing, wherever the header lies.
//!
//! The reader of a header sees it through a [`HeaderWindow`], because qcow2 keeps the header in a region of its own while
//! the plain format starts with it. Both have the payload encrypted by sectors counted from the start of the payload
//! area, which for qcow2 is the start of the file (sectors are host sectors).

mod amend;
mod create;
mod header;
mod info;
mod open;

use crate::error::{Context, Error, Result};
use crate::storage::Storage;

pub use amend::{KeyChange, KeySlots};
pub use create::{Choices, CreateOptions, NewLuks};
pub use info::{LuksInfo, LuksSlot};
pub use open::{Luks, open};

/// The part of a storage in which a header and its key material lie.
#[derive(Clone, Copy, Debug)]
pub struct HeaderWindow<'a> {
    /// The storage.
    pub storage: &'a dyn Storage,
    /// Where the header starts, in bytes.
    pub offset: u64,
    /// How far reading may go, in bytes.
    pub len: u64,
}

impl HeaderWindow<'_> {
    fn read(&self, buf: &mut [u8], at: u64) -> Result<()> {
        let end = at.checked_add(buf.len() as u64).filter(|&end| end <= self.len);
        // The last byte must have an offset, too.
        if end.and_then(|end| self.offset.checked_add(end)).is_none() {
            return Err(Error::corrupt("Request for data outside of extension header"));
        }
        self.storage.read_at(buf, self.offset + at).context(|| "Could not read encryption header")
    }
}

/// Whether these first bytes of a file are those of a LUKS1 volume.
pub fn is_luks(head: &[u8]) -> bool {
    head.len() >= 8 && head[..6] == header::MAGIC && head[6..8] == [0, 1]
}

#[cfg(test)]
mod tests;
