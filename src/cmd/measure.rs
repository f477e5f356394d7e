//! `measure`: how large the file of a new image would be.

use serde_json::{Map, Value};

use super::Command;
use super::source_snapshot::{SnapshotChoice, parse_snapshot};
use crate::cli::args::{Args, object, operands, parsed, value};
use crate::cli::common::{self, Output};
use crate::cli::create_options::parse_create_options;
use crate::cli::output::print;
use crate::error::{Error, Result};
use crate::format::{CreateOptions, Format, MeasureRequest, Measured, no_creation, protocol};
use crate::image::{Chain, OpenFlags, creator, open_chain};
use crate::json;
use crate::number::size_argument;

/// The command.
pub static COMMAND: Command = Command {
    name: "measure",
    summary: "Compute how large the file of a new image would be",
    synopsis: "measure [--output=ofmt] [-O output_fmt] [-o options] [--size N | [--object objectdef] [--image-opts] \
               [-f fmt] [-l snapshot_param] filename]",
    failure: 1,
    define,
    run,
};

fn define(command: clap::Command) -> clap::Command {
    command
        .arg(value("target-format", "FMT", "The format of the new image (raw)").short('O').long("target-format"))
        .arg(common::format())
        .arg(common::options("Creation options of the new image"))
        .arg(
            value("snapshot", "SNAPSHOT", "Measure what this internal snapshot holds")
                .value_parser(parsed(parse_snapshot))
                .short('l')
                .long("snapshot"),
        )
        .arg(object())
        .arg(common::image_opts())
        .arg(common::output(COMMAND.name))
        .arg(
            value("size", "SIZE", "Measure a new, empty image of this size")
                .value_parser(parsed(|text| size_argument("image size", text)))
                .long("size"),
        )
        .arg(common::force_share())
        .arg(operands("[FILENAME]", "The image that would be converted"))
}

fn run(args: &Args) -> Result<i32> {
    let operands = args.operands();
    if operands.len() > 1 {
        return Err(Error::invalid("At most one filename argument is allowed."));
    }
    let (filename, size) = (operands.first().copied(), args.get::<u64>("size").copied());
    let needs_file = args.flag("image-opts") || args.given("format") || args.given("snapshot");
    match (filename, size) {
        (None, _) if needs_file => {
            return Err(Error::invalid("--image-opts, -f, and -l require a filename argument."));
        }
        (None, None) => return Err(Error::invalid("Either --size N or one filename must be specified.")),
        (Some(_), Some(_)) => return Err(Error::invalid("--size N cannot be used together with a filename.")),
        _ => {}
    }
    let context = args.context();
    let source = filename.map(|filename| open(args, filename)).transpose()?;
    let name = args.text("target-format").unwrap_or("raw");
    let format = creator(name).map_err(|error| foreign(args, name, error))?;
    format.creation()?;
    let options = options(args, format)?;
    // The parser has made it a plain number.
    let size = size.or_else(|| options.get("size")?.parse().ok()).unwrap_or(0);
    let Some(measure) = format.measure else {
        return Err(no_measurement(format.name));
    };
    let measured = measure(MeasureRequest { size, options: &options, source: source.as_ref(), context: &context })?;
    print(&text(args.output(), measured))?;
    Ok(0)
}

/// The reference cannot measure most of the formats that are not supported here, and says why.
fn foreign(args: &Args, name: &str, error: Error) -> Error {
    // Creation options of theirs are not known here; `luks` can be measured there.
    if args.given("options") {
        return error;
    }
    match name {
        "parallels" | "qcow" | "qed" | "vdi" | "vhdx" | "vmdk" | "vpc" | "nbd" => no_measurement(name),
        "bochs" | "cloop" | "dmg" | "vvfat" => no_creation(name),
        _ => error,
    }
}

fn no_measurement(name: &str) -> Error {
    Error::unsupported(format!("Block driver '{name}' does not support size measurement"))
}

fn open(args: &Args, filename: &str) -> Result<Chain> {
    let flags = OpenFlags { share: args.flag("force-share"), ..OpenFlags::READ };
    let chain = open_chain(&args.spec(filename)?, flags, &args.context())?;
    if let Some(choice) = args.get::<SnapshotChoice>("snapshot") {
        choice.show(&*chain.top().layer)?;
    }
    Ok(chain)
}

/// The creation options. The file that there will be has options, too, although none of them counts.
fn options(args: &Args, format: &Format) -> Result<CreateOptions> {
    let list = args.texts("options").join(",");
    parse_create_options(&list, &[format.create_options, protocol::FILE_OPTIONS])
        .map_err(|error| error.hint(format!("qemu-img: Invalid options for file format '{}'", format.name)))
}

fn text(output: Output, measured: Measured) -> String {
    let Measured { required, fully_allocated, bitmaps } = measured;
    match output {
        Output::Human => {
            let bitmaps = bitmaps.map_or_else(String::new, |bitmaps| format!("bitmaps size: {bitmaps}\n"));
            format!("required size: {required}\nfully allocated size: {fully_allocated}\n{bitmaps}")
        }
        Output::Json => {
            let mut object = Map::new();
            if let Some(bitmaps) = bitmaps {
                object.insert("bitmaps".to_owned(), bitmaps.into());
            }
            object.insert("required".to_owned(), required.into());
            object.insert("fully-allocated".to_owned(), fully_allocated.into());
            format!("{}\n", json::pretty(&Value::Object(object)))
        }
    }
}
