//! `info`: what an image is and what it contains.

pub mod human;

use std::collections::HashSet;

use super::Command;
use crate::cli::args::{Args, flag, object, operands};
use crate::cli::common::{self, Output};
use crate::cli::output::print;
use crate::error::{Error, Result};
use crate::image::{ImageSpec, NodeReport, OpenContext, OpenFlags, Reference, advise_on_backing, open_chain};
use crate::json;

/// The command.
pub static COMMAND: Command = Command {
    name: "info",
    summary: "Show what an image is and what it contains",
    synopsis: "info [--object objectdef] [--image-opts] [-f fmt] [--output=ofmt] [--backing-chain] [-U] filename",
    failure: 1,
    define,
    run,
};

fn define(command: clap::Command) -> clap::Command {
    command
        .arg(common::format())
        .arg(common::output(COMMAND.name))
        .arg(
            flag("backing-chain", "Show all images of the backing chain, the named one first")
                .short('b')
                .long("backing-chain"),
        )
        .arg(object())
        .arg(common::image_opts())
        .arg(common::force_share())
        .arg(operands("FILENAME", "The image"))
}

fn run(args: &Args) -> Result<i32> {
    let spec = args.spec(args.one_image()?)?;
    let flags = OpenFlags { share: args.flag("force-share"), ..OpenFlags::INFO };
    let context = args.context();
    let chain = args.flag("backing-chain");
    let reports = if chain { backing_chain(spec, flags, &context)? } else { vec![report(&spec, flags, &context)?] };
    let text = match (args.output(), chain) {
        (Output::Human, _) => reports.iter().map(human::text).collect::<Vec<_>>().join("\n"),
        (Output::Json, false) => json::pretty(&reports[0].to_json()) + "\n",
        (Output::Json, true) => json::pretty(&reports.iter().map(NodeReport::to_json).collect()) + "\n",
    };
    print(&text)?;
    Ok(0)
}

fn report(spec: &ImageSpec, flags: OpenFlags, context: &OpenContext) -> Result<NodeReport> {
    NodeReport::new(open_chain(spec, flags, context)?.top())
}

/// The named image and all images it lies on. Each is opened alone, by the name that the one above has for it.
fn backing_chain(first: ImageSpec, flags: OpenFlags, context: &OpenContext) -> Result<Vec<NodeReport>> {
    let mut reports: Vec<NodeReport> = Vec::new();
    let mut seen = HashSet::new();
    let mut next = Some(first);
    while let Some(spec) = next.take() {
        let chain = open_chain(&spec, flags, context).map_err(|error| match reports.last() {
            Some(NodeReport { filename, backing: Some(backing), .. }) => {
                advise_on_backing(error, filename, &backing.filename, spec.text())
            }
            _ => error,
        })?;
        // The same name, or the same file by another name: names of loops may grow ("./x", "././x").
        let identity = chain.top().identity().map(|file| (file, chain.top().driver()));
        if !seen.insert((Some(spec.text().to_owned()), None)) || !seen.insert((None, identity)) {
            return Err(Error::invalid(format!("Backing file '{}' creates an infinite loop.", spec.text())));
        }
        let report = NodeReport::new(chain.top())?;
        if let (Some(backing), Some(full)) = (&report.backing, &report.full_backing) {
            context.policy.check(&report.filename, Reference::Backing(full), false)?;
            next = Some(ImageSpec::name(full, backing.format.as_deref()));
        }
        reports.push(report);
    }
    Ok(reports)
}
