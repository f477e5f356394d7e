//! `convert`: copies the contents of images into another one.
//!
//! `request` is what was asked for, `run` does it, `target` is what it writes into, `stream` finds
//! out about sources and targets that are streams, `to_stream` writes the latter.

mod request;
mod run;
mod stream;
mod target;
mod to_stream;

use clap::Arg;

use self::request::{Parsed, parse_rate, parse_sparse, parse_workers};
use super::Command;
use super::digest::parse_algorithm;
use super::source_snapshot::parse_snapshot;
use crate::cli::args::{Args, OWN, flag, object, operands, parsed, value};
use crate::cli::common;
use crate::cli::create_options::option_list;
use crate::cli::output;
use crate::error::Result;

/// The command.
pub static COMMAND: Command = Command {
    name: "convert",
    summary: "Copy an image into another one, changing its format on the way",
    synopsis: "convert [--object objectdef] [--image-opts] [--target-image-opts] [--target-is-zero] [--bitmaps] [-U] \
               [-C] [-c] [-p] [-q] [-n] [-f fmt] [-t cache] [-T src_cache] [-O output_fmt] [-B backing_file \
               [-F backing_fmt]] [-o options] [-l snapshot_param] [-S sparse_size] [-r rate_limit] \
               [-m num_coroutines] [-W] [--salvage] [--digest algorithm] [--verify] filename [filename2 [...]] output_filename",
    failure: 1,
    define,
    run,
};

fn define(command: clap::Command) -> clap::Command {
    source_options(command)
        .args(target_options())
        .args(work_options())
        .args(common::progress_short())
        .arg(operands("FILENAME... OUTPUT_FILENAME", "The source images, one behind the other, and the target"))
        .after_help(STREAMS)
}

const STREAMS: &str = "\
The target can be a stream: '-' for standard output, a pipe, a FIFO. A raw disk (-f raw) can come from one: '-' for standard \
input. './-' is the file called '-'.";

// The order of long options decides the order in which an ambiguous prefix lists them, so it is the reference's. Aliases
// that are not visible are names which the reference's help mentions but which it does not take.

fn source_options(command: clap::Command) -> clap::Command {
    command
        .arg(flag("quiet", "Print no progress and no messages besides errors").short('q').long("quiet"))
        .arg(object())
        .arg(
            flag("image-opts", "The sources are lists of options (driver=...,file.filename=...)")
                .long("image-opts")
                .visible_alias("source-image-opts"),
        )
        .arg(
            value("format", "FMT", "The format of the sources; without it, it is probed")
                .short('f')
                .long("source-format"),
        )
        .arg(value("source-cache", "CACHE", "Cache mode of the sources (writeback)").short('T').long("source-cache"))
        .arg(
            value("snapshot", "SNAPSHOT", "Read this internal snapshot of the source")
                .value_parser(parsed(parse_snapshot))
                .short('l')
                .long("snapshot")
                .alias("source-snapshot"),
        )
        .arg(
            value("sparse-size", "SIZE", "Look for zeros in units of this size (4k); 0 makes everything allocated")
                .value_parser(parsed(parse_sparse))
                .short('S')
                .long("sparse-size"),
        )
}

fn target_options() -> [Arg; 9] {
    [
        value("output-format", "FMT", "The format of the target (raw)")
            .short('O')
            .long("output-format")
            .alias("target-format"),
        value("options", "OPTIONS", "Creation options of the target's format; '-o help' lists them. With -c also compression_level=fast|default|best or a number")
            .value_parser(parsed(option_list))
            .short('o')
            .long("options")
            .alias("target-options"),
        value("output-cache", "CACHE", "Cache mode of the target (unsafe)")
            .short('t')
            .long("output-cache")
            .alias("target-cache"),
        value("backing", "FILE", "Make the target an overlay of this image, holding only what differs")
            .short('B')
            .long("backing"),
        value("backing-format", "FMT", "The format of the backing image").short('F').long("backing-format"),
        flag("force-share", "Open the sources even if another process is writing to them")
            .short('U')
            .long("force-share"),
        flag("target-image-opts", "The target is a list of options (needs -n)").long("target-image-opts"),
        flag("salvage", "Write zeros where the source cannot be read, instead of giving up").long("salvage"),
        flag("target-is-zero", "Take for granted that the existing target reads as zeros (needs -n)")
            .long("target-is-zero"),
    ]
}

fn work_options() -> [Arg; 10] {
    [
        flag("bitmaps", "Copy the persistent bitmaps, too").long("bitmaps"),
        flag("skip-broken-bitmaps", "Leave out bitmaps that are inconsistent, instead of giving up")
            .long("skip-broken-bitmaps"),
        value("rate", "RATE", "Write at most this many bytes per second")
            .value_parser(parsed(parse_rate))
            .short('r')
            .long("rate"),
        value("parallel", "NUMBER", "How many threads copy, 1 to 16 (as many as there are processors)")
            .value_parser(parsed(parse_workers))
            .short('m')
            .long("parallel"),
        flag("oob-writes", "Write pieces as they get ready, not in the order of the disk")
            .short('W')
            .long("oob-writes"),
        flag("copy-range-offloading", "Let the kernel or the storage copy where possible")
            .short('C')
            .long("copy-range-offloading"),
        flag("compress", "Compress the target's clusters").short('c').alias("compress"),
        value("digest", "sha256|blake3", "Print the checksum of the disk, computed while it is copied")
            .value_parser(parsed(parse_algorithm))
            .long("digest")
            .help_heading(OWN),
        flag("verify", "Read the finished target back and compare it with the sources")
            .long("verify")
            .help_heading(OWN),
        flag("no-create", "Write into the existing target instead of creating it").short('n').alias("no-create"),
    ]
}

fn run(args: &Args) -> Result<i32> {
    match request::parse(args)? {
        Parsed::OptionHelp { format, target } => output::print(&target::option_help(format, target)?)?,
        Parsed::Convert(request) => {
            run::run(&request, &args.context())?;
        }
    }
    Ok(0)
}
