//! `compare`: whether two images show the same disk.

use super::Command;
use super::watch::Watch;
use crate::cli::args::{Args, flag, object, operands, value};
use crate::cli::common::{self, image_spec};
use crate::cli::output::{self, print};
use crate::cli::progress::Ending;
use crate::compare::{Comparison, Failure, Outcome};
use crate::error::{Error, Result};
use crate::image::{Chain, OpenFlags, open_chain};
use crate::storage::CacheMode;

/// The command.
pub static COMMAND: Command = Command {
    name: "compare",
    summary: "Find out whether two images show the same disk",
    synopsis: "compare [--object objectdef] [--image-opts] [-f fmt] [-F fmt] [-T src_cache] [-p] [-q] [-s] [-U] \
               filename1 filename2",
    failure: 2,
    define,
    run,
};

fn define(command: clap::Command) -> clap::Command {
    command
        .arg(common::quiet())
        .args(common::progress())
        .arg(
            value("format", "FMT", "The format of the first image")
                .short('f')
                .long("a-format")
                .visible_alias("left-format"),
        )
        .arg(
            value("second-format", "FMT", "The format of the second image")
                .short('F')
                .long("b-format")
                .visible_alias("right-format"),
        )
        .arg(common::image_opts())
        .arg(
            flag("strict", "The sizes must be equal, and what is allocated must be the same").short('s').long("strict"),
        )
        .arg(value("cache", "CACHE", "Cache mode of both (writeback)").short('T').long("cache"))
        .arg(common::force_share())
        .arg(object())
        .arg(operands("FILENAME1 FILENAME2", "The images"))
        .after_help(
            "The exit code is 0 if the disks are equal, 1 if they differ (or the command line is wrong), 2 if an image \
             cannot be\nopened, 3 if the layout of an image cannot be read, and 4 if its content cannot be read.",
        )
}

fn run(args: &Args) -> Result<i32> {
    let operands = args.operands();
    let [first, second] = operands[..] else { return Err(args.usage("Expecting two image file names")) };
    let cache = args.text("cache").unwrap_or("writeback");
    let cache =
        CacheMode::parse(cache).ok_or_else(|| Error::invalid(format!("Invalid source cache option: {cache}")))?;
    let quiet = args.flag("quiet");
    let watch = Watch::new(args.progress(), quiet)?;
    let images = [(first, args.text("format")), (second, args.text("second-format"))];
    let result = open(args, images, cache).and_then(|chains| judge(args, [first, second], &chains, &watch));
    // How far it got is all there is to say: the last line has been printed where the work was done.
    watch.finish(match result {
        Ok(0 | 1) => Ending::Stopped,
        _ => Ending::Failed,
    });
    result
}

fn open(args: &Args, images: [(&str, Option<&str>); 2], cache: CacheMode) -> Result<[Chain; 2]> {
    let flags = OpenFlags { share: args.flag("force-share"), cache, ..OpenFlags::READ };
    let context = args.context();
    let open = |(name, format): (&str, Option<&str>)| {
        open_chain(&image_spec(name, args.flag("image-opts"), format)?, flags, &context)
    };
    let [first, second] = images;
    Ok([open(first)?, open(second)?])
}

/// Compares, says what came of it, and returns the exit code.
fn judge(args: &Args, names: [&str; 2], chains: &[Chain; 2], watch: &Watch) -> Result<i32> {
    let quiet = args.flag("quiet");
    let say = |text: &str| if quiet { Ok(()) } else { print(text) };
    let [first, second] = chains;
    let strict = args.flag("strict");
    if strict && first.size() != second.size() {
        say("Strict mode: Image size mismatch!\n")?;
        return Ok(1);
    }
    let comparison = Comparison {
        disks: [first, second],
        strict,
        monitor: watch,
        shorter: &|| drop(say("Warning: Image size mismatch!\n")),
    };
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get().min(16));
    match comparison.run(workers) {
        Ok(Outcome::Same) => say("Images are identical.\n").map(|()| 0),
        Ok(Outcome::Differs(offset)) => say(&format!("Content mismatch at offset {offset}!\n")).map(|()| 1),
        Ok(Outcome::Layout(offset)) => {
            say(&format!("Strict mode: Offset {offset} block status mismatch!\n")).map(|()| 1)
        }
        Err(failure @ Failure::Interrupted(_)) => Err(failure.explain(names).0),
        Err(failure) => {
            let (error, code) = failure.explain(names);
            output::report(&error);
            Ok(code)
        }
    }
}
