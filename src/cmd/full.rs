//! What to say when an image does not fit where it shall be.

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

/// What is needed to tell how large a new image would have become.
pub struct Wanted {
    pub format: &'static Format,
    pub filename: String,
    pub options: CreateOptions,
    pub size: u64,
}

/// What is to be in the new image.
#[derive(Clone, Copy)]
pub enum Contents<'a> {
    /// Nothing but what its options reserve.
    Empty,
    /// Every byte of the disk.
    Everything,
    /// What these images have.
    Of(&'a [Chain]),
}

impl Wanted {
    /// Adds to the error of a full disk how much the target needs, and how much room there is. By now the half-made target
    /// is gone.
    pub fn advise(&self, error: Error, contents: Contents<'_>, context: &OpenContext) -> Error {
        let needs = format!("'{}' needs up to", self.filename);
        advise(error, &self.filename, &needs, || self.needed(contents, context))
    }

    /// An upper bound; compressed clusters may take less.
    fn needed(&self, contents: Contents<'_>, context: &OpenContext) -> Option<u64> {
        let preallocated = self.options.get("preallocation").is_some_and(|mode| mode != "off");
        if !self.format.backing && (preallocated || matches!(contents, Contents::Everything)) {
            return Some(self.size);
        }
        let source = match contents {
            Contents::Of([]) => return None, // a stream, of which nothing is known any more
            Contents::Of(chains) if !self.format.backing => return data(chains),
            Contents::Of([source]) => Some(source),
            Contents::Of(_) => return None,
            Contents::Empty | Contents::Everything => None,
        };
        if self.options.data_file().is_some() {
            return None;
        }
        let measure = self.format.measure?;
        let measured = measure(MeasureRequest { size: self.size, options: &self.options, source, context }).ok()?;
        let all = matches!(contents, Contents::Everything) || (source.is_some() && preallocated);
        Some(if all { measured.fully_allocated } else { measured.required })
    }
}

/// Adds to the error of a full disk how much what is new of an image takes, and how much room there is. By now the image is
/// as it was.
pub fn advise_on_growth(error: Error, filename: &str, growth: u64) -> Error {
    advise(error, filename, &format!("What is new of '{filename}' takes"), || Some(growth))
}

/// As the functions above; `takes` begins the sentence.
fn advise(error: Error, filename: &str, takes: &str, needed: impl FnOnce() -> Option<u64>) -> Error {
    if error.errno() != libc::ENOSPC {
        return error;
    }
    match (needed(), room(filename)) {
        (Some(needed), Some(room)) if needed > room => {
            error.advise(format!("{takes} {}; there is room for {}.", amount(needed), amount(room)))
        }
        // Something else is full: a quota, or the table of inodes.
        _ => error,
    }
}

fn amount(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", human_size(bytes))
}

/// How much there is room for where `filename` is.
fn room(filename: &str) -> Option<u64> {
    let name = text::to_os(&plain_name(filename).ok()?);
    let path = Path::new(&name);
    if std::fs::metadata(path).is_ok_and(|info| info.file_type().is_block_device()) {
        return sys::device::len(File::open(path).ok()?.as_fd()).ok();
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sys::fs::free(folder).ok()
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
