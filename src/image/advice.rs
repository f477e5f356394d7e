//! What to do next when an image cannot be opened.

use std::path::absolute;

use super::probe::{PROBE_LEN, probe};
use super::protocol_prefix;
use crate::error::Error;
use crate::format::Format;
use crate::storage::Storage;
use crate::text;

/// Where something was looked for, from the root of the file system on. `None` where `name` is not simply that of a file.
fn full_name(name: &str) -> Option<String> {
    if protocol_prefix(name).is_some() {
        return None;
    }
    Some(text::from_os(absolute(text::to_os(name)).ok()?.as_os_str()))
}

fn is_missing(error: &Error) -> bool {
    error.errno() == libc::ENOENT
}

/// What to do when the backing file that stands in the image called `image` as `recorded` could not be opened at `place`.
pub fn backing(error: Error, image: &str, recorded: &str, place: &str) -> Error {
    match full_name(place).filter(|_| is_missing(&error)) {
        Some(full) => error.advise(format!(
            "'{image}' has the backing file '{recorded}', which was looked for at '{full}'. If it is somewhere else now, \
             'qemu-img rebase -u -b FILE -F FORMAT' writes its new name into the image."
        )),
        None => error,
    }
}

/// The backing file that the image called `image` shall have by the name `backing` could not be opened at `place`.
pub(super) fn new_backing(error: Error, image: &str, backing: &str, place: &str) -> Error {
    match full_name(place).filter(|full| is_missing(&error) && full != backing) {
        Some(full) if place == backing => error.advise(format!("'{backing}' was looked for at '{full}'.")),
        Some(full) => error.advise(format!(
            "'{backing}' was looked for at '{full}': names of backing files are relative to the folder of the image that \
             has them, here '{image}'."
        )),
        None => error,
    }
}

/// An image that was called `format` could not be opened as that.
pub(super) fn format(error: Error, format: &Format, file: &dyn Storage, filename: &str) -> Error {
    let mut head = [0; PROBE_LEN];
    let Ok(len) = file.len() else { return error };
    let head = &mut head[..len.min(PROBE_LEN as u64) as usize];
    if file.read_at(head, 0).is_err() || (format.probe)(head) > 0 {
        return error;
    }
    let wrong = format.name;
    match probe(head, filename) {
        Ok(found) if found.name == "raw" => error.advise(format!(
            "'{filename}' does not begin like an image in {wrong} format, nor in any other. If it is a raw disk, its \
             format is 'raw'."
        )),
        Ok(found) => {
            error.advise(format!("'{filename}' begins like an image in {} format, not in {wrong} format.", found.name))
        }
        Err(foreign) => error.advise(format!("'{filename}' begins like an image in another format. {foreign}.")),
    }
}
