//! What a conversion tells its user on the way.

use crate::cli::output;
use crate::copy::Monitor;

/// Progress and warnings of one conversion.
#[derive(Debug)]
pub struct Watch {
    progress: bool,
    quiet: bool,
}

impl Watch {
    /// Shows progress and warnings, or not.
    pub fn new(progress: bool, quiet: bool) -> Self {
        Watch { progress, quiet }
    }

    /// The conversion is over.
    pub fn finish(&self, _done: bool) {}
}

impl Monitor for Watch {
    fn wants_total(&self) -> bool {
        self.progress
    }

    fn warn(&self, text: &str) {
        if !self.quiet {
            output::warn(text);
        }
    }
}
