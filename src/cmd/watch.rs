//! What long work tells its user on the way.

use crate::cli::output;
use crate::cli::progress::{Ending, Form, Progress};
use crate::copy::{Monitor, Phase};
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
    pub fn new(progress: Form, quiet: bool) -> Result<Self> {
        let shown = !matches!(progress, Form::None);
        Ok(Watch { progress: Progress::new(progress)?, shown, quiet })
    }

    /// The work is over.
    pub fn finish(&self, ending: Ending) {
        self.progress.finish(ending);
    }
}

impl Monitor for Watch {
    fn phase(&self, phase: Phase) {
        self.progress.phase(phase.name());
    }

    fn wants_total(&self) -> bool {
        self.shown
    }

    fn total(&self, bytes: u64) {
        self.progress.set_total(bytes);
    }

    fn total_unknown(&self) {
        self.progress.set_total_unknown();
    }

    fn advance(&self, bytes: u64) {
        self.progress.advance(bytes);
    }

    fn reached(&self, guest: u64, size: u64) {
        // Counts only where the total was not asked for: somebody may ask by SIGUSR1, and finding out the payload's size
        // beforehand would be too dear for that.
        self.progress.reached(guest, size);
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
