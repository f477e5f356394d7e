//! `-T, --trace`: the reference's standard option for trace events.
//!
//! There are no trace events here, which is what this says about every event that is asked for, in the words the
//! reference has for events it does not know. What the option's value says is checked, so that a call that works with
//! the reference works here, and one that fails there fails here.

use std::fs::{self, File};

use super::optlist::elements;
use super::output;
use crate::error::{Error, Result, os_text};
use crate::text;

/// What a value of `--trace` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Print the list of events (which is empty) and exit.
    pub help: bool,
    /// Where events shall be written to.
    file: Option<String>,
    /// What to say, each with what stands in front of it.
    warnings: Vec<(String, String)>,
}

/// Reads a value of `--trace`: `[[enable=]PATTERN][,events=FILE][,file=FILE]`.
pub fn parse(value: &str) -> Result<Trace> {
    let mut trace = Trace::default();
    let (mut pattern, mut events) = (None, None);
    for element in elements(value, Some("enable")) {
        match element.name.as_str() {
            "enable" => pattern = Some(element.value),
            "events" => events = Some(element.value),
            "file" => trace.file = Some(element.value),
            "id" => {}
            name => return Err(Error::invalid(format!("Invalid parameter '{name}'"))),
        }
    }
    if let Some(pattern) = pattern {
        if matches!(pattern.as_str(), "help" | "?") {
            return Ok(Trace { help: true, ..Trace::default() });
        }
        trace.enable(&pattern, "qemu-img");
    }
    if let Some(events) = events {
        trace.enable_from(&events)?;
    }
    Ok(trace)
}

impl Trace {
    fn enable(&mut self, pattern: &str, place: &str) {
        let name = pattern.strip_prefix('-').unwrap_or(pattern);
        // A pattern that nothing matches is no mistake.
        if !name.contains('*') {
            self.warnings.push((place.to_owned(), format!("trace event '{name}' does not exist")));
        }
    }

    /// Reads patterns from a file, one on each line; `#` begins a comment.
    fn enable_from(&mut self, file: &str) -> Result<()> {
        let place = format!("qemu-img:{file}");
        let lines = match fs::read(text::to_os(file)) {
            Ok(bytes) => text::from_bytes(&bytes),
            // Like the reference, which only opens it here.
            Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => return Ok(()),
            Err(error) => return Err(Error::from(error).context(file.to_owned())),
        };
        for (number, line) in lines.lines().enumerate() {
            if !line.is_empty() && !line.starts_with('#') {
                self.enable(line, &format!("{place}:{}", number + 1));
            }
        }
        Ok(())
    }

    /// Says what there is to say, and creates the file that stays empty.
    pub fn apply(&self) -> Result<()> {
        for (place, warning) in &self.warnings {
            output::warn_as(place, warning);
        }
        if let Some(file) = &self.file {
            File::create(text::to_os(file))
                .map_err(|error| Error::invalid(format!("Error opening logfile {file}: {}", os_text(&error))))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;
