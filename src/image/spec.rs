//! How a user names an image: a file name, or a set of options (`--image-opts`, `json:`).

use serde_json::{Map, Value};

/// Run-time options of one node of an image: names and values. Nested nodes are nested objects
/// (`{"file": {"filename": "x"}}`), or keys with dots (`{"file.filename": "x"}`), or a mixture.
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
    Options {
        /// What was given, for messages.
        text: String,
        /// What it says.
        options: Options,
    },
}

impl ImageSpec {
    /// Whether a description says anything but `force-share=on` about sharing.
    pub(super) fn forbids_sharing(&self) -> bool {
        match self {
            ImageSpec::Name { .. } => false,
            ImageSpec::Options { options, .. } => {
                options.get("force-share").is_some_and(|value| value.as_str() != Some("on"))
            }
        }
    }

    /// A file name with an optional format.
    pub fn name(filename: impl Into<String>, format: Option<&str>) -> Self {
        ImageSpec::Name { filename: filename.into(), format: format.map(str::to_owned) }
    }

    /// A description by options; `text` is what the user wrote.
    pub fn options(text: impl Into<String>, options: Options) -> Self {
        ImageSpec::Options { text: text.into(), options }
    }

    /// What the user wrote, as messages show it.
    pub fn text(&self) -> &str {
        match self {
            ImageSpec::Name { filename, .. } => filename,
            ImageSpec::Options { text, .. } => text,
        }
    }
}
