//! `commit`: writes what an image has into its backing file.

use super::Command;
use super::watch::Watch;
use crate::cli::args::{Args, flag, object, operands, parsed, value};
use crate::cli::common;
use crate::cli::output::print;
use crate::cli::progress::Ending;
use crate::commit::Commit;
use crate::copy::rate::Rate;
use crate::copy::{Monitor, Phase};
use crate::error::{Context, Error, Kind, Result};
use crate::image::{Chain, OpenContext, OpenFlags, Preallocation, open_chain, reopen_for_writing};
use crate::number::size_argument;
use crate::storage::CacheMode;

/// The command.
pub static COMMAND: Command = Command {
    name: "commit",
    summary: "Write what an image has into its backing file",
    synopsis: "commit [--object objectdef] [--image-opts] [-q] [-f fmt] [-t cache] [-b base] [-r rate_limit] [-d] [-p] \
               filename",
    failure: 1,
    define,
    run,
};

fn define(command: clap::Command) -> clap::Command {
    command
        .arg(common::quiet())
        .args(common::progress())
        .arg(common::format())
        .arg(common::image_opts())
        .arg(value("cache", "CACHE", "Cache mode (writeback)").short('t').long("cache"))
        .arg(flag("drop", "Leave the image as it is instead of emptying it at the end").short('d').long("drop"))
        .arg(
            value("base", "FILE", "Write into this image of the backing chain, instead of the first (implies --drop)")
                .short('b')
                .long("base"),
        )
        .arg(
            value("rate", "RATE", "Bytes per second at most")
                .value_parser(parsed(|text| size_argument("rate limit", text)))
                .short('r')
                .long("rate"),
        )
        .arg(object())
        .arg(operands("FILENAME", "The image"))
}

fn run(args: &Args) -> Result<i32> {
    let filename = args.one_image()?;
    let mode = args.text("cache").unwrap_or("writeback");
    let cache = CacheMode::parse(mode).ok_or_else(|| Error::invalid(format!("Invalid cache option: {mode}")))?;
    let (context, flags) = (args.context(), OpenFlags { cache, ..OpenFlags::WRITE });
    let chain = open_chain(&args.spec(filename)?, flags, &context)?;
    let quiet = args.flag("quiet");
    let watch = Watch::new(args.progress(), quiet)?;
    let result = commit(args, filename, chain, flags, &context, &watch);
    watch.finish(Ending::of(&result));
    result?;
    if !quiet {
        print("Image committed.\n")?;
    }
    Ok(0)
}

fn commit(
    args: &Args,
    filename: &str,
    chain: Chain,
    flags: OpenFlags,
    context: &OpenContext,
    watch: &Watch,
) -> Result<()> {
    let base = args.text("base");
    let layers = match base {
        Some(name) => chain
            .find_backing(name)
            .ok_or_else(|| Error::not_found(format!("Did not find '{name}' in the backing chain of '{filename}'")))?,
        None if chain.nodes().len() > 1 => 1,
        None => return Err(Error::invalid("Image does not have a backing file")),
    };
    let (upper, below) = chain.split_at(layers);
    let grows = below.size() < upper.size();
    let flags = OpenFlags { resize: grows, keep_size: true, ..flags };
    let below = reopen_for_writing(below, flags, context)?;
    if grows {
        let grown = below.resize(upper.size(), Preallocation::Off);
        grown.map_err(|error| job_failed(error.number()))?;
    }
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get().min(16));
    let rate = args.get::<u64>("rate").copied().filter(|rate| *rate > 0).map(Rate::Before);
    Commit { upper: &upper, base: &below, rate, workers, monitor: watch }.run().map_err(job_failed)?;
    // With another base, the images in between would show what has just been committed below them.
    if base.is_none() && !args.flag("drop") {
        watch.phase(Phase::Empty);
        let layer = &upper.top().layer;
        layer.make_empty().and_then(|()| layer.flush()).context(|| format!("Could not empty '{filename}'"))?;
    }
    Ok(())
}

/// What the reference says about all that can go wrong on the way.
fn job_failed(error: Error) -> Error {
    match error.kind() {
        Kind::Interrupted(_) => error,
        _ => error.bare().context("Block job failed"),
    }
}
