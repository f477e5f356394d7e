//! How an image is opened, and what opening needs to know besides names.

use std::fmt;

use super::NodeNames;
use crate::crypto::Secrets;
use crate::error::Result;
use crate::storage::CacheMode;

/// Which files named inside an image may be opened. Every name that comes out of an image goes through here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpenPolicy {
    /// Everything an image refers to, as the reference does.
    #[default]
    Trusting,
}

/// A name that stands in an image and shall be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference<'a> {
    /// A backing file, by its name as it will be opened.
    Backing(&'a str),
    /// An external data file.
    DataFile(&'a str),
}

impl OpenPolicy {
    /// Whether the image called `image` may lead to this file.
    pub fn check(self, _image: &str, _reference: Reference<'_>) -> Result<()> {
        match self {
            OpenPolicy::Trusting => Ok(()),
        }
    }
}

/// How an image is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFlags {
    /// Open for writing.
    pub write: bool,
    /// Do not care who else uses the image (`-U`).
    pub share: bool,
    /// Nobody else may write to what is read (the sources of a conversion). Without it, others may write to disks
    /// without metadata: raw images and external data files.
    pub exclusive: bool,
    /// The cache mode.
    pub cache: CacheMode,
    /// Leave the backing file closed.
    pub no_backing: bool,
    /// Only metadata will be looked at: a missing key for the contents is no error.
    pub no_io: bool,
    /// This run has created the image: nothing is lost if it is unusable after a crash, so metadata may be written in any
    /// order.
    pub fresh: bool,
    /// The image will be checked: damage that a check finds is no reason not to open it, and opening repairs nothing.
    pub check: bool,
    /// Files are to be read and written by the kernel's own asynchronous requests. Here requests are made by threads all
    /// the same, but what the reference asks for in this case is asked for.
    pub native_aio: bool,
}

impl OpenFlags {
    /// Read-only with the default cache mode.
    pub const READ: OpenFlags = OpenFlags {
        write: false,
        share: false,
        exclusive: false,
        cache: CacheMode::WRITEBACK,
        no_backing: false,
        no_io: false,
        fresh: false,
        native_aio: false,
        check: false,
    };
    /// Read and write with the default cache mode.
    pub const WRITE: OpenFlags = OpenFlags { write: true, ..OpenFlags::READ };
    /// For looking at metadata, as `info` does: no guest data, no backing file.
    pub const INFO: OpenFlags = OpenFlags { no_io: true, no_backing: true, ..OpenFlags::READ };
}

/// Something a user should know although opening goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Printed behind the program's name and "warning:".
    Plain(String),
    /// Printed as it is, with its own heading.
    Headed(String),
}

/// Where warnings go; by default nowhere, as the library does not print.
#[derive(Clone, Copy)]
pub struct WarningSink(pub fn(&Warning));

impl Default for WarningSink {
    fn default() -> Self {
        WarningSink(|_| {})
    }
}

impl fmt::Debug for WarningSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WarningSink")
    }
}

/// What opening needs to know besides names: secrets, policy, and where warnings go.
#[derive(Debug, Default)]
pub struct OpenContext {
    /// The secrets given with `--object secret,...`.
    pub secrets: Secrets,
    /// Which referenced files may be opened.
    pub policy: OpenPolicy,
    /// Where warnings go.
    pub warnings: WarningSink,
    /// The names of open nodes.
    pub names: NodeNames,
}

impl OpenContext {
    /// Tells the user something.
    pub fn warn(&self, warning: &Warning) {
        (self.warnings.0)(warning);
    }
}
