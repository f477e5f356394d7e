//! The one error type of the library: what went wrong, what was being done, and what to do about it.
//!
//! An [`Error`] is a [`Kind`] (the cause) below a stack of contexts ("Could not open 'a.qcow2'"), printed outermost
//! first and joined by `": "`, which is the shape clients of the reference match. Hints are further lines printed
//! after the message, as the reference prints them; advice is what only this program says, below everything else.

use std::borrow::Cow;
use std::fmt;
use std::io;

use crate::sys::errno;
use crate::sys::holders::LockedByte;

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause of an error, without the circumstances.
#[derive(Debug, thiserror::Error)]
pub enum Kind {
    /// The operating system refused an operation.
    #[error("{}", os_text(.0))]
    Io(#[from] io::Error),
    /// A system error in better words.
    #[error("{text}")]
    Described {
        /// The system's error number.
        errno: i32,
        /// What to tell the user.
        text: String,
    },
    /// The image contradicts its own specification; reading on would return wrong bytes.
    #[error("{0}")]
    Corrupt(String),
    /// The image or the request needs something this program (or the format) does not have.
    #[error("{0}")]
    Unsupported(String),
    /// An argument, option or name does not make sense.
    #[error("{0}")]
    Invalid(String),
    /// The command line is not of the form the command takes.
    #[error("{0}")]
    Usage(String),
    /// Something that was named does not exist (a snapshot, a secret, a bitmap).
    #[error("{0}")]
    NotFound(String),
    /// Somebody else holds the image.
    #[error("{text}")]
    Locked {
        /// Which permission is missing.
        text: String,
        /// The byte whose lock is in the way, for finding out who holds it.
        byte: Option<LockedByte>,
    },
    /// A signal asked this run to end; the number is the signal's.
    #[error("Interrupted by signal {0}")]
    Interrupted(i32),
}

/// A line below the message that only this program has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advice {
    /// What to do next, or what was found: a sentence.
    Sentence(String),
    /// Which request of a file failed, and why.
    Request {
        /// A sentence without its full stop.
        failed: String,
        /// The text of the error number.
        cause: String,
    },
}

impl Advice {
    /// The line for below `message`. A cause that is in there is not told again: programs count the lines that have it.
    pub fn below(&self, message: &str) -> String {
        match self {
            Advice::Sentence(text) => text.clone(),
            Advice::Request { failed, cause } if message.contains(cause) => format!("{failed}."),
            Advice::Request { failed, cause } => format!("{failed}: {cause}."),
        }
    }
}

/// How the notice of a fatal corruption begins.
const MARKING: &str = "qcow2: Marking image as corrupt: ";
/// How it ends.
const MARKED: &str = "; further corruption events will be suppressed";

/// The notice of a corruption that is not fatal.
fn event_notice(text: impl fmt::Display) -> String {
    format!("qcow2: Image is corrupt: {text}; further non-fatal corruption events will be suppressed")
}

/// An error with its circumstances. See the module documentation.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    context: Vec<Cow<'static, str>>,
    hints: Vec<String>,
    advice: Vec<Advice>,
    notices: Vec<String>,
}

impl Error {
    /// Wraps a cause that has no circumstances yet.
    pub fn new(kind: Kind) -> Self {
        Error(Box::new(Inner { kind, context: Vec::new(), hints: Vec::new(), advice: Vec::new(), notices: Vec::new() }))
    }

