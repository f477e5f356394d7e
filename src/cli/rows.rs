//! Results of many rows, printed as they come: lines for people, or a JSON array with one object a line.

use super::common::Output;
use super::output::print;
use crate::error::Result;

/// How much output is gathered before it is printed.
const CHUNK: usize = 64 << 10;

/// Gathers rows and prints them.
#[derive(Debug)]
pub struct Rows {
    output: Output,
    text: String,
    empty: bool,
}

impl Rows {
    /// No rows yet. `heading` is a line for people.
    pub fn new(output: Output, heading: &str) -> Self {
        let text = match output {
            Output::Human => format!("{heading}\n"),
            Output::Json => "[".to_owned(),
        };
        Rows { output, text, empty: true }
    }

    /// Which form is printed.
    pub fn output(&self) -> Output {
        self.output
    }

    /// Whether no row has been added.
    pub fn is_empty(&self) -> bool {
        self.empty
    }

    /// Adds a row: a line without its end, or a JSON object.
    pub fn add(&mut self, row: &str) -> Result<()> {
        if self.output == Output::Json && !self.empty {
            self.text.push_str(",\n");
        }
        self.empty = false;
        self.text.push_str(row);
        if self.output == Output::Human {
            self.text.push('\n');
        }
        if self.text.len() > CHUNK {
            print(&self.text)?;
            self.text.clear();
        }
        Ok(())
    }

    /// Prints what is left, and returns the result of all that gave rows. Where that failed, the array stays open: more
    /// should have followed.
    pub fn end<T>(mut self, result: Result<T>) -> Result<T> {
        if self.output == Output::Json {
            self.text.push_str(match &result {
                Ok(_) => "]\n",
                Err(_) if self.empty => "",
                Err(_) => ",\n",
            });
        }
        print(&self.text)?;
        result
    }
}
