//! How a user names an image: a file name, or a set of options (`--image-opts`, `json:`).

use serde_json::{Map, Value};

/// Run-time options of one node of an image: names and values, with nested nodes as nested objects
/// (`file.filename=x` is `{"file": {"filename": "x"}}`).
pub type Options = Map<String, Value>;

/// What a user said to name an image.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageSpec {
    /// A file name (possibly `json:{...}` or `file:...`), with the format if one was given.
    Name {
        /// The name as it was given.
        filename: String,
        /// The value of `-f`.
        format: Option<String>,
    },
    /// A complete description (`--image-opts`).
    Options(Options),
}

impl ImageSpec {
    /// A file name with an optional format.
    pub fn name(filename: impl Into<String>, format: Option<&str>) -> Self {
        ImageSpec::Name { filename: filename.into(), format: format.map(str::to_owned) }
    }
}
