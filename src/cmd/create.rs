//! `create`: makes a new, empty image.

use super::Command;
use super::full::{Contents, Wanted};
use super::overlap;
use crate::cli::args::{Args, object, operands, value};
use crate::cli::common;
use crate::cli::create_options::{asks_for_help, option_help, parse_create_options, summary};
use crate::cli::output::print;
use crate::error::{Context, Error, Result};
use crate::format::{CreateOptions, CreateRequest, Format, OptionDesc, protocol};
use crate::image::{Chain, OpenContext, OpenFlags, creator, file_identity, open_backing, plain_name, resolve_backing};
use crate::number::size_argument;

/// The command.
pub static COMMAND: Command = Command {
    name: "create",
    summary: "Make a new, empty image",
    synopsis: "create [--object objectdef] [-q] [-f fmt] [-b backing_file [-F backing_fmt]] [-u] [-o options] filename \
               [size]",
    failure: 1,
    define,
    run,
};

fn define(command: clap::Command) -> clap::Command {
    command
        .arg(common::quiet())
        .arg(object())
        .arg(value("format", "FMT", "The format of the new image (raw)").short('f').long("format"))
        .arg(common::options("Creation options of the format; '-o help' lists them"))
        .arg(common::backing("Lay the new image over this one, holding only what differs"))
        .arg(common::backing_format())
        .arg(common::backing_unsafe("Do not look at the backing image; it need not exist (the size must be given)"))
        .arg(operands(
            "FILENAME [SIZE]",
            "The file to make, and the size of the disk (by default that of the backing image)",
        ))
}

/// What was asked for.
struct Request<'a> {
    filename: &'a str,
    format: &'a str,
    /// The size operand in bytes.
    size: Option<u64>,
    options: Option<&'a str>,
    backing: Option<&'a str>,
    backing_format: Option<&'a str>,
    /// Leave the backing file alone.
    unchecked: bool,
    quiet: bool,
}

fn run(args: &Args) -> Result<i32> {
    let options = match args.texts("options") {
        list if list.is_empty() => None,
        list => Some(list.join(",")),
    };
    let operands = args.operands();
    let format = args.text("format").unwrap_or("raw");
    if options.as_deref().is_some_and(asks_for_help) {
        print(&option_help(creator(format)?, operands.first().copied()))?;
        return Ok(0);
    }
    let Some((filename, rest)) = operands.split_first() else {
        return Err(args.usage("Expecting image file name"));
    };
    let size = rest.first().map(|size| size_argument("image size", size)).transpose()?;
    if let Some(extra) = rest.get(1) {
        return Err(args.usage(format!("Unexpected argument: {extra}")));
    }
    let request = Request {
        filename,
        format,
        size,
        options: options.as_deref(),
        backing: args.text("backing"),
        backing_format: args.text("backing-format"),
        unchecked: args.flag("backing-unsafe"),
        quiet: args.flag("quiet"),
    };
    create(&request, &args.context()).context(|| request.filename.to_owned())?;
    Ok(0)
}

/// Checks in the reference's order, says what will be made, and makes it.
fn create(request: &Request<'_>, context: &OpenContext) -> Result<()> {
    let format = creator(request.format)?;
    let create = format.creation()?;
    plain_name(request.filename)?;
    let filename = protocol::name_with_driver(request.format, request.filename);
    let known = [format.create_options, protocol::options_for(request.filename)];
    let mut options = parse_create_options(request.options.unwrap_or(""), &known)?;
    let mut size = match (options.get("size"), request.size) {
        (Some(_), Some(_)) => return Err(Error::invalid("The image size must be specified only once")),
        // The parser has made it a plain number.
        (Some(size), None) => size.parse().ok(),
        (None, size) => size,
    };
    set_backing(request, format, &known, &mut options)?;
    if let Some(backing) = open_backing_file(request, &options, context)? {
        size = size.or(Some(backing.top().layer.size()));
    }
    let size = size.ok_or_else(|| Error::invalid("Image creation needs a size parameter"))?;
    options.set("size", size.to_string());
    if !request.quiet {
        let list = summary(&known, &options);
        print(&format!("Formatting '{}', fmt={}{list}\n", request.filename, format.name))?;
    }
    options.0.retain(|(name, _)| name != "size");
    overlap::check_data_file(request.filename, options.data_file())?;
    let make = CreateRequest { filename: &filename, size, options: &options, context, no_flush: false };
    create(make).map_err(|error| {
        let wanted = Wanted { format, filename: filename.clone(), options: options.clone(), size };
        wanted.advise(explain_size(error, format, &known), Contents::Empty, context)
    })
}

