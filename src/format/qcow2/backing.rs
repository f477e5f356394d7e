//! Naming another backing file in the header.

use super::Qcow2;
use super::header::{BACKING_NAME_MAX, Header};
use crate::error::{Error, Result};
use crate::image::BackingRef;
use crate::text::to_bytes;

impl Qcow2 {
    /// The header with another backing file. Fails where that is not possible, or there is no room for the name.
    pub(super) fn renamed_header(&self, backing: Option<&BackingRef>) -> Result<Header> {
        let mut meta = self.meta();
        meta.writer()?;
        let mut header = meta.header.clone();
        drop(meta);
        if header.data_file_raw() && backing.is_some() {
            return Err(Error::os(libc::EINVAL));
        }
        let name = backing.map(|backing| to_bytes(&backing.filename));
        if name.as_ref().is_some_and(|name| name.len() as u64 > BACKING_NAME_MAX) {
            return Err(Error::os(libc::EINVAL));
        }
        header.backing_file = name.filter(|name| !name.is_empty());
        header.backing_format = backing.and_then(|backing| backing.format.as_deref()).map(to_bytes);
        header.to_bytes()?;
        Ok(header)
    }

    /// See [`crate::image::Layer::set_backing`]. Header, format and name are written by one request: they are within one
    /// cluster, and in almost every image within its first 4 KiB.
    pub(super) fn rename_backing(&self, backing: Option<&BackingRef>) -> Result<()> {
        let renamed = self.renamed_header(backing)?;
        let mut meta = self.meta();
        // The image is complete on disk before it lies on something else.
        meta.flush()?;
        let before = std::mem::replace(&mut meta.header.backing_file, renamed.backing_file);
        let format_before = std::mem::replace(&mut meta.header.backing_format, renamed.backing_format);
        meta.writer()?.header_changed();
        let result = meta.flush();
        if result.is_err() {
            meta.header.backing_file = before;
            meta.header.backing_format = format_before;
        }
        result
    }
}

#[cfg(test)]
#[path = "backing_tests.rs"]
mod tests;
