//! File names: protocols in front of them, and names inside images, which are relative to the image that holds them.

use crate::error::{Error, Result};

/// The part before the colon of a name like `nbd://host` or `file:x`; `None` for plain paths, also those that have a
/// colon behind the first slash.
pub fn protocol_prefix(name: &str) -> Option<&str> {
    let end = name.find([':', '/'])?;
    name[end..].starts_with(':').then(|| &name[..end])
}

/// `name` without its prefix (`file:` or `host_device:`). What is left counts as a path even if it has a colon.
pub fn strip_protocol(name: &str, prefix: &str) -> String {
    let rest = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(':')).unwrap_or(name);
    match protocol_prefix(rest) {
        Some(_) if rest.len() < name.len() => format!("./{rest}"),
        _ => rest.to_owned(),
    }
}

/// `name` as seen from the directory that the file `base` is in.
pub fn relative_to(base: &str, name: &str) -> String {
    if name.starts_with('/') {
        return name.to_owned();
    }
    // The directory of "nbd://host/x" is behind the protocol, that of "x:y" is "x:".
    let start = protocol_prefix(base).map_or(0, |prefix| prefix.len() + 1);
    let end = base[start..].rfind('/').map_or(start, |slash| start + slash + 1);
    format!("{}{name}", &base[..end])
}

/// The name to open for a backing file called `backing` by the image called `image`.
///
/// `image` must be a file name; relative names cannot be resolved against a `json:` description.
pub fn resolve_backing(image: &str, backing: &str) -> Result<String> {
    if backing.is_empty() || protocol_prefix(backing).is_some() || backing.starts_with('/') {
        return Ok(backing.to_owned());
    }
    if image.is_empty() || image.starts_with("json:") {
        return Err(Error::invalid(format!("Cannot use relative backing file names for '{image}'")));
    }
    Ok(relative_to(image, backing))
}

#[cfg(test)]
#[path = "filename_tests.rs"]
mod tests;
