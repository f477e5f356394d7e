//! `snapshot`: lists, takes, applies and deletes the snapshots inside an image.

use super::Command;
use crate::cli::args::{Args, OWN, flag, object, operands, value};
use crate::cli::common::{self, Output};
use crate::cli::output::print;
use crate::cli::snapshot_table;
use crate::error::{Context, Error, Result};
use crate::image::{OpenFlags, Snapshots, not_supported, open_chain, snapshot_json};
use crate::json;

/// The command.
pub static COMMAND: Command = Command {
    name: "snapshot",
    summary: "List, take, apply or delete snapshots inside an image",
    synopsis: "snapshot [--object objectdef] [--image-opts] [-U] [-q] [-f fmt] [-l | -a snapshot | -c snapshot | \
               -d snapshot] filename",
    failure: 1,
    define,
    run,
};

fn define(command: clap::Command) -> clap::Command {
    // The order of long options decides the order in which an ambiguous prefix lists them: it is the reference's. The
    // reference documents values for --apply, --create and --delete, too, but forgets to read them (and crashes); here
    // they do what its help says.
    command
        .arg(common::quiet())
        .arg(object())
        .arg(common::format())
        .arg(common::image_opts())
        .arg(common::force_share())
        .arg(flag("list", "List the snapshots (the default)").short('l').long("list"))
        .arg(
            value("apply", "SNAPSHOT", "Make the disk what it was when this snapshot was taken")
                .short('a')
                .long("apply"),
        )
        .arg(value("create", "SNAPSHOT", "Take a snapshot with this name").short('c').long("create"))
        .arg(value("delete", "SNAPSHOT", "Delete this snapshot").short('d').long("delete"))
        .arg(common::output(COMMAND.name).help_heading(OWN))
        .arg(operands("FILENAME", "The image"))
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operation {
    List,
    Apply(String),
    Create(String),
    Delete(String),
}

fn run(args: &Args) -> Result<i32> {
    let operation = operation(args)?;
    let filename = args.one_image()?;
    let spec = args.spec(filename)?;
    let write = operation != Operation::List;
    if write && args.given("output") {
        return Err(args.usage("--output goes with -l only"));
    }
    let flags = OpenFlags { write, share: args.flag("force-share"), ..OpenFlags::READ };
    if write && flags.share {
        let error = Error::invalid("force-share=on can only be used with read-only images");
        return Err(error.context(format!("Could not open '{filename}'")));
    }
    let chain = open_chain(&spec, flags, &args.context())?;
    let snapshots = chain.top().layer.snapshots();
    if args.output() == Output::Json {
        let list = snapshots.map_or_else(|| Ok(Vec::new()), Snapshots::list)?;
        print(&format!("{}\n", json::pretty(&list.iter().map(snapshot_json).collect())))?;
        return Ok(0);
    }
    perform(&operation, snapshots)?;
    Ok(0)
}

fn operation(args: &Args) -> Result<Operation> {
    let mut given = vec![Operation::List; usize::from(args.count("list"))];
    for (id, make) in [
        ("apply", Operation::Apply as fn(String) -> Operation),
        ("create", Operation::Create),
        ("delete", Operation::Delete),
    ] {
        given.extend(args.texts(id).into_iter().map(|name| make(name.to_owned())));
    }
    // Also twice the same one is refused, as in the reference.
    match given.len() {
        0 => Ok(Operation::List),
        1 => Ok(given.swap_remove(0)),
        _ => Err(args.usage("Cannot mix '-l', '-a', '-c', '-d'")),
    }
}

/// Does it. `snapshots` is `None` in formats that have none.
fn perform(operation: &Operation, snapshots: Option<&dyn Snapshots>) -> Result<()> {
    match operation {
        Operation::List => match snapshots {
            Some(snapshots) => print(&snapshot_table(&snapshots.list()?)),
            None => Ok(()),
        },
        Operation::Create(name) => {
            let result = snapshots.map_or_else(|| Err(not_supported()), |snapshots| snapshots.create(name));
            result.context(|| format!("Could not create snapshot '{name}'"))
        }
        Operation::Apply(name) => {
            let result = match snapshots {
                Some(snapshots) => snapshots.apply(name),
                None => Err(Error::unsupported("Block driver does not support snapshots")),
            };
            result.context(|| format!("Could not apply snapshot '{name}'"))
        }
        Operation::Delete(name) => {
            let missing = || Err(Error::not_found("snapshot not found"));
            let result = snapshots.map_or_else(missing, |snapshots| snapshots.delete(name));
            result.context(|| format!("Could not delete snapshot '{name}'"))
        }
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
