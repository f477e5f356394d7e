//! The data mover: it knows extents and threads, nothing of formats.
//!
//! [`run`] copies a [`Source`] into a target:
//!
//! 1. [`plan`] hands out windows of about 2 MiB from one cursor and asks for extents as it goes; a source that is a stream is
//!    read window by window ([`intake`]);
//! 2. workers read, find zeros ([`scan`]), compress;
//! 3. they take turns in guest order ([`turn`]) to place what they hold, so that the target's layout does not depend on how
//!    many they are or who was faster;
//! 4. payload is written in parallel, or copied by the kernel ([`offload`]), and published.
//!
//! A target that is a stream goes another way ([`stream`]).
//!
//! The first error stops everybody. Each worker holds one window and, when compressing, as much again.

pub mod digest;
#[cfg(test)]
mod fault_tests;
mod intake;
pub mod offload;
mod pack;
pub mod plan;
pub mod rate;
pub mod scan;
pub mod source;
pub mod stream;
#[cfg(test)]
mod testing;
pub mod turn;
pub mod verify;
mod walk;
mod worker;

use crate::digest::Digest;
use crate::error::Result;
use crate::image::{Chain, CompressionLevel, Preallocation};

pub use offload::OffloadMode;
pub use source::{Found, NewBacking, Source, Status};

/// A part of long work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Finding out how much there is to move.
    Scan,
    /// Moving it.
    Copy,
    /// Comparing two disks.
    Compare,
    /// Reading a disk for its digest alone.
    Digest,
    /// Writing the last of the metadata, and waiting for the disk.
    Flush,
    /// Copying bitmaps.
    Bitmaps,
    /// Reading a finished target back.
    Verify,
    /// Emptying an image whose contents are elsewhere now.
    Empty,
    /// Changing an image's header.
    Header,
}

impl Phase {
    /// Its name, which programs read.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Scan => "scan",
            Phase::Copy => "copy",
            Phase::Compare => "compare",
            Phase::Digest => "digest",
            Phase::Flush => "flush",
            Phase::Bitmaps => "bitmaps",
            Phase::Verify => "verify",
            Phase::Empty => "empty",
            Phase::Header => "header",
        }
    }
}

/// Who watches a copy.
pub trait Monitor: Sync {
    /// A phase begins; what is counted from now on belongs to it.
    fn phase(&self, phase: Phase) {
        let _ = phase;
    }

    /// So many bytes will be moved. Called once, before anything else if [`Monitor::wants_total`].
    fn total(&self, bytes: u64) {
        let _ = bytes;
    }

    /// Nobody knows how many bytes will be moved. [`Monitor::total`] may be called when it is found out.
    fn total_unknown(&self) {}

    /// Whether [`Monitor::total`] is worth the time it takes to find out.
    fn wants_total(&self) -> bool {
        false
    }

    /// So many bytes more have been moved.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }

    /// The copy has got as far as `guest`, the end of a piece, of `size` bytes of disk. Pieces may end out of order.
    fn reached(&self, guest: u64, size: u64) {
        let _ = (guest, size);
    }

    /// Something went wrong that does not end the copy.
    fn warn(&self, text: &str) {
        let _ = text;
    }

    /// An image contradicts itself: the announcement of that, once per copy.
    fn notice(&self, text: &str) {
        let _ = text;
    }

    /// The signal that asks this run to end, if one has come.
    fn interrupted(&self) -> Option<i32> {
        None
    }
}

/// Nobody watches.
#[derive(Clone, Copy, Debug)]
pub struct Unwatched;

impl Monitor for Unwatched {}

/// What is known about the contents of a target before anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// It reads as zeros all over.
    Zero,
    /// It lies on a backing file; what the top layer of the source does not have is left as it is. From this guest
    /// offset on, the end of that backing file, it reads as zeros.
    Backed {
        /// Length of the backing file in bytes.
        zero_from: u64,
    },
    /// Anything, but its own tables can be believed where they say that it reads as zeros: nothing is done there for zeros.
    Mapped,
    /// Anything.
    Unknown,
}

/// How to copy.
#[derive(Clone, Copy, Debug)]
pub struct CopyOptions {
    /// Number of workers; at least 1.
    pub workers: usize,
    /// Clusters are placed in guest order, so that the result is the same on every run.
    pub in_order: bool,
    /// Zero runs of at least so many bytes are not written; 0 writes everything.
    pub min_sparse: u64,
    /// What is known about the target.
    pub target: TargetState,
    /// Compress whole clusters, at this level.
    pub compress: Option<CompressionLevel>,
    /// Write zeros where the source cannot be read.
    pub salvage: bool,
    /// Copying inside the kernel.
    pub offload: OffloadMode,
    /// Bytes per second at most.
    pub rate: Option<rate::Rate>,
    /// The target is made larger as a stream comes in, and in the end as large as that was.
    pub grows: bool,
}

/// One copy.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// What is copied.
    pub source: &'a Source<'a>,
    /// Where to: the top layer gets everything. At least as large as the source.
    pub target: &'a Chain,
    /// How.
    pub options: CopyOptions,
    /// Who watches.
    pub monitor: &'a dyn Monitor,
    /// What computes the digest of the source on the way. Not with [`CopyOptions::salvage`].
    pub digest: Option<&'a Digest>,
}

impl Job<'_> {
    /// How much of the job a task is, in bytes: what is moved, or what is looked at.
    fn work_in(&self, task: &plan::Task) -> u64 {
        if self.digest.is_some() { task.end() - task.start() } else { task.payload() }
    }
}

/// Copies. Does not flush the target.
pub fn run(job: Job<'_>) -> Result<()> {
    worker::run(job)?;
    match job.source.stream() {
        Some(stream) if job.options.grows => job.target.resize(stream.position(), Preallocation::Off),
        _ => Ok(()),
    }
}
