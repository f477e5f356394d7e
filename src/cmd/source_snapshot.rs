//! `-l` of commands that read an image: which internal snapshot to read instead of the present state.

use crate::error::{Context, Error, Kind, Result};
use crate::image::Layer;

/// Which internal snapshot to read (`-l`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotChoice {
    /// An ID or a name.
    Any(String),
    /// `snapshot.id=,snapshot.name=`.
    Exact {
        /// The ID.
        id: Option<String>,
        /// The name.
        name: Option<String>,
    },
}

/// The value of `-l`.
pub fn parse_snapshot(text: &str) -> Result<SnapshotChoice> {
    if !text.starts_with("snapshot.") {
        return Ok(SnapshotChoice::Any(text.to_owned()));
    }
    let (mut id, mut name) = (None, None);
    for element in split_commas(text) {
        let (key, value) = element.split_once('=').unwrap_or((&element, "on"));
        match key {
            "snapshot.id" => id = Some(value.to_owned()),
            "snapshot.name" => name = Some(value.to_owned()),
            _ => {
                return Err(Error::invalid(format!("Invalid parameter '{key}'"))
                    .hint(format!("qemu-img: Failed in parsing snapshot param '{text}'")));
            }
        }
    }
    Ok(SnapshotChoice::Exact { id, name })
}

/// Splits at commas; `,,` is a comma inside a value.
fn split_commas(text: &str) -> Vec<String> {
    let mut elements = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.peek() != Some(&',') {
            elements.push(String::new());
            continue;
        }
        if c == ',' {
            chars.next();
        }
        if let Some(last) = elements.last_mut() {
            last.push(c);
        }
    }
    elements
}

impl SnapshotChoice {
    /// Makes an image that is open for reading show the snapshot.
    pub fn show(&self, layer: &dyn Layer) -> Result<()> {
        let failed = || "Failed to load snapshot";
        let Some(snapshots) = layer.snapshots() else {
            let text = format!(
                "Block format '{}' used by device '' does not support temporarily loading internal snapshots",
                layer.format()
            );
            return Err(Error::unsupported(text)).context(failed);
        };
        match self {
            SnapshotChoice::Any(text) => match snapshots.view(Some(text), None) {
                Err(error) if matches!(error.kind(), Kind::NotFound(_)) => snapshots.view(None, Some(text)),
                result => result,
            },
            SnapshotChoice::Exact { id, name } => snapshots.view(id.as_deref(), name.as_deref()),
        }
        .context(failed)
    }
}

#[cfg(test)]
#[path = "source_snapshot_tests.rs"]
mod tests;
