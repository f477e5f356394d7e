//! `snapshot --diff`: the ranges of the disk in which two states may differ.

use crate::cli::common::Output;
use crate::cli::rows::Rows;
use crate::cmd::map::number;
use crate::error::{Context, Error, Result};
use crate::image::{Difference, Snapshots};

/// Prints the ranges. Without `to`, the second state is the present one; `snapshots` is `None` in formats that have none.
pub fn run(snapshots: Option<&dyn Snapshots>, from: &str, to: Option<&str>, output: Output) -> Result<()> {
    let mut rows = Rows::new(output, &human(["Offset", "Length", "Before", "After"]));
    let result = match snapshots {
        Some(snapshots) => snapshots.differences(from, to, &mut |found| rows.add(&row(found, output))),
        None => Err(Error::unsupported("Block driver does not support snapshots")),
    };
    let what = || match to {
        Some(to) => format!("Could not compare snapshot '{from}' with snapshot '{to}'"),
        None => format!("Could not compare snapshot '{from}' with the present state"),
    };
    // A heading that nothing follows is no result.
    let result = if result.is_err() && rows.is_empty() { result } else { rows.end(result) };
    result.context(what)
}

fn row(found: &Difference, output: Output) -> String {
    let Difference { start, len, from, to } = *found;
    let (from, to) = (from.name(), to.name());
    match output {
        Output::Human => human([&number(start), &number(len), from, to]),
        Output::Json => {
            format!("{{ \"start\": {start}, \"length\": {len}, \"before\": \"{from}\", \"after\": \"{to}\"}}")
        }
    }
}

fn human([offset, len, before, after]: [&str; 4]) -> String {
    format!("{offset:<16}{len:<16}{before:<16}{after}")
}
