//! Sources and targets that are streams: `-`, and names that lead to a FIFO, a pipe or a socket.
//!
//! `-` was a file name like any other before it was a stream. It still is one where there is no stream it could mean: where
//! standard input or output is closed, a terminal or the null device, with `-n`, and with options instead of names.

use std::fs::{File, Metadata};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

use super::request::Request;
use crate::cli::progress::Form;
use crate::error::{Context, Error, Result};
use crate::image::identity_of;
use crate::storage::{CacheMode, InputStream, OutputStream};
use crate::sys::descriptor::{duplicate_for_reading, duplicate_for_writing, open_fifo};
use crate::text::to_os;

/// The name of standard input and standard output.
const DASH: &str = "-";

/// How long a FIFO is waited for that nobody reads.
const PATIENCE: Duration = Duration::from_secs(2);

/// Which of the two ends of a conversion are streams.
#[derive(Debug, Default)]
pub struct Ends {
    /// The source.
    pub input: Option<End>,
    /// The target.
    pub output: Option<End>,
}

/// A stream that was named.
#[derive(Debug)]
pub struct End {
    /// What messages call it.
    name: String,
    place: Place,
    /// The file that standard input or output is.
    file: Option<(u64, u64)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Standard input or standard output.
    Standard,
    /// A FIFO.
    Fifo(PathBuf),
}

impl Ends {
    /// Looks at what the names lead to, without opening anything, and refuses what streams cannot do.
    pub fn find(request: &Request<'_>) -> Result<Ends> {
        let ends = Ends { input: find_input(request)?, output: find_output(request)? };
        if ends.input.is_some() {
            check_input(request)?;
        }
        if ends.output.is_some() {
            check_output(request)?;
        }
        if ends.takes_stdout()
            && metadata(std::io::stdout().as_fd()).is_some_and(|info| request.progress.writes_into(&info))
        {
            return Err(Error::invalid("Progress cannot go where the image goes; give it another descriptor"));
        }
        Ok(ends)
    }

    /// Whether the image goes to standard output, where nothing else may go then.
    pub fn takes_stdout(&self) -> bool {
        self.output.as_ref().is_some_and(|end| end.place == Place::Standard)
    }

    /// Where progress goes if it was to go where this `form` says.
    pub fn progress(&self, form: &Form) -> Form {
        match form {
            Form::Plain if self.takes_stdout() => Form::PlainOnStderr,
            form => form.clone(),
        }
    }
}

fn find_input(request: &Request<'_>) -> Result<Option<End>> {
    if request.source_opts {
        return Ok(None);
    }
    for name in &request.sources {
        if let Some(end) = input_end(name)? {
            if request.source_format != Some("raw") {
                // The first line is what programs know from a pipe that is named as a file.
                return Err(Error::invalid(format!("'file' driver requires '{name}' to be a regular file"))
                    .context(format!("Could not open '{name}'"))
                    .hint(format!(
                        "A stream ({}) can only be read as raw: say '-f raw' if it is a raw disk; anything else has to \
                         be in a file.",
                        end.name
                    )));
            }
            return Ok(Some(end));
        }
    }
    Ok(None)
}

fn input_end(name: &str) -> Result<Option<End>> {
    let stdin = std::io::stdin();
    if name != DASH {
        return Ok(end_at(name, stdin.as_fd(), "standard input"));
    }
    if !can_be_a_stream(stdin.as_fd()) {
        return Ok(None);
    }
    if std::fs::symlink_metadata(DASH).is_ok() {
        return Err(Error::invalid("'-' is standard input, but there is a file of that name, too")
            .hint("Say '/dev/stdin' for standard input, or './-' for the file."));
    }
    Ok(Some(End::standard("standard input", stdin.as_fd())))
}

fn find_output(request: &Request<'_>) -> Result<Option<End>> {
    if request.existing {
        return Ok(None);
    }
    let stdout = std::io::stdout();
    if request.target != DASH {
        return Ok(end_at(request.target, stdout.as_fd(), "standard output"));
    }
    Ok(can_be_a_stream(stdout.as_fd()).then(|| End::standard("standard output", stdout.as_fd())))
}

/// Whether `-` can mean what is open here: not if that is a terminal, or the null device, which also stands in for descriptors
/// that were closed when this program started.
fn can_be_a_stream(fd: BorrowedFd<'_>) -> bool {
    metadata(fd).is_some_and(|info| !info.file_type().is_char_device())
}

