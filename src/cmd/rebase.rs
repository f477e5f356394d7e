//! `rebase`: puts an image onto another backing file.

use super::Command;
use super::watch::Watch;
use crate::cli::args::{Args, flag, object, operands, value};
use crate::cli::common;
use crate::cli::progress::Ending;
use crate::copy::{Monitor, Phase};
use crate::error::{Context, Error, Result};
use crate::format;
use crate::image::{
    BackingRef, Chain, OpenContext, OpenFlags, is_known_driver, open_backing, open_chain, resolve_backing,
};
use crate::rebase::Rebase;
use crate::storage::CacheMode;

/// The command.
pub static COMMAND: Command = Command {
    name: "rebase",
    summary: "Put an image onto another backing file",
    synopsis: "rebase [--object objectdef] [--image-opts] [-U] [-q] [-f fmt] [-t cache] [-T src_cache] [-p] [-u] [-c] -b \
               backing_file [-F backing_fmt] filename",
    failure: 1,
    define,
    run,
};

fn define(command: clap::Command) -> clap::Command {
    command
        .arg(common::quiet())
        .args(common::progress())
        // In this order the reference lists what an ambiguous option may have meant.
        .arg(common::force_share())
        .arg(common::format())
        .arg(common::image_opts())
        .arg(value("cache", "CACHE", "Cache mode of the image (writeback)").short('t').long("cache"))
        .arg(common::backing("The new backing file; '' for none, which makes the image independent"))
        .arg(common::backing_format())
        .arg(
            value("backing-cache", "CACHE", "Cache mode of the backing files (writeback)")
                .short('T')
                .long("backing-cache"),
        )
        .arg(common::backing_unsafe(
            "Change the name in the image and nothing else: right only if both backing files show the same",
        ))
        .arg(flag("compress", "Compress what is copied into the image").short('c').long("compress"))
        .arg(object())
        .arg(operands("FILENAME", "The image"))
}

/// What was asked for.
struct Request<'a> {
    /// The name of the new backing file; `None` for none.
    backing: Option<&'a str>,
    backing_format: Option<&'a str>,
    /// What stood behind `-b`, for messages.
    named: Option<&'a str>,
    backing_cache: CacheMode,
    compress: bool,
    share: bool,
}

fn run(args: &Args) -> Result<i32> {
    let filename = args.one_image()?;
    let named = args.text("backing");
    let unchecked = args.flag("backing-unsafe");
    if !unchecked && named.is_none() {
        return Err(args.usage("Must specify backing file (-b) or use unsafe mode (-u)"));
    }
    let watch = Watch::new(args.progress(), args.flag("quiet"))?;
    let mode = |option: &str, what: &str| {
        let mode = args.text(option).unwrap_or("writeback");
        CacheMode::parse(mode).ok_or_else(|| Error::invalid(format!("Invalid {what}: {mode}")))
    };
    let cache = mode("cache", "cache option")?;
    let backing_cache = mode("backing-cache", "source cache option")?;
    let request = Request {
        backing: named.filter(|name| !name.is_empty()),
        backing_format: args.text("backing-format"),
        named,
        backing_cache,
        compress: args.flag("compress"),
        share: args.flag("force-share"),
    };
    let context = args.context();
    let flags = OpenFlags { cache, no_backing: unchecked, ..OpenFlags::WRITE };
    let result = open_chain(&args.spec(filename)?, flags, &context)
        .and_then(|image| rebase(&request, &image, unchecked, &context, &watch));
    watch.finish(Ending::of(&result));
    result.map(|()| 0)
}

/// Checks in the reference's order, but everything before anything is copied; then copies, and changes the header.
fn rebase(request: &Request<'_>, image: &Chain, unchecked: bool, context: &OpenContext, watch: &Watch) -> Result<()> {
    let layer = &image.top().layer;
    if request.compress && format::find(layer.format()).is_none_or(|format| format.compression.is_none()) {
        return Err(Error::unsupported("Compression not supported for this file format"));
    }
    if let Some(unknown) = request.backing_format.filter(|format| !is_known_driver(format)) {
        return Err(Error::invalid(format!("Invalid format name: '{unknown}'")));
    }
    let new = if unchecked { None } else { open_new(request, image, context)? };
    let format = request.backing_format.map(str::to_owned);
    let named = request.backing.map(|name| BackingRef { filename: name.to_owned(), format });
    check(request, image, named.as_ref())?;
    if !unchecked {
        let workers = std::thread::available_parallelism().map_or(1, |count| count.get().min(16));
        Rebase { image, new: new.as_ref(), compress: request.compress, workers, monitor: watch }.copy()?;
    }
    watch.phase(Phase::Header);
    layer.set_backing(named.as_ref()).map_err(|error| refuse(request, &error))
}

/// Opens the new backing file; `None` where there shall be none.
fn open_new(request: &Request<'_>, image: &Chain, context: &OpenContext) -> Result<Option<Chain>> {
    let Some(name) = request.backing else { return Ok(None) };
    let flags = OpenFlags { share: request.share, cache: request.backing_cache, ..OpenFlags::READ };
    let overlay = &image.top().filename;
    resolve_backing(overlay, name).context(|| "Could not resolve backing filename")?;
    open_backing(overlay, name, request.backing_format, flags, context)
        .context(|| format!("Could not open new backing file '{name}'"))
        .map(Some)
}

/// Whether the header can be changed as asked for.
fn check(request: &Request<'_>, image: &Chain, backing: Option<&BackingRef>) -> Result<()> {
    if backing.is_some_and(|backing| backing.format.is_none()) {
        return Err(Error::invalid("backing format must be specified").context(changing(request)));
    }
    image.top().layer.check_backing(backing).map_err(|error| refuse(request, &error))
}

fn changing(request: &Request<'_>) -> String {
    format!("Could not change the backing file to '{}'", request.named.unwrap_or("(null)"))
}

/// The error of a header that was not changed.
fn refuse(request: &Request<'_>, error: &Error) -> Error {
    let reason = match error.errno() {
        libc::ENOSPC => error.number().replace("No space left in the file header"),
        _ => error.number(),
    };
    reason.context(changing(request))
}