/// Puts `-b` and `-F` among the options.
fn set_backing(
    request: &Request<'_>,
    format: &Format,
    known: &[&[OptionDesc]],
    options: &mut CreateOptions,
) -> Result<()> {
    let given = [
        ("backing_file", request.backing, "Backing file not supported"),
        ("backing_fmt", request.backing_format, "Backing file format not supported"),
    ];
    for (name, value, refusal) in given {
        let Some(value) = value else { continue };
        if !known.iter().copied().flatten().any(|desc| desc.name == name) {
            return Err(Error::unsupported(format!("{refusal} for file format '{}'", format.name)));
        }
        options.set(name, value);
    }
    let Some(backing) = options.get("backing_file") else { return Ok(()) };
    if backing.is_empty() {
        return Err(Error::invalid("Expected backing file name, got empty string"));
    }
    if backing == request.filename {
        return Err(own_backing());
    }
    Ok(())
}

fn own_backing() -> Error {
    Error::invalid("Error: Trying to create an image with the same filename as the backing file")
}

/// Opens the backing file with everything below it: it must be usable, and may have to give its size.
fn open_backing_file(request: &Request<'_>, options: &CreateOptions, context: &OpenContext) -> Result<Option<Chain>> {
    let Some(backing) = options.get("backing_file") else { return Ok(None) };
    let format = options.get("backing_fmt");
    let unnamed = || Error::invalid("Backing file specified without backing format");
    if request.unchecked {
        let file = resolve_backing(request.filename, backing).and_then(|name| plain_name(&name)).ok();
        let identity = file.and_then(|name| file_identity(&name));
        check_places(request, options, |place| identity.is_some() && file_identity(place) == identity)?;
        return if format.is_some() { Ok(None) } else { Err(unnamed()) };
    }
    // Nothing is read, so no key is needed.
    let flags = OpenFlags { share: true, no_io: true, ..OpenFlags::READ };
    let chain = open_backing(request.filename, backing, format, flags, context)
        .map_err(|error| error.hint("Could not open backing image."))?;
    if format.is_none() {
        return Err(unnamed().hint(format!("Detected format of {}.", chain.top().layer.format())));
    }
    check_places(request, options, |place| chain.contains_file(place))?;
    Ok(Some(chain))
}

/// The new image and its data file must not be made over a file that the image will need. The reference looks at the names
/// alone, and destroys the backing file where another name leads to it.
fn check_places(request: &Request<'_>, options: &CreateOptions, needed: impl Fn(&str) -> bool) -> Result<()> {
    if needed(&plain_name(request.filename)?) {
        return Err(own_backing());
    }
    match options.data_file() {
        Some(name) if needed(&plain_name(name)?) => {
            Err(Error::invalid(format!("Error: The data file '{name}' is the backing file, or one that it needs")))
        }
        _ => Ok(()),
    }
}

/// A disk that is too large for its format is told so.
fn explain_size(error: Error, format: &Format, known: &[&[OptionDesc]]) -> Error {
    if error.errno() != libc::EFBIG {
        return error;
    }
    let clusters = known.iter().copied().flatten().any(|desc| desc.name == "cluster_size");
    let advice = if clusters { " (try using a larger cluster size)" } else { "" };
    Error::invalid(format!("The image size is too large for file format '{}'{advice}", format.name))
}
