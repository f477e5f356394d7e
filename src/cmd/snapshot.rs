//! `snapshot`: lists, takes, applies, deletes and compares the snapshots inside an image.

mod diff;

use std::io::{self, IsTerminal};

use super::Command;
use crate::cli::args::{Args, OWN, flag, object, operands, value};
use crate::cli::common::{self, Output};
use crate::cli::output::{notice, print};
use crate::cli::{details_table, snapshot_table};
use crate::error::{Context, Error, Result};
use crate::image::{OpenFlags, Snapshots, not_supported, open_chain, snapshot_details_json, snapshot_json};
use crate::json;

/// The command.
pub static COMMAND: Command = Command {
    name: "snapshot",
    summary: "List, compare, take, apply or delete snapshots inside an image",
    synopsis: "snapshot [--object objectdef] [--image-opts] [-U] [-q] [-f fmt] [-l [--details] | -a snapshot | \
               -c snapshot | -d snapshot | --diff snapshot [snapshot]] [--output=ofmt] filename",
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
        .arg(
            flag("details", "With -l: show the space that each snapshot takes, and what deleting it gives back")
                .long("details")
                .help_heading(OWN),
        )
        .arg(
            value(
                "diff",
                "SNAPSHOT",
                "List the ranges of the disk that may differ between this snapshot and now, or another snapshot that \
                 stands in front of FILENAME",
            )
            .long("diff")
            .help_heading(OWN),
        )
        .arg(operands("FILENAME", "The image"))
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operation {
    List,
    Apply(String),
    Create(String),
    Delete(String),
    Diff(String),
}

impl Operation {
    /// Whether it changes the image.
    fn writes(&self) -> bool {
        !matches!(self, Operation::List | Operation::Diff(_))
    }
}

fn run(args: &Args) -> Result<i32> {
    let operation = operation(args)?;
    let (other, filename) = match (&operation, args.operands().as_slice()) {
        (Operation::Diff(_), [other, filename]) => (Some(*other), *filename),
        _ => (None, args.one_image()?),
    };
    let spec = args.spec(filename)?;
    let write = operation.writes();
    if write && args.given("output") {
        return Err(args.usage("--output goes with -l and --diff only"));
    }
    let details = args.flag("details");
    if details && operation != Operation::List {
        return Err(args.usage("--details goes with -l only"));
    }
    let flags = match &operation {
        // What is read is the metadata of this image alone: neither a key nor the backing file is needed.
        Operation::Diff(_) => OpenFlags::INFO,
        _ if details => OpenFlags::INFO,
        _ => OpenFlags { write, ..OpenFlags::READ },
    };
    let flags = OpenFlags { share: args.flag("force-share"), ..flags };
    if write && flags.share {
        let error = Error::invalid("force-share=on can only be used with read-only images");
        return Err(error.context(format!("Could not open '{filename}'")));
    }
    let chain = open_chain(&spec, flags, &args.context())?;
    let snapshots = chain.top().layer.snapshots();
    match (&operation, snapshots) {
        (Operation::Diff(from), snapshots) => diff::run(snapshots, from, other, args.output())?,
        (Operation::List, Some(snapshots)) if details => {
            list_details(snapshots, args.output()).context(|| "Could not tell what the snapshots take")?;
        }
        (Operation::List, snapshots) => list(snapshots, args.output(), args.flag("quiet"))?,
        (operation, snapshots) => perform(operation, snapshots)?,
    }
    Ok(0)
}

/// Prints the list of snapshots. `snapshots` is `None` in formats that have none.
fn list(snapshots: Option<&dyn Snapshots>, output: Output, quiet: bool) -> Result<()> {
    let list = snapshots.map_or_else(|| Ok(Vec::new()), Snapshots::list)?;
    if output == Output::Json {
        return print(&format!("{}\n", json::pretty(&list.iter().map(snapshot_json).collect())));
    }
    print(&snapshot_table(&list))?;
    // Programs that look at standard error want none of it.
    if !quiet && io::stderr().is_terminal() && list.iter().any(|snapshot| snapshot.vm_state_size == 0) {
        notice(
            "VM_SIZE is saved machine memory; every snapshot has the whole disk ('snapshot -l --details' shows the space)",
        );
    }
    Ok(())
}

/// Prints the list of snapshots with what they take of the file.
fn list_details(snapshots: &dyn Snapshots, output: Output) -> Result<()> {
    let (list, details) = (snapshots.list()?, snapshots.details()?);
    print(&match output {
        Output::Human => details_table(&list, &details),
        Output::Json => {
            let both = list.iter().zip(&details).map(|(snapshot, details)| snapshot_details_json(snapshot, details));
            format!("{}\n", json::pretty(&both.collect()))
        }
    })
}

fn operation(args: &Args) -> Result<Operation> {
    let mut given = vec![Operation::List; usize::from(args.count("list"))];
    for (id, make) in [
        ("apply", Operation::Apply as fn(String) -> Operation),
        ("create", Operation::Create),
        ("delete", Operation::Delete),
        ("diff", Operation::Diff),
    ] {
        given.extend(args.texts(id).into_iter().map(|name| make(name.to_owned())));
    }
    // Also twice the same one is refused, as in the reference.
    match given.len() {
        0 => Ok(Operation::List),
        1 => Ok(given.swap_remove(0)),
        _ if args.given("diff") => Err(args.usage("'--diff' can be given once, and not with '-l', '-a', '-c', '-d'")),
        _ => Err(args.usage("Cannot mix '-l', '-a', '-c', '-d'")),
    }
}

/// Changes the image. `snapshots` is `None` in formats that have none.
fn perform(operation: &Operation, snapshots: Option<&dyn Snapshots>) -> Result<()> {
    match operation {
        Operation::List | Operation::Diff(_) => Ok(()),
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
