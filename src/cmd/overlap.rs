//! A target that is also read from would be destroyed while it is needed. Locks see to that in most cases; here are those
//! in which no lock is held: sources opened with `-U`, and backing files of the target, which are opened only after it
//! has been created.

use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};
use crate::image::{Chain, file_identity, plain_name};
use crate::storage::DEVICE_NOT_OPENED;
use crate::text::to_os;

fn locked(what: &str, name: &str) -> Error {
    let text = format!("Failed to get {what} lock");
    Error::new(Kind::Locked { text, byte: None }).hint(format!("Is another process using the image [{name}]?"))
}

/// The file `name` must not be one that a source, or a backing file of a source, lies in.
pub fn check_sources(name: &str, sources: &[Chain]) -> Result<()> {
    let Some(own) = file_identity(name) else { return Ok(()) };
    let mut files = sources.iter().flat_map(Chain::nodes).flat_map(|node| node.files());
    if files.any(|(_, identity)| identity == own) { Err(locked("\"write\"", name)) } else { Ok(()) }
}

/// As [`check_sources`], for a file that is to be created.
pub fn check_new(name: &str, sources: &[Chain]) -> Result<()> {
    let checked = check_sources(name, sources);
    if is_device(name) { checked.context(|| DEVICE_NOT_OPENED) } else { checked }
}

fn is_device(name: &str) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(to_os(name)).is_ok_and(|info| info.file_type().is_block_device())
}

/// The file `place` of the new image `target` must not be one that its backing files lie in.
pub fn check_backing(target: &str, place: &str, backing: Option<&Chain>) -> Result<()> {
    let (Some(own), Some(backing)) = (file_identity(&plain_name(place)?), backing) else { return Ok(()) };
    for (depth, node) in backing.nodes().iter().enumerate() {
        for (name, identity) in node.files() {
            if identity == own {
                let mut error = locked("shared \"write\"", name);
                for _ in 0..=depth {
                    error = error.context("Could not open backing file");
                }
                return Err(error).context(|| format!("Could not open '{target}'"));
            }
        }
    }
    Ok(())
}

/// The data file of a new image must not be the image itself.
pub fn check_data_file(target: &str, data_file: Option<&str>) -> Result<()> {
    let Some(data_file) = data_file else { return Ok(()) };
    let (target, data_file) = (plain_name(target)?, plain_name(data_file)?);
    let same_file = file_identity(&target).is_some_and(|own| file_identity(&data_file) == Some(own));
    if same_file || place(&target) == place(&data_file) {
        return Err(locked("shared \"resize\"", &data_file));
    }
    Ok(())
}

/// The name by which a file that may not exist is comparable.
fn place(name: &str) -> PathBuf {
    let path = PathBuf::from(to_os(name));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (std::fs::canonicalize(folder), path.file_name()) {
        (Ok(folder), Some(file)) => folder.join(file),
        _ => path,
    }
}
