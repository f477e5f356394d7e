//! `map`: which parts of the disk are data, which are zeros, and where they lie.

use super::Command;
use crate::cli::args::{Args, object, operands, parsed, value};
use crate::cli::common::{self, Output};
use crate::cli::rows::Rows;
use crate::error::{Context, Error, Result};
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
    let mut rows = Rows::new(output, &format!("{:<16}{:<16}{:<16}{}", "Offset", "Length", "Mapped to", "File"));
    let size = chain.size();
    let end = args.get::<u64>("max-length").map_or(size, |len| start.saturating_add(*len).min(size));
    let result = show(&chain, start, end, &mut rows);
    rows.end(result).map(|()| 0)
}

/// Prints `start..end`, with neighbours of one kind as one line.
fn show(chain: &Chain, start: u64, end: u64, rows: &mut Rows) -> Result<()> {
    let mut line: Option<Status<'_>> = None;
    let mut at = start;
    while at < end {
        let next = chain.status(at, end - at).context(|| "Could not read file metadata")?;
        at += next.len;
        match &mut line {
            Some(line) if line.continues_with(&next) => line.len += next.len,
            Some(done) => {
                add(rows, done)?;
                *done = next;
            }
            None => line = Some(next),
        }
    }
    // An empty range gives an empty line, as in the reference.
    let last = line.unwrap_or(Status { start, ..Status::default() });
    add(rows, &last)
}

/// Adds a line.
fn add(rows: &mut Rows, status: &Status<'_>) -> Result<()> {
    match rows.output() {
        Output::Human => match human(status)? {
            Some(line) => rows.add(&line),
            None => Ok(()),
        },
        Output::Json => rows.add(&json(status)),
    }
}

fn human(status: &Status<'_>) -> Result<Option<String>> {
    if !status.data {
        return Ok(None);
    }
    let Some(place) = status.place else {
        return Err(Error::unsupported("File contains external, encrypted or compressed clusters."));
    };
    let (start, len, host) = (number(status.start), number(status.len), number(place.offset));
    Ok((!status.zero).then(|| format!("{start:<16}{len:<16}{host:<16}{}", place.file)))
}

/// A number as C's `%#x` prints it.
pub(super) fn number(number: u64) -> String {
    if number == 0 { "0".to_owned() } else { format!("{number:#x}") }
}

fn json(status: &Status<'_>) -> String {
    let Status { start, len, depth, present, zero, data, compressed, place } = status;
    let place = place.map(|place| format!(", \"offset\": {}", place.offset)).unwrap_or_default();
    format!(
        "{{ \"start\": {start}, \"length\": {len}, \"depth\": {depth}, \"present\": {present}, \"zero\": {zero}, \
         \"data\": {data}, \"compressed\": {compressed}{place}}}"
    )
}
