//! `map`: which parts of the disk are data, which are zeros, and where they lie.

use std::fmt::Write;

use super::Command;
use crate::cli::args::{Args, object, operands, parsed, value};
use crate::cli::common::{self, Output};
use crate::cli::output::print;
use crate::error::{Error, Result};
use crate::image::{Chain, OpenFlags, Status, open_chain};
use crate::number::size_argument;

/// The command.
pub static COMMAND: Command = Command {
    name: "map",
    summary: "Show which parts of a disk are data, which are zeros, and where they lie",
    synopsis: "map [--object objectdef] [--image-opts] [-f fmt] [--start-offset=offset] [--max-length=len] \
               [--output=ofmt] [-U] filename",
    failure: 1,
    define,
    run,
};

/// How much output is gathered before it is printed.
const CHUNK: usize = 64 << 10;

fn define(command: clap::Command) -> clap::Command {
    command
        .arg(common::format())
        .arg(common::output(COMMAND.name))
        .arg(object())
        .arg(common::image_opts())
        .arg(common::force_share())
        .arg(
            value("start-offset", "OFFSET", "Begin at this offset of the disk")
                .value_parser(parsed(|text| size_argument("start offset", text)))
                .short('s')
                .long("start-offset"),
        )
        .arg(
            value("max-length", "LENGTH", "Show this many bytes of the disk")
                .value_parser(parsed(|text| size_argument("max length", text)))
                .short('l')
                .long("max-length"),
        )
        .arg(operands("FILENAME", "The image"))
}

fn run(args: &Args) -> Result<i32> {
    let start = args.get::<u64>("start-offset").copied().unwrap_or(0);
    let spec = args.spec(args.one_image()?)?;
    let flags = OpenFlags { share: args.flag("force-share"), ..OpenFlags::READ };
    let output = args.output();
    let chain = open_chain(&spec, flags, &args.context())?;
    let mut table = Table { output, text: String::new(), first: true };
    if output == Output::Human {
        table.text.push_str(&format!("{:<16}{:<16}{:<16}{}\n", "Offset", "Length", "Mapped to", "File"));
    }
    let size = chain.size();
    let end = args.get::<u64>("max-length").map_or(size, |len| start.saturating_add(*len).min(size));
    let result = show(&chain, start, end, &mut table);
    print(&table.text)?;
    result.map(|()| 0)
}

/// Prints `start..end`, with neighbours of one kind as one line.
fn show(chain: &Chain, start: u64, end: u64, table: &mut Table) -> Result<()> {
    let mut line: Option<Status<'_>> = None;
    let mut at = start;
    while at < end {
        let next = chain.status(at, end - at)?;
        at += next.len;
        match &mut line {
            Some(line) if line.continues_with(&next) => line.len += next.len,
            Some(done) => {
                table.line(done)?;
                *done = next;
            }
            None => line = Some(next),
        }
    }
    // An empty range gives an empty line, as in the reference.
    let last = line.unwrap_or(Status { start, ..Status::default() });
    table.line(&last)?;
    table.end();
    Ok(())
}

/// Gathers and prints lines.
struct Table {
    output: Output,
    text: String,
    first: bool,
}

impl Table {
    fn line(&mut self, status: &Status<'_>) -> Result<()> {
        match self.output {
            Output::Human => self.human(status)?,
            Output::Json => self.json(status),
        }
        if self.text.len() > CHUNK {
            print(&std::mem::take(&mut self.text))?;
        }
        Ok(())
    }

    fn human(&mut self, status: &Status<'_>) -> Result<()> {
        if !status.data {
            return Ok(());
        }
        let Some(place) = status.place else {
            return Err(Error::unsupported("File contains external, encrypted or compressed clusters."));
        };
        if !status.zero {
            let number = |number: u64| if number == 0 { "0".to_owned() } else { format!("{number:#x}") };
            let (start, len, host) = (number(status.start), number(status.len), number(place.offset));
            self.text.push_str(&format!("{start:<16}{len:<16}{host:<16}{}\n", place.file));
        }
        Ok(())
    }

    fn json(&mut self, status: &Status<'_>) {
        self.text.push_str(if self.first { "[" } else { ",\n" });
        self.first = false;
        let Status { start, len, depth, present, zero, data, compressed, place } = status;
        // Writing to a string cannot fail.
        let _ = write!(
            self.text,
            "{{ \"start\": {start}, \"length\": {len}, \"depth\": {depth}, \"present\": {present}, \"zero\": {zero}, \
             \"data\": {data}, \"compressed\": {compressed}"
        );
        if let Some(place) = place {
            let _ = write!(self.text, ", \"offset\": {}", place.offset);
        }
        self.text.push('}');
    }

    fn end(&mut self) {
        if self.output == Output::Json {
            self.text.push_str("]\n");
        }
    }
}
