//! What to say when the target does not fit where it shall be.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::copy::{Source, Status};
use crate::error::Error;
use crate::format::{CreateOptions, Format, MeasureRequest};
use crate::image::{Chain, OpenContext, plain_name};
use crate::sys;
use crate::text;
use crate::units::human_size;

/// What is needed to tell how large the target would have become.
pub struct Wanted {
    pub format: &'static Format,
    pub filename: String,
    pub options: CreateOptions,
    pub size: u64,
}

impl Wanted {
    /// Adds to the error of a full disk how much the target needs, and how much room there is. By now the half-made target
    /// is gone.
    pub fn advise(&self, error: Error, chains: &[Chain], context: &OpenContext) -> Error {
        if error.errno() != libc::ENOSPC {
            return error;
        }
        let (Some(needed), Some(room)) = (self.needed(chains, context), self.room()) else { return error };
        let target = &self.filename;
        let amount = |bytes: u64| format!("{} ({bytes} bytes)", human_size(bytes));
        error.advise(format!("'{target}' needs up to {}; there is room for {}.", amount(needed), amount(room)))
    }

    /// An upper bound; compressed clusters may take less.
    fn needed(&self, chains: &[Chain], context: &OpenContext) -> Option<u64> {
        if chains.is_empty() {
            return None; // a stream, of which nothing is known any more
        }
        let preallocated = self.options.get("preallocation").is_some_and(|mode| mode != "off");
        if !self.format.backing && !preallocated {
            return data(chains);
        }
        let [source] = chains else { return None };
        if self.options.get("data_file").is_some_and(|name| !name.is_empty()) {
            return None;
        }
        let measure = self.format.measure?;
        let request = MeasureRequest { size: self.size, options: &self.options, source: Some(source), context };
        let measured = measure(request).ok()?;
        Some(if preallocated { measured.fully_allocated } else { measured.required })
    }

    /// How much there is room for.
    fn room(&self) -> Option<u64> {
        let name = text::to_os(&plain_name(&self.filename).ok()?);
        let path = Path::new(&name);
        if std::fs::metadata(path).is_ok_and(|info| info.file_type().is_block_device()) {
            return sys::device::len(File::open(path).ok()?.as_fd()).ok();
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sys::fs::free(folder).ok()
    }
}

/// How many bytes of the sources are data.
fn data(chains: &[Chain]) -> Option<u64> {
    let source = Source::new(chains, false);
    let (mut at, mut sum) = (0, 0);
    while at < source.size() {
        let found = source.map(at, source.size() - at).ok()?;
        if matches!(found.status, Status::Data(_) | Status::Unknown) {
            sum += found.len;
        }
        at += found.len;
    }
    Some(sum)
}
