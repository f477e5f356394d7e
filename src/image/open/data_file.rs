//! The external data file of an image that is being opened.

use std::sync::Arc;

use super::Opener;
use crate::error::{Error, Result};
use crate::format::OpenRequest;
use crate::image::Reference;
use crate::image::node::Child;
use crate::image::options::NodeOptions;
use crate::storage::{FileRole, Storage};

impl OpenRequest<'_> {
    /// Opens the external data file of the image that is being opened: the one the options name, or `recorded`, the name
    /// in the image. `expected` says whether the image has one. The result is `None` where it has none, and where only
    /// metadata will be looked at.
    pub fn open_data_file(&mut self, expected: bool, recorded: Option<&str>) -> Result<Option<Arc<dyn Storage>>> {
        let mut options = NodeOptions::new(std::mem::take(self.options));
        let result = self.data_file_child(expected, recorded, &mut options);
        options.take_child("data-file");
        options.remove("data-file");
        *self.options = options.into_map();
        match result? {
            Some(child) => {
                child.lock(FileRole::Data, self.flags)?;
                let storage = child.storage();
                *self.data_file = Some(child);
                Ok(Some(storage))
            }
            None => Ok(None),
        }
    }

    fn data_file_child(
        &self,
        expected: bool,
        recorded: Option<&str>,
        options: &mut NodeOptions,
    ) -> Result<Option<Child>> {
        if self.flags.no_io {
            return Ok(None);
        }
        match (expected, options.has_child("data-file")) {
            (false, false) => return Ok(None),
            (_, true) => {}
            (true, false) => {
                let name = recorded.ok_or_else(|| Error::invalid("'data-file' is required for this image"))?;
                self.context.policy.check(self.filename, Reference::DataFile(name), self.flags.created)?;
                // As in the reference, the name of a file and nothing else: no `json:` or protocol is read out of it.
                options.set("data-file.filename", name);
            }
        }
        let opener = Opener { context: self.context, nesting: self.nesting, again: false };
        let child = opener.child("data-file", None, options, self.flags)?;
        if !expected {
            return Err(Error::invalid("'data-file' can only be set for images with an external data file"));
        }
        Ok(Some(child))
    }
}
