//! The image formats, one file or folder each, and the table of them.
//!
//! A new format is a module here that fills in a [`Format`], and one line in [`FORMATS`].

pub mod protocol;
pub mod qcow2;
pub mod raw;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::image::{Chain, Child, CompressionLevel, Layer, OpenContext, OpenFlags, Options, StreamImage};
use crate::storage::{OutputStream, Storage};

/// The type of a creation option, which decides how its value is read and what `-o help` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionType {
    /// Anything.
    Str,
    /// `on` or `off`.
    Bool,
    /// A number.
    Num,
    /// A number with an optional size suffix.
    Size,
}

/// One creation option (`-o name=value`).
#[derive(Clone, Copy, Debug)]
pub struct OptionDesc {
    /// The name, with dots for nested options.
    pub name: &'static str,
    /// Its type.
    pub kind: OptionType,
    /// What `-o help` says about it.
    pub help: &'static str,
    /// The value it has when it is not given, where `create` shows that.
    pub default: Option<&'static str>,
}

impl OptionDesc {
    /// An option without a default that is shown.
    pub const fn new(name: &'static str, kind: OptionType, help: &'static str) -> OptionDesc {
        OptionDesc { name, kind, help, default: None }
    }

    /// The same with a default that is shown.
    pub const fn or(self, default: &'static str) -> OptionDesc {
        OptionDesc { default: Some(default), ..self }
    }
}

/// A request to open an image whose file is already open.
pub struct OpenRequest<'a> {
    /// The opened image file.
    pub storage: Arc<dyn Storage>,
    /// The name, for messages and for resolving relative names inside the image.
    pub filename: &'a str,
    /// Run-time options of this node (`encrypt.key-secret`, ...) without `driver`, `file` and `backing`, flat, with dots
    /// in their names. Formats take out what they know; the table in `image::runtime` has those that need no more than a
    /// check; what is left over is an error.
    pub options: &'a mut Options,
    /// How it is opened.
    pub flags: OpenFlags,
    /// Whether the format was guessed from the contents rather than named.
    pub probed: bool,
    /// Secrets and policy.
    pub context: &'a OpenContext,
    /// Where [`OpenRequest::open_data_file`] leaves what it opened, for `info`.
    pub(crate) data_file: &'a mut Option<Child>,
    /// How deep this image lies inside other images.
    pub(crate) nesting: usize,
}

/// A request to create an image.
pub struct CreateRequest<'a> {
    /// The name of the file to create.
    pub filename: &'a str,
    /// The virtual size in bytes.
    pub size: u64,
    /// Creation options in the reference's names, without `size`; switches are `on` or `off`, numbers and sizes plain
    /// decimal numbers; `backing_file` and `backing_fmt`
    /// have been checked and resolved by the caller but are still in there.
    pub options: &'a CreateOptions,
    /// Secrets and policy.
    pub context: &'a OpenContext,
    /// It is not flushed: a target that is about to be filled in a cache mode without flushes gains nothing by waiting for
    /// the disk.
    pub no_flush: bool,
}

/// Creates an image; removes what it made when it fails.
pub type CreateFn = fn(CreateRequest<'_>) -> Result<()>;

/// A request for a new image that is written as a stream.
pub struct StreamRequest<'a> {
    /// The virtual size in bytes; 0 where the source is a stream itself, which not every format can take.
    pub size: u64,
    /// Creation options as in [`CreateRequest`].
    pub options: &'a CreateOptions,
    /// Secrets.
    pub context: &'a OpenContext,
    /// Where it goes.
    pub out: OutputStream,
}

/// Begins an image that is written as a stream; nothing is written yet.
pub type StreamFn = fn(StreamRequest<'_>) -> Result<Box<dyn StreamImage>>;

/// Creation options: names and values in the order they were given, the last of equal names counts.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions(pub Vec<(String, String)>);

impl CreateOptions {
    /// The value of an option.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The name of the external data file, if there is to be one.
    pub fn data_file(&self) -> Option<&str> {
        self.get("data_file").filter(|name| !name.is_empty())
    }

    /// Sets an option, in place of an earlier value.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.retain(|(key, _)| key != name);
        self.0.push((name.to_owned(), value.into()));
    }
}

/// A question about the file of an image that does not exist.
pub struct MeasureRequest<'a> {
    /// The virtual size in bytes; where there is a source, that has a size of its own.
    pub size: u64,
    /// Creation options as in [`CreateRequest`].
    pub options: &'a CreateOptions,
    /// The image that would be converted.
    pub source: Option<&'a Chain>,
    /// Secrets.
    pub context: &'a OpenContext,
}

/// How large the file of a new image would be, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// With the data that there is.
    pub required: u64,
    /// With data everywhere.
    pub fully_allocated: u64,
    /// What the bitmaps of the source would take beyond that; `None` where they cannot be copied.
    pub bitmaps: Option<u64>,
}

/// A format: what it is called and what it can do.
#[derive(Debug)]
pub struct Format {
    /// The name used with `-f` and `-O`.
    pub name: &'static str,
    /// How sure it is that a file starting with these bytes is of this format: 0 not at all, 100 certain.
    pub probe: fn(head: &[u8]) -> u32,
    /// The creation options. Those of what lies below the format are in [`protocol`].
    pub create_options: &'static [OptionDesc],
    /// The options of an existing image that can be changed; none where the format has no such thing.
    pub amend_options: &'static [OptionDesc],
    /// Opens an image.
    pub open: fn(OpenRequest<'_>) -> Result<Box<dyn Layer>>,
    /// Creates an image; removes what it made when it fails.
    pub create: Option<CreateFn>,
    /// Begins an image that is written as a stream; `None` where that is not possible.
    pub stream: Option<StreamFn>,
    /// Computes how large the file of a new image would be.
    pub measure: Option<fn(MeasureRequest<'_>) -> Result<Measured>>,
    /// Whether images of this format can have a backing file.
    pub backing: bool,
    /// Checks a level of compression for a new image with these options; `None` where compressed clusters cannot be written.
    pub compression: Option<fn(&CreateOptions, CompressionLevel) -> Result<()>>,
}

/// All formats. Raw is last: it takes whatever no other format claims.
pub static FORMATS: &[&Format] = &[&qcow2::FORMAT, &raw::FORMAT];

/// The format of that name.
pub fn find(name: &str) -> Option<&'static Format> {
    FORMATS.iter().copied().find(|format| format.name == name)
}

impl Format {
    /// How images of this format are created; an error where they are not.
    pub fn creation(&self) -> Result<CreateFn> {
        self.create.ok_or_else(|| no_creation(self.name))
    }
}

/// The error where images of a format cannot be created.
pub fn no_creation(name: &str) -> Error {
    Error::unsupported(format!("Format driver '{name}' does not support image creation"))
}