/// The stream that a file name leads to, if it is one; `standard` is the descriptor that it may be the name of.
fn end_at(name: &str, standard: BorrowedFd<'_>, standard_name: &str) -> Option<End> {
    let path = PathBuf::from(to_os(name));
    let info = std::fs::metadata(&path).ok()?;
    let kind = info.file_type();
    let same = |other: Metadata| (other.dev(), other.ino()) == (info.dev(), info.ino());
    if (kind.is_fifo() || kind.is_socket()) && metadata(standard).is_some_and(same) {
        return Some(End::standard(standard_name, standard));
    }
    kind.is_fifo().then(|| End { name: format!("'{name}'"), place: Place::Fifo(path), file: None })
}

/// What an open descriptor leads to; `None` if it is closed.
fn metadata(fd: BorrowedFd<'_>) -> Option<Metadata> {
    File::from(fd.try_clone_to_owned().ok()?).metadata().ok()
}

/// What makes no sense for a source that is a stream.
fn check_input(request: &Request<'_>) -> Result<()> {
    let checks = [
        (request.sources.len() > 1, "A stream cannot be joined with other images"),
        (request.snapshot.is_some(), "A stream has no snapshots"),
        (request.bitmaps, "A stream has no bitmaps"),
        (request.copy_range, "Cannot use copy offloading with a stream"),
        (request.salvage, "--salvage has no meaning for a stream, which can be read only once"),
        (request.source_cache.direct, "Cache modes without the page cache have no meaning for a stream"),
        (
            request.verify,
            "--verify cannot read a stream a second time; --digest tells whether the target holds what was sent",
        ),
        (
            request.backing.is_some(),
            "A stream cannot be laid over a backing file; write it to a file and convert that with -B",
        ),
    ];
    first_wrong(&checks)
}

/// What makes no sense for a target that is a stream.
fn check_output(request: &Request<'_>) -> Result<()> {
    let cache = CacheMode::parse(request.target_cache);
    let checks = [
        (
            request.compress.is_some(),
            "A stream cannot be compressed, as its layout has to be known before its first byte; write it to a file, or \
             compress the stream with another program",
        ),
        (request.bitmaps, "Bitmaps cannot be written to a stream; write to a file"),
        (request.verify, "--verify cannot read a stream back; write to a file, or use --digest"),
        (request.copy_range, "Cannot use copy offloading with a stream"),
        (request.out_of_order, "A stream can only be written in order, without -W"),
        (
            cache.is_some_and(|cache| cache.direct || cache.writethrough),
            "Cache modes without the page cache, or with writes that wait for the disk, have no meaning for a stream",
        ),
    ];
    first_wrong(&checks)
}

fn first_wrong(checks: &[(bool, &'static str)]) -> Result<()> {
    match checks.iter().find(|(wrong, _)| *wrong) {
        Some((_, message)) => Err(Error::unsupported(*message)),
        None => Ok(()),
    }
}

impl End {
    fn standard(name: &str, fd: BorrowedFd<'_>) -> End {
        let file = metadata(fd).as_ref().and_then(identity_of);
        End { name: name.to_owned(), place: Place::Standard, file }
    }

    /// Standard input or output may be a file that the conversion uses at its other end, too.
    pub fn check_overlap<'f>(&self, files: impl IntoIterator<Item = (&'f str, Option<(u64, u64)>)>) -> Result<()> {
        match files.into_iter().find(|(_, identity)| identity.is_some() && *identity == self.file) {
            Some((name, _)) => Err(Error::invalid(format!("'{name}' is {} as well", self.name))),
            None => Ok(()),
        }
    }

    /// Opens it for reading; waits for somebody who writes to a FIFO.
    pub fn open_input(&self) -> Result<InputStream> {
        let file = match &self.place {
            Place::Standard => duplicate_for_reading(std::io::stdin().as_raw_fd()).ok_or_else(|| self.wrong_way())?,
            Place::Fifo(path) => File::open(path).context(|| format!("Could not open {}", self.name))?,
        };
        Ok(InputStream::new(file, self.name.clone()))
    }

    /// Opens it for writing. The error of a FIFO that nobody reads is the one that all FIFOs had before.
    pub fn open_output(&self) -> Result<OutputStream> {
        let file = match &self.place {
            Place::Standard => duplicate_for_writing(std::io::stdout().as_raw_fd()).ok_or_else(|| self.wrong_way())?,
            Place::Fifo(path) => {
                let opened = open_fifo(path, PATIENCE).context(|| format!("Could not open {}", self.name))?;
                opened.ok_or_else(|| {
                    Error::os(libc::EINVAL)
                        .context("Could not resize file")
                        .advise(format!("Nobody reads {}; start the reader before the writer.", self.name))
                })?
            }
        };
        Ok(OutputStream::new(file, self.name.clone()))
    }

    fn wrong_way(&self) -> Error {
        Error::os(libc::EBADF).context(format!("Could not open {}", self.name))
    }
}
