//! Having the kernel copy.
//!
//! Where source and target lie on one file system that can share blocks (XFS, btrfs), a range is cloned: that costs
//! microseconds whatever its length. With `-C` the kernel copies ranges on any file system. The first refusal ends it: from
//! then on everything is read and written.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::Result;
use crate::image::{Chain, ChainExtent, ExtentKind};
use crate::storage::Storage;
use crate::sys::copy::{Copied, clone_range, copy_range};
use crate::sys::fs::{FileSystem, file_system};
use crate::units::{align_down, align_up};

/// The block size of file systems that clone. Ranges aligned to it can be cloned; the rest is read and written.
const BLOCK: u64 = 4096;

/// Which way of copying inside the kernel is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffloadMode {
    /// None.
    #[default]
    Never,
    /// Share blocks where the file system can.
    Clone,
    /// Copy ranges (`-C`).
    Copy,
}

/// The state of offloading in one copy, shared by all workers.
#[derive(Debug)]
pub struct Offload {
    mode: AtomicU8,
    target: Arc<dyn Storage>,
    clones: bool,
}

/// A range to copy between two storages: offsets and length in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Offset in the source's storage.
    pub from: u64,
    /// Offset in the target's storage.
    pub to: u64,
    /// Length.
    pub len: u64,
}

impl Offload {
    /// For a target whose data lies in `target`.
    pub fn new(mode: OffloadMode, target: &Arc<dyn Storage>) -> Self {
        let clones = target.fd().is_some_and(|fd| matches!(file_system(fd), FileSystem::Xfs | FileSystem::Btrfs));
        let mode = if mode == OffloadMode::Clone && !clones { OffloadMode::Never } else { mode };
        Offload { mode: AtomicU8::new(mode as u8), target: Arc::clone(target), clones }
    }

    fn mode(&self) -> OffloadMode {
        match self.mode.load(Ordering::Relaxed) {
            mode if mode == OffloadMode::Clone as u8 => OffloadMode::Clone,
            mode if mode == OffloadMode::Copy as u8 => OffloadMode::Copy,
            _ => OffloadMode::Never,
        }
    }

    /// Whether this extent of `chain`, which starts at `start` of the whole source, is worth a try.
    pub fn wants(&self, chain: &Chain, start: u64, found: &ChainExtent) -> bool {
        let ExtentKind::Data { host, encrypted: false } = found.extent.kind else { return false };
        let storage = chain.nodes()[found.depth].layer.data_storage();
        if storage.fd().is_none() {
            return false;
        }
        match self.mode() {
            OffloadMode::Never => false,
            OffloadMode::Copy => true,
            // Clones need source and target to agree about where blocks start.
            OffloadMode::Clone => host % BLOCK == (start + found.extent.guest) % BLOCK && found.extent.len >= 2 * BLOCK,
        }
    }

    /// Copies `span` out of `source` as far as the kernel does it: calls `rest` for the parts that it did not take.
    pub fn transfer(
        &self,
        source: &Arc<dyn Storage>,
        span: Span,
        rest: &mut dyn FnMut(Span) -> Result<()>,
    ) -> Result<()> {
        let (Some(from), Some(to)) = (source.fd(), self.target.fd()) else { return rest(span) };
        match self.mode() {
            OffloadMode::Never => rest(span),
            OffloadMode::Clone => self.clone(from, to, span, rest),
            OffloadMode::Copy if self.clones => self.clone(from, to, span, &mut |part| self.copy(from, to, part, rest)),
            OffloadMode::Copy => self.copy(from, to, span, rest),
        }
    }

    fn clone(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        span: Span,
        rest: &mut dyn FnMut(Span) -> Result<()>,
    ) -> Result<()> {
        let first = align_up(span.from, BLOCK).unwrap_or(u64::MAX);
        let last = align_down(span.from + span.len, BLOCK);
        if span.from % BLOCK != span.to % BLOCK || first >= last {
            return rest(span);
        }
        let head = first - span.from;
        let body = last - first;
        // An error comes again when the bytes are read and written, and then it says of which file and where.
        if !clone_range(from, first, to, span.to + head, body).unwrap_or(false) {
            if self.mode() == OffloadMode::Clone {
                self.mode.store(OffloadMode::Never as u8, Ordering::Relaxed);
            }
            return rest(span);
        }
        if head > 0 {
            rest(Span { len: head, ..span })?;
        }
        let tail = span.len - head - body;
        if tail > 0 {
            rest(Span { from: last, to: span.to + head + body, len: tail })?;
        }
        Ok(())
    }

    fn copy(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        span: Span,
        rest: &mut dyn FnMut(Span) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < span.len {
            let left = Span { from: span.from + done, to: span.to + done, len: span.len - done };
            // See above about errors.
            match copy_range(from, left.from, to, left.to, left.len).unwrap_or(Copied::NotHere) {
                Copied::Bytes(count) => done += count,
                // Behind the end of the source there are zeros, which only reading gives.
                Copied::End => return rest(left),
                Copied::NotHere => {
                    self.mode.store(OffloadMode::Never as u8, Ordering::Relaxed);
                    return rest(left);
                }
            }
        }
        Ok(())
    }
}