    /// The image contradicts its specification.
    pub fn corrupt(text: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt(text.into()))
    }

    /// Something neither this program nor the format can do.
    pub fn unsupported(text: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported(text.into()))
    }

    /// An argument that does not make sense.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::new(Kind::Invalid(text.into()))
    }

    /// A named thing that does not exist.
    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(Kind::NotFound(text.into()))
    }

    /// An `errno` value as an I/O error.
    pub fn os(errno: i32) -> Self {
        Self::new(Kind::Io(io::Error::from_raw_os_error(errno)))
    }

    /// Adds the circumstance one level out: it is printed before everything added so far.
    #[must_use]
    pub fn context(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.0.context.push(text.into());
        self
    }

    /// Puts other words for the circumstances that `change` has any for.
    #[must_use]
    pub fn reword(mut self, change: impl Fn(&str) -> Option<&'static str>) -> Self {
        for context in &mut self.0.context {
            if let Some(text) = change(context) {
                *context = text.into();
            }
        }
        self
    }

    /// The cause alone, without the circumstances.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.0.context.clear();
        self
    }

    /// Adds a further line of help, printed below the message.
    #[must_use]
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.0.hints.push(text.into());
        self
    }

    /// Adds a sentence, if there is one, that says what to do next, which the reference does not have. It is printed below
    /// everything else.
    #[must_use]
    pub fn advise(self, text: impl Into<Option<String>>) -> Self {
        self.advise_all(text.into().map(Advice::Sentence))
    }

    /// Adds which request failed with this error: a sentence without its full stop.
    #[must_use]
    pub fn request(self, failed: String) -> Self {
        let cause = self.errno_text();
        self.advise_all([Advice::Request { failed, cause }])
    }

    /// Adds advice that was made elsewhere.
    #[must_use]
    pub fn advise_all(mut self, advice: impl IntoIterator<Item = Advice>) -> Self {
        self.0.advice.extend(advice);
        self
    }

    /// Takes over the advice of the error that led to this one.
    #[must_use]
    pub fn caused_by(self, cause: &Error) -> Self {
        self.advise_all(cause.advice().iter().cloned())
    }

    /// The number of the system alone, as the reference passes errors on; the advice stays.
    #[must_use]
    pub fn number(&self) -> Self {
        Self::os(self.errno()).caused_by(self)
    }

    /// An operating system error that is better described by other words; the `errno` stays.
    #[must_use]
    pub fn replace(mut self, text: impl Into<String>) -> Self {
        let errno = self.errno();
        self.0.kind = Kind::Described { errno, text: text.into() };
        self
    }

    /// An image was found to contradict itself while it was in use. The event is announced by a notice of its own, and
    /// the operation fails with an I/O error, as in the reference.
    pub fn corruption_event(text: impl fmt::Display) -> Self {
        let mut error = Self::os(libc::EIO);
        error.0.notices.push(event_notice(text));
        error
    }

    /// An image that is being written contradicts itself, so that it has to be marked as corrupt. Announced and reported
    /// as [`Error::corruption_event`].
    pub fn fatal_corruption(text: impl fmt::Display) -> Self {
        let mut error = Self::os(libc::EIO);
        error.0.notices.push(format!("{MARKING}{text}{MARKED}"));
        error
    }

    /// What is a [`Error::fatal_corruption`] to a writer is only a [`Error::corruption_event`] to a reader, who marks
    /// nothing.
    #[must_use]
    pub fn for_reader(mut self) -> Self {
        for notice in &mut self.0.notices {
            if let Some(text) = notice.strip_prefix(MARKING).and_then(|text| text.strip_suffix(MARKED)) {
                *notice = event_notice(text);
            }
        }
        self
    }

    /// Whether this began as [`Error::fatal_corruption`].
    pub fn is_fatal_corruption(&self) -> bool {
        self.0.notices.iter().any(|notice| notice.starts_with(MARKING))
    }

    /// Adds a line to be printed as it is before the message.
    #[must_use]
    pub fn notice(mut self, text: impl Into<String>) -> Self {
        self.0.notices.push(text.into());
        self
    }

    /// Lines to be printed as they are before the message.
    pub fn notices(&self) -> &[String] {
        &self.0.notices
    }

    /// The cause.
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// The lines of help, in the order they were added.
    pub fn hints(&self) -> &[String] {
        &self.0.hints
    }

    /// What [`Error::advise`] and [`Error::request`] added, in that order.
    pub fn advice(&self) -> &[Advice] {
        &self.0.advice
    }

    /// The `errno` this error stands for, as the reference reports the same situation: the system's own for I/O
    /// errors, `EINVAL`, `ENOTSUP`, `ENOENT` and so on for the other kinds.
    pub fn errno(&self) -> i32 {
        match &self.0.kind {
            Kind::Io(error) => error.raw_os_error().unwrap_or(libc::EIO),
            Kind::Described { errno, .. } => *errno,
            Kind::Corrupt(_) | Kind::Invalid(_) | Kind::Usage(_) => libc::EINVAL,
            Kind::Unsupported(_) => libc::ENOTSUP,
            Kind::NotFound(_) => libc::ENOENT,
            Kind::Locked { .. } => libc::EAGAIN,
            Kind::Interrupted(_) => libc::EINTR,
        }
    }

    /// The text the system has for [`Error::errno`], as in `strerror`.
    pub fn errno_text(&self) -> String {
        os_text(&io::Error::from_raw_os_error(self.errno()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in self.0.context.iter().rev() {
            write!(f, "{context}: ")?;
        }
        write!(f, "{}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0.kind)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::new(Kind::Io(error))
    }
}

impl From<nix::errno::Errno> for Error {
    fn from(errno: nix::errno::Errno) -> Self {
        Self::os(errno as i32)
    }
}

/// The system's text for an I/O error, without the "(os error N)" that the standard library appends.
pub fn os_text(error: &io::Error) -> String {
    if let Some(text) = error.raw_os_error().and_then(errno::text) {
        return text.to_owned();
    }
    let text = error.to_string();
    match (text.rfind(" (os error "), error.raw_os_error()) {
        // What musl says of numbers it does not know.
        (Some(at), Some(errno)) if text[..at] == *"No error information" => format!("Unknown error {errno}"),
        (Some(at), _) => text[..at].to_owned(),
        (None, _) => text,
    }
}

/// Adds circumstances to the error of a result.
pub trait Context<T> {
    /// Adds a circumstance one level out. The text is only made when there is an error.
    fn context<C: Into<Cow<'static, str>>>(self, text: impl FnOnce() -> C) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context<C: Into<Cow<'static, str>>>(self, text: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|error| error.into().context(text()))
    }
}
