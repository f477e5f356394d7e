//! The report on an image for people.

use std::fmt::Write;

use serde_json::Value;

use crate::cli::snapshot_table;
use crate::image::{NodeReport, ordered_keys};
use crate::units::human_size;

/// The report on an image and everything it is made of.
pub fn text(report: &NodeReport) -> String {
    let mut out = Text::default();
    out.node(report, 0, "");
    out.0
}

/// Text that grows line by line. Writing to a string cannot fail.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, level: usize, text: &str) {
        self.0.extend(std::iter::repeat_n("    ", level));
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn entry(&mut self, level: usize, key: &str, value: &str) {
        self.line(level, &format!("{key}: {value}"));
    }

    /// `path` leads from the image that was named to this node.
    fn node(&mut self, report: &NodeReport, level: usize, path: &str) {
        let size = format!("{} ({} bytes)", human_size(report.size), report.size);
        if report.is_file {
            self.entry(level, "filename", &report.filename);
            self.entry(level, "protocol type", report.driver);
            self.entry(level, "file length", &size);
        } else {
            self.entry(level, "image", &report.filename);
            self.entry(level, "file format", report.driver);
            self.entry(level, "virtual size", &size);
        }
        let allocated = report.allocated.map_or_else(|| "unavailable".to_owned(), human_size);
        self.entry(level, "disk size", &allocated);
        self.properties(report, level);
        self.backing(report, level);
        for line in snapshot_table(&report.info.snapshots).lines() {
            self.line(level, line);
        }
        match report.info.format_specific.as_ref().map(|specific| &specific["data"]) {
            Some(Value::Object(data)) if !data.is_empty() => {
                self.line(level, "Format specific information:");
                self.members(&Value::Object(data.clone()), level + 1);
            }
            _ => {}
        }
        for (name, child) in &report.children {
            let path = format!("{path}/{name}");
            self.line(level, &format!("Child node '{path}':"));
            self.node(child, level + 1, &path);
        }
    }

    fn properties(&mut self, report: &NodeReport, level: usize) {
        if report.info.encrypted {
            self.entry(level, "encrypted", "yes");
        }
        if let Some(bytes) = report.info.cluster_size {
            self.entry(level, "cluster_size", &bytes.to_string());
        }
        if report.info.dirty {
            self.entry(level, "cleanly shut down", "no");
        }
    }

    fn backing(&mut self, report: &NodeReport, level: usize) {
        let Some(backing) = &report.backing else { return };
        let mut name = backing.filename.clone();
        let written = match &report.full_backing {
            None => write!(name, " (cannot determine actual path)"),
            Some(full) if *full != backing.filename => write!(name, " (actual path: {full})"),
            Some(_) => Ok(()),
        };
        debug_assert!(written.is_ok(), "writing to a string does not fail");
        self.entry(level, "backing file", &name);
        if let Some(format) = &backing.format {
            self.entry(level, "backing file format", format);
        }
    }

    /// The members of an object or array, one to a line, deeper ones further in.
    fn members(&mut self, value: &Value, level: usize) {
        match value {
            Value::Object(object) => {
                for key in ordered_keys(object) {
                    self.member(level, &key.replace('-', " "), &object[key]);
                }
            }
            Value::Array(values) => {
                for (at, value) in values.iter().enumerate() {
                    self.member(level, &format!("[{at}]"), value);
                }
            }
            _ => {}
        }
    }

    fn member(&mut self, level: usize, key: &str, value: &Value) {
        match value {
            Value::Object(_) | Value::Array(_) => {
                self.line(level, &format!("{key}:"));
                self.members(value, level + 1);
            }
            Value::String(text) => self.entry(level, key, text),
            simple => self.entry(level, key, &simple.to_string()),
        }
    }
}

#[cfg(test)]
#[path = "human_tests.rs"]
mod tests;
