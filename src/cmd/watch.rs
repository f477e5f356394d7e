//! What long work tells its user on the way.

use crate::cli::output;
use crate::cli::progress::Progress;
use crate::copy::Monitor;
use crate::error::Result;
use crate::sys::signal;

/// Progress, warnings and signals of one run.
#[derive(Debug)]
pub struct Watch {
    progress: Progress,
    shown: bool,
    quiet: bool,
}

impl Watch {
    /// Shows progress and warnings, or not; from now on signals end the run cleanly.
    pub fn new(progress: bool, quiet: bool) -> Result<Self> {
        Ok(Watch { progress: Progress::new(progress)?, shown: progress, quiet })
    }

    /// The work is over.
    pub fn finish(&self, done: bool) {
        self.progress.finish(done);
    }
}

impl Monitor for Watch {
    fn wants_total(&self) -> bool {
        self.shown
    }

    fn total(&self, bytes: u64) {
        self.progress.set_total(bytes);
    }

    fn advance(&self, bytes: u64) {
        self.progress.advance(bytes);
    }

    fn reached(&self, guest: u64, size: u64) {
        // Somebody may ask by SIGUSR1; finding out the payload's size beforehand would be too dear for that.
        if !self.shown {
            self.progress.reached(guest, size);
        }
    }

    fn warn(&self, text: &str) {
        if !self.quiet {
            output::warn(text);
        }
    }

    fn notice(&self, text: &str) {
        output::notice(text);
    }

    fn interrupted(&self) -> Option<i32> {
        signal::requested()
    }
}
