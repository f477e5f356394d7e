//! How an image is opened, and what opening needs to know besides names.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::NodeNames;
use crate::crypto::Secrets;
use crate::error::{Error, Result};
use crate::storage::{CacheMode, Permissions};

/// How far an image is believed. Every name that comes out of an image goes through [`OpenPolicy::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenPolicy {
    /// Whether the files that an image names are opened.
    pub references: bool,
    /// Whether the first bytes of a file decide about its format where nobody says it. Otherwise they can only tell a raw
    /// image that is read, which is taken as it is.
    pub probing: bool,
    /// How large its structures may be.
    pub limits: ImageLimits,
}

/// Limits on what an image may ask for. Formats have limits of their own, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Bytes of the active L1 table.
    pub l1_bytes: u64,
    /// Bytes of the refcount table.
    pub refcount_table_bytes: u64,
    /// Number of internal snapshots.
    pub snapshots: u64,
    /// Number of persistent bitmaps.
    pub bitmaps: u64,
    /// Rounds of key derivation, those of all key slots in use together.
    pub key_rounds: u64,
}

impl OpenPolicy {
    /// Everything that an image says is believed, as the reference does.
    pub const TRUSTING: OpenPolicy = OpenPolicy { references: true, probing: true, limits: ImageLimits::FORMAT };
    /// For images from strangers (`--untrusted`).
    pub const UNTRUSTED: OpenPolicy = OpenPolicy { references: false, probing: false, limits: ImageLimits::TIGHT };
}

impl Default for OpenPolicy {
    fn default() -> Self {
        OpenPolicy::TRUSTING
    }
}

impl ImageLimits {
    /// None besides those of the format.
    pub const FORMAT: ImageLimits = ImageLimits {
        l1_bytes: u64::MAX,
        refcount_table_bytes: u64::MAX,
        snapshots: u64::MAX,
        bitmaps: u64::MAX,
        key_rounds: u64::MAX,
    };
    /// Enough for a disk of 256 TiB in clusters of 64 KiB, for whatever people do with snapshots and bitmaps, and for eight
    /// key slots of two seconds each.
    pub const TIGHT: ImageLimits = ImageLimits {
        l1_bytes: 4 << 20,
        refcount_table_bytes: 1 << 20,
        snapshots: 1024,
        bitmaps: 256,
        key_rounds: 1 << 26,
    };

    /// Checks something an image has so much of against its limit; `what` says what it is.
    pub fn check(what: &str, has: u64, limit: u64) -> Result<()> {
        if has <= limit {
            return Ok(());
        }
        Err(Error::unsupported(format!("{what}: {has}, but no more than {limit} with --untrusted")))
    }
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
    /// Whether the image called `image` may lead to this file. `created` says that this run has made the image (see
    /// [`OpenFlags::created`]).
    pub fn check(&self, image: &str, reference: Reference<'_>, created: bool) -> Result<()> {
        let (what, name) = match reference {
            _ if self.references || created => return Ok(()),
            Reference::Backing(name) => ("backing file", name),
            Reference::DataFile(name) => ("data file", name),
        };
        Err(Error::unsupported(format!("The image '{image}' refers to the {what} '{name}', which is not opened"))
            .hint("With --untrusted, nothing but the files named on the command line is opened."))
    }

    /// Whether an image whose format nobody has said may be opened as `format`, which its first bytes announce. With
    /// `metadata`, it will only be described.
    pub fn check_probed(&self, image: &str, format: &str, write: bool, metadata: bool) -> Result<()> {
        let raw = format == "raw";
        if self.probing || (!write && (raw || metadata)) {
            return Ok(());
        }
        let found = if raw { "are those of no other format than raw" } else { "look like those of another format" };
        let text = format!("The format of '{image}' has to be named (-f): that its first bytes {found} proves nothing");
        Err(Error::invalid(text).hint(match raw {
            true => "With --untrusted, no format is guessed for writing. Give '-f raw' if it is a raw disk.".to_owned(),
            false => format!(
                "With --untrusted, no format is guessed. Give '-f {format}' if it is to be read as {format}, '-f raw' \
                 if these bytes are part of the disk."
            ),
        }))
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
    /// The size will be changed: that is told to others, for raw images too, whose size otherwise nobody minds.
    pub resize: bool,
    /// Nobody else may change the size meanwhile, not even of raw images.
    pub keep_size: bool,
    /// What is used and refused besides, because options say so.
    pub more: Permissions,
    /// The cache mode.
    pub cache: CacheMode,
    /// Leave the backing file closed.
    pub no_backing: bool,
    /// Only metadata will be looked at: a missing key for the contents is no error.
    pub no_io: bool,
    /// This run has created the image: the files that it names are those that the user has named.
    pub created: bool,
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
        resize: false,
        keep_size: false,
        more: Permissions::NONE,
        cache: CacheMode::WRITEBACK,
        no_backing: false,
        no_io: false,
        created: false,
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
    /// How long an image that somebody else holds is waited for (`--lock-timeout`), in each opening of a chain or
    /// creation of a file anew.
    pub lock_timeout: Duration,
    /// What was said since the present opening began; trying again says nothing twice.
    pub(crate) said: Mutex<Option<Vec<Warning>>>,
}

impl OpenContext {
    /// Tells the user something.
    pub fn warn(&self, warning: &Warning) {
        if let Some(said) = &mut *self.said.lock().unwrap_or_else(PoisonError::into_inner) {
            if said.contains(warning) {
                return;
            }
            said.push(warning.clone());
        }
        (self.warnings.0)(warning);
    }

    /// From now on no warning is given twice, or is again.
    pub(super) fn remember_warnings(&self, remember: bool) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = remember.then(Vec::new);
    }
}
