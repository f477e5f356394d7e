//! `snapshot`: lists, takes, applies and deletes the snapshots inside an image.

use super::Command;
use crate::cli::args::{Args, flag, operands, value};
use crate::error::{Error, Result};

/// The command.
pub static COMMAND: Command = Command {
    name: "snapshot",
    summary: "List, take, apply or delete snapshots inside an image",
    synopsis: "snapshot [--object objectdef] [--image-opts] [-U] [-q] [-f fmt] [-l | -a snapshot | -c snapshot | \
               -d snapshot] filename",
    define,
    run,
};

fn define(command: clap::Command) -> clap::Command {
    // The order of long options decides the order in which an ambiguous prefix lists them: it is the reference's. The
    // reference documents values for --apply, --create and --delete, too, but forgets to read them (and crashes); here
    // they do what its help says.
    command
        .arg(flag("quiet", "Print no messages besides errors").short('q').long("quiet"))
        .arg(
            value("object", "OBJDEF", "Define an object, in particular a secret: secret,id=ID,file=FILE")
                .long("object"),
        )
        .arg(
            value("format", "FMT", "The format of the image; without it, the format is probed")
                .short('f')
                .long("format"),
        )
        .arg(flag("image-opts", "FILENAME is a list of options (driver=...,file.filename=...)").long("image-opts"))
        .arg(
            flag("force-share", "Open the image even if another process is writing to it")
                .short('U')
                .long("force-share"),
        )
        .arg(flag("list", "List the snapshots (the default)").short('l').long("list"))
        .arg(
            value("apply", "SNAPSHOT", "Make the disk what it was when this snapshot was taken")
                .short('a')
                .long("apply"),
        )
        .arg(value("create", "SNAPSHOT", "Take a snapshot with this name").short('c').long("create"))
        .arg(value("delete", "SNAPSHOT", "Delete this snapshot").short('d').long("delete"))
        .arg(operands("FILENAME", "The image"))
}

fn run(args: &Args) -> Result<i32> {
    args.one_image()?;
    Err(Error::unsupported("snapshot is not implemented yet"))
}
