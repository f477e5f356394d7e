//! `resize`: gives an image another virtual size.

use std::cmp::Ordering;
use std::sync::Arc;

use super::Command;
use super::full::advise_on_growth;
use crate::cli::args::{Args, flag, object, operands, parsed, value};
use crate::cli::common;
use crate::cli::output::print;
use crate::error::{Error, Result};
use crate::image::{Chain, OpenFlags, Preallocation, open_chain};
use crate::number::{MAX_SIZE, NumberError, parse_size};

/// The command.
pub static COMMAND: Command = Command {
    name: "resize",
    summary: "Give an image another virtual size",
    synopsis: "resize [--object objectdef] [--image-opts] [-f fmt] [--preallocation=prealloc] [-q] [--shrink] filename \
               [+ | -]size",
    failure: 1,
    define,
    run,
};

fn define(command: clap::Command) -> clap::Command {
    command
        .arg(common::quiet())
        .arg(common::format())
        .arg(common::image_opts())
        .arg(flag("shrink", "Allow the disk to become smaller; what lies behind its new end is lost").long("shrink"))
        .arg(
            value("preallocation", "MODE", "Prepare what is new: off, metadata, falloc or full")
                .value_parser(parsed(preallocation))
                .long("preallocation"),
        )
        .arg(object())
        .arg(
            operands("FILENAME SIZE", "The image, and its new size, or with a sign by how much it grows or shrinks")
                .allow_negative_numbers(true),
        )
}

fn preallocation(text: &str) -> Result<Preallocation> {
    Preallocation::from_name(text).ok_or_else(|| Error::invalid(format!("Invalid preallocation mode '{text}'")))
}

/// What the size operand says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NewSize {
    Exactly(u64),
    More(u64),
    Less(u64),
}

impl NewSize {
    fn parse(text: &str) -> Result<NewSize> {
        let (kind, digits): (fn(u64) -> NewSize, _) = match text.as_bytes().first() {
            Some(b'+') => (NewSize::More, &text[1..]),
            Some(b'-') => (NewSize::Less, &text[1..]),
            _ => (NewSize::Exactly, text),
        };
        match parse_size(digits) {
            Ok(size) => Ok(kind(size)),
            Err(NumberError::Range) => {
                Err(Error::invalid(format!("Value '{digits}' is out of range for parameter 'size'")))
            }
            Err(NumberError::Invalid) => {
                Err(Error::invalid("Parameter 'size' expects a non-negative number below 2^64").hint(
                    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
                     and exabytes, respectively.",
                ))
            }
        }
    }

    /// The size in bytes of a disk that has `current` bytes now.
    fn apply(self, current: u64) -> Result<u64> {
        let size = match self {
            NewSize::Exactly(size) => Some(size),
            NewSize::More(size) => current.checked_add(size),
            NewSize::Less(size) => current.checked_sub(size),
        };
        let positive = size.filter(|size| (1..=MAX_SIZE).contains(size));
        positive.ok_or_else(|| Error::invalid("New image size must be positive"))
    }
}

fn run(args: &Args) -> Result<i32> {
    let operands = args.operands();
    let [filename, size, extra @ ..] = &operands[..] else {
        return Err(args.usage("Expecting image file name and size"));
    };
    if !extra.is_empty() {
        return Err(args.usage("Extra argument(s) in command line"));
    }
    let size = NewSize::parse(size)?;
    let flags = OpenFlags { resize: true, ..OpenFlags::WRITE };
    let chain = open_chain(&args.spec(filename)?, flags, &args.context())?;
    resize(args, &chain, size)?;
    if !args.flag("quiet") {
        print("Image resized.\n")?;
    }
    Ok(0)
}

fn resize(args: &Args, chain: &Chain, size: NewSize) -> Result<()> {
    let preallocation = args.get::<Preallocation>("preallocation").copied().unwrap_or_default();
    let current = chain.size();
    let size = size.apply(current)?;
    let order = size.cmp(&current);
    if order != Ordering::Greater && preallocation != Preallocation::Off {
        return Err(Error::invalid("Preallocation can only be used for growing images"));
    }
    if order == Ordering::Less && !args.flag("shrink") {
        return Err(Error::invalid("Use the --shrink option to perform a shrink operation.").hint(
            "qemu-img: warning: Shrinking an image will delete all data beyond the shrunken image's end. Before \
             performing such an operation, make sure there is no important data there.",
        ));
    }
    chain.resize(size, preallocation).map_err(|error| {
        let layer = &chain.top().layer;
        // Somewhere else, nothing is known about the room there is.
        let here = Arc::ptr_eq(layer.storage(), layer.data_storage());
        if preallocation.takes_space() && here {
            advise_on_growth(error, &chain.top().filename, size - current)
        } else {
            error
        }
    })
}

#[cfg(test)]
#[path = "resize_tests.rs"]
mod tests;
