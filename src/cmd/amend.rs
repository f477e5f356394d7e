//! `amend`: changes what an existing image says about its format.

use super::Command;
use super::watch::Watch;
use crate::cli::args::{Args, flag, object, operands, value};
use crate::cli::common;
use crate::cli::create_options::{amend_help, asks_for_help, parse_create_options};
use crate::cli::output::print;
use crate::cli::progress::Ending;
use crate::copy::{Monitor, Phase};
use crate::error::{Error, Kind, Result};
use crate::format::{self, CreateOptions, Format};
use crate::image::{Chain, OpenFlags, creator, open_chain};
use crate::storage::CacheMode;

/// The command.
pub static COMMAND: Command = Command {
    name: "amend",
    summary: "Change options of an existing image",
    synopsis: "amend [--object objectdef] [--image-opts] [-p] [-q] [-f fmt] [-t cache] [--force] -o options filename",
    failure: 1,
    define,
    run,
};

fn define(command: clap::Command) -> clap::Command {
    command
        .arg(object())
        .arg(common::options("What shall change; '-o help' lists what can"))
        .args(common::progress())
        .arg(common::quiet())
        .arg(common::format())
        .arg(common::image_opts())
        .arg(value("cache", "CACHE", "Cache mode of the image (writeback)").short('t').long("cache"))
        .arg(flag("force", "Do also what makes the data unreadable for good").long("force"))
        .arg(operands("FILENAME", "The image"))
}

fn run(args: &Args) -> Result<i32> {
    if !args.given("options") {
        return Err(args.usage("Must specify options (-o)"));
    }
    let list = args.texts("options").join(",");
    let operands = args.operands();
    let help = asks_for_help(&list);
    if help && let Some(name) = args.text("format") {
        // The image need not be there.
        print(&amend_help(amendable(creator(name)?)?))?;
        return Ok(0);
    }
    let [filename] = operands[..] else { return Err(Error::invalid("Expecting one image file name")) };
    let cache = args.text("cache").unwrap_or("writeback");
    let cache = CacheMode::parse(cache).ok_or_else(|| Error::invalid(format!("Invalid cache option: {cache}")))?;
    let context = args.context();
    let flags = OpenFlags { cache, ..OpenFlags::WRITE };
    let chain = open_chain(&args.spec(filename)?, flags, &context)?;
    let format = amendable(format_of(&chain)?)?;
    if help {
        print(&amend_help(format))?;
        return Ok(0);
    }
    let options = options(&list, format)?;
    let watch = Watch::new(args.progress(), args.flag("quiet"))?;
    watch.phase(Phase::Header);
    let result = chain.amend(&options, args.flag("force"), &context);
    watch.finish(match result {
        Ok(()) => Ending::Done,
        Err(_) => Ending::FailedAtEnd,
    });
    result.map(|()| 0)
}

fn format_of(chain: &Chain) -> Result<&'static Format> {
    let name = chain.top().layer.format();
    format::find(name).ok_or_else(|| Error::new(Kind::Invalid(format!("Unknown file format '{name}'"))))
}

fn amendable(format: &'static Format) -> Result<&'static Format> {
    if format.amend_options.is_empty() {
        let text = format!("Format driver '{}' does not support option amendment", format.name);
        return Err(Error::unsupported(text));
    }
    Ok(format)
}

/// The options. A list that creation would take is told from one that is wrong.
fn options(list: &str, format: &Format) -> Result<CreateOptions> {
    parse_create_options(list, &[format.amend_options]).map_err(|error| {
        if parse_create_options(list, &[format.amend_options, format.create_options]).is_ok() {
            error.hint("This option is only supported for image creation")
        } else {
            error
        }
    })
}
