//! Printing: results to stdout, messages to stderr.
//!
//! All text goes through [`text::to_bytes`], so that names which are not UTF-8 come out as the bytes they are.

use std::io::{self, Write};

use super::args::PROGRAM;
use crate::error::{Context, Error, Result};
use crate::image::{Warning, WarningSink};
use crate::text;

/// Prints a result. That nobody reads it any more (a closed pipe) is no error, as in the reference.
pub fn print(output: &str) -> Result<()> {
    print_bytes(&text::to_bytes(output))
}

/// As [`print`], for output that is bytes already.
pub fn print_bytes(output: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(output).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context(|| "Could not write to standard output"),
    }
}

/// What stands in front of lines that the reference does not have.
const ADVICE: &str = "Hint: ";

/// Prints an error, its hints and the advice to stderr, in one piece.
pub fn report(error: &Error) {
    report_as(PROGRAM, error);
}

/// As [`report`], with something else than the program's name in front.
pub(super) fn report_as(program: &str, error: &Error) {
    let notices: String = error.notices().iter().map(|notice| format!("{notice}\n")).collect();
    let hints: String = error.hints().iter().map(|hint| format!("{hint}\n")).collect();
    let message = error.to_string();
    let advice: String = error.advice().iter().map(|advice| format!("{ADVICE}{}\n", advice.below(&message))).collect();
    print_error(&format!("{notices}{program}: {message}\n{hints}{advice}"));
}

/// Lines for stderr that are many: printed some at a time.
#[derive(Debug, Default)]
pub struct Lines(String);

impl Lines {
    /// How much is gathered before it is printed.
    const MOST: usize = 32 << 10;

    /// Adds a line.
    pub fn add(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
        if self.0.len() >= Self::MOST {
            self.print();
        }
    }

    /// Prints what was gathered.
    pub fn print(&mut self) {
        if !self.0.is_empty() {
            print_error(&std::mem::take(&mut self.0));
        }
    }
}

/// Prints a warning to stderr.
pub fn warn(warning: &str) {
    warn_as(PROGRAM, warning);
}

/// As [`warn`], with something else than the program's name in front.
pub(super) fn warn_as(place: &str, warning: &str) {
    print_error(&format!("{place}: warning: {warning}\n"));
}

/// Prints an announcement that has its own form.
pub fn notice(text: &str) {
    print_error(&format!("{text}\n"));
}

/// Prints the warnings that come up while images are opened.
pub const WARNINGS: WarningSink = WarningSink(|warning| match warning {
    Warning::Plain(text) => warn(text),
    Warning::Headed(text) => print_error(&format!("{text}\n")),
});

/// Prints to stderr. There is nobody to tell when that fails.
fn print_error(message: &str) {
    let _ = io::stderr().lock().write_all(&text::to_bytes(message));
}
