//! `info`: what an image is and what it contains.

use super::Command;
use crate::cli::args::{Args, flag, operands, value};
use crate::error::{Error, Result};

/// The command.
pub static COMMAND: Command = Command {
    name: "info",
    summary: "Show what an image is and what it contains",
    synopsis: "info [--object objectdef] [--image-opts] [-f fmt] [--output=ofmt] [--backing-chain] [-U] filename",
    define,
    run,
};

fn define(command: clap::Command) -> clap::Command {
    command
        .arg(
            value("format", "FMT", "The format of the image; without it, the format is probed")
                .short('f')
                .long("format"),
        )
        .arg(value("output", "human|json", "Print for people (the default) or as JSON").long("output"))
        .arg(
            flag("backing-chain", "Show all images of the backing chain, the named one first")
                .short('b')
                .long("backing-chain"),
        )
        .arg(
            value("object", "OBJDEF", "Define an object, in particular a secret: secret,id=ID,file=FILE")
                .long("object"),
        )
        .arg(flag("image-opts", "FILENAME is a list of options (driver=...,file.filename=...)").long("image-opts"))
        .arg(
            flag("force-share", "Open the image even if another process is writing to it")
                .short('U')
                .long("force-share"),
        )
        .arg(operands("FILENAME", "The image"))
}

fn run(args: &Args) -> Result<i32> {
    args.one_image()?;
    Err(Error::unsupported("info is not implemented yet"))
}
