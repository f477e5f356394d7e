//! Writing what the upper images of a chain have into the one below them.

use crate::copy::rate::Rate;
use crate::copy::{self, CopyOptions, Job, Monitor, OffloadMode, Phase, Source, TargetState};
use crate::error::Result;
use crate::image::Chain;

/// A commit about to be done.
pub struct Commit<'a> {
    /// The images whose contents are to be written, without the one they lie on.
    pub upper: &'a Chain,
    /// The image they lie on, open for writing, with what lies below it. At least as large as the top.
    pub base: &'a Chain,
    /// Bytes per second at most.
    pub rate: Option<Rate>,
    /// How many threads copy.
    pub workers: usize,
    /// Who watches.
    pub monitor: &'a dyn Monitor,
}

impl Commit<'_> {
    /// Writes, and returns when everything is on stable storage (unless the cache mode forbids that). The base shows the
    /// same as the top then.
    pub fn run(&self) -> Result<()> {
        let source = Source::own(self.upper);
        let options = CopyOptions {
            workers: self.workers,
            in_order: true,
            // Zeros stay zeros and data stays data, but for whole windows of nothing but zeros.
            min_sparse: u64::MAX,
            target: TargetState::Unknown,
            compress: None,
            salvage: false,
            offload: OffloadMode::Clone,
            rate: self.rate,
            grows: false,
        };
        copy::run(Job { source: &source, target: self.base, options, monitor: self.monitor, digest: None })?;
        self.monitor.phase(Phase::Flush);
        self.base.top().layer.flush()
    }
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
