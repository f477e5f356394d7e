//! `bench`: how long reading or writing takes.

use std::time::Instant;

use super::Command;
use crate::bench::Bench;
use crate::cli::args::{Args, flag, operands, parsed, value};
use crate::cli::common;
use crate::cli::output::print;
use crate::error::{Context, Error, Result};
use crate::image::{OpenFlags, open_chain};
use crate::number::{number_argument, size_argument, size_argument_in};
use crate::storage::CacheMode;

/// The command.
pub static COMMAND: Command = Command {
    name: "bench",
    summary: "Measure how long reading or writing takes",
    synopsis: "bench [-c count] [-d depth] [-f fmt] [--flush-interval=flush_interval] [-i aio] [-n] [--no-drain] \
               [-o offset] [--pattern=pattern] [-q] [-s buffer_size] [-S step_size] [-t cache] [-w] [-U] [--image-opts] \
               filename",
    failure: 1,
    define,
    run,
};

/// The largest count, depth and size: 31 bits.
const MAX: u64 = i32::MAX as u64;

fn define(command: clap::Command) -> clap::Command {
    let number = |what: &'static str, min, max| parsed(move |text| number_argument(what, text, min, max));
    let size = |what: &'static str, min| parsed(move |text| size_argument_in(what, text, min, MAX));
    command
        .arg(common::quiet())
        .arg(common::format())
        .arg(common::image_opts())
        .arg(
            value("cache", "CACHE", "Cache mode (writeback)")
                .value_parser(parsed(|text| CacheMode::parse(text).ok_or_else(|| Error::invalid("Invalid cache mode"))))
                .short('t')
                .long("cache"),
        )
        .arg(
            value("count", "COUNT", "How many requests (75000)")
                .value_parser(number("request count", 1, MAX))
                .short('c')
                .long("count"),
        )
        .arg(
            value("buffer-size", "SIZE", "How many bytes each request has (4k)")
                .value_parser(size("buffer size", 1))
                .short('s')
                .long("buffer-size"),
        )
        .arg(
            value("depth", "DEPTH", "How many requests are in flight at a time (64)")
                .value_parser(number("queue depth", 1, MAX))
                .short('d')
                .long("depth"),
        )
        .arg(
            value("offset", "OFFSET", "Where the first request begins (0)")
                .value_parser(parsed(|text| size_argument("offset", text)))
                .short('o')
                .long("offset"),
        )
        .arg(
            value("step-size", "SIZE", "How far the next request begins behind the last one (its size)")
                .value_parser(size("step size", 0))
                .short('S')
                .long("step-size"),
        )
        .arg(
            value("aio", "AIO", "How requests are made: threads, native or io_uring; always threads here")
                .value_parser(parsed(aio))
                .short('i')
                .long("aio"),
        )
        .arg(flag("native", "The same as --aio native").short('n').long("native"))
        .arg(flag("write", "Write instead of reading").short('w').long("write"))
        .arg(
            value("pattern", "BYTE", "Write this byte (0)")
                .value_parser(number("pattern byte", 0, 0xff))
                .long("pattern"),
        )
        .arg(
            value("flush-interval", "COUNT", "With -w: flush after this many requests (never)")
                .value_parser(number("flush interval", 0, MAX))
                .long("flush-interval"),
        )
        .arg(flag("no-drain", "Go on with requests while flushing").long("no-drain"))
        .arg(common::force_share())
        .arg(operands("FILENAME", "The image"))
}

/// Whether `-i` asks for the kernel's own asynchronous requests.
fn aio(text: &str) -> Result<bool> {
    match text {
        "threads" | "io_uring" => Ok(false),
        "native" => Ok(true),
        other => Err(Error::invalid(format!("Invalid aio option: {other}"))),
    }
}

fn run(args: &Args) -> Result<i32> {
    let filename = args.one_image()?;
    let cache = args.get::<CacheMode>("cache").copied().unwrap_or(CacheMode::WRITEBACK);
    let bench = request(args, cache)?;
    let write = bench.write.is_some();
    let share = args.flag("force-share");
    let native_aio = args.flag("native") || args.all::<bool>("aio").contains(&true);
    if write && share {
        let error = Error::invalid("force-share=on can only be used with read-only images");
        return Err(error.context(format!("Could not open '{filename}'")));
    }
    let flags = OpenFlags { write, share, cache, native_aio, ..OpenFlags::READ };
    let chain = open_chain(&args.spec(filename)?, flags, &args.context())?;
    print(&announcement(&bench))?;
    let start = Instant::now();
    let done = bench.run(&chain).context(|| "Failed request");
    let taken = start.elapsed();
    // What was written is there to stay, also if something else could not be.
    let closed = if write { chain.top().layer.flush() } else { Ok(()) };
    done?;
    print(&format!("Run completed in {:.3} seconds.\n", taken.as_secs_f64()))?;
    closed.context(|| format!("Could not write to '{filename}'"))?;
    Ok(0)
}

fn request(args: &Args, cache: CacheMode) -> Result<Bench> {
    let number = |id: &str, default| args.get::<u64>(id).copied().unwrap_or(default);
    // All of these have 31 bits at most.
    let small = |id: &str, default| number(id, default) as u32;
    let size = number("buffer-size", 4096);
    let write = args.flag("write");
    let bench = Bench {
        write: write.then(|| number("pattern", 0) as u8),
        count: small("count", 75000),
        depth: small("depth", 64),
        size: size as usize,
        offset: number("offset", 0),
        step: match number("step-size", 0) {
            0 => size,
            step => step,
        },
        flush_interval: small("flush-interval", 0),
        drain: !args.flag("no-drain"),
        writethrough: cache.writethrough,
    };
    if bench.flush_interval > 0 && !write {
        return Err(Error::invalid("--flush-interval is only available in write tests"));
    }
    if bench.flush_interval > 0 && bench.flush_interval < bench.depth {
        return Err(Error::invalid("Flush interval can't be smaller than depth"));
    }
    Ok(bench)
}

fn announcement(bench: &Bench) -> String {
    let kind = if bench.write.is_some() { "write" } else { "read" };
    let Bench { count, size, depth, offset, step, flush_interval, .. } = bench;
    let mut text = format!(
        "Sending {count} {kind} requests, {size} bytes each, {depth} in parallel (starting at offset {offset}, step size \
         {step})\n"
    );
    if *flush_interval > 0 {
        text += &format!("Sending flush every {flush_interval} requests\n");
    }
    text
}
