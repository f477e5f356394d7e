//! `info`: what an image is and what it contains.

mod human;

use std::collections::HashSet;

use super::Command;
use crate::cli::args::{Args, flag, object, operands, parsed, usage_error, value};
use crate::cli::image_opts::image_options;
use crate::cli::output::{self, print};
use crate::crypto::Secrets;
use crate::error::{Error, Result};
use crate::image::{ImageSpec, NodeReport, OpenContext, OpenFlags, open_chain};
use crate::json;

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
        .arg(
            value("output", "human|json", "Print for people (the default) or as JSON")
                .long("output")
                .value_parser(parsed(parse_output)),
        )
        .arg(
            flag("backing-chain", "Show all images of the backing chain, the named one first")
                .short('b')
                .long("backing-chain"),
        )
        .arg(object())
        .arg(flag("image-opts", "FILENAME is a list of options (driver=...,file.filename=...)").long("image-opts"))
        .arg(
            flag("force-share", "Open the image even if another process is writing to it")
                .short('U')
                .long("force-share"),
        )
        .arg(operands("FILENAME", "The image"))
}

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Human,
    Json,
}

/// What to do, checked.
struct Request<'a> {
    output: Output,
    secrets: Secrets,
    image: &'a str,
    image_options: bool,
    format: Option<&'a str>,
    chain: bool,
    share: bool,
}

fn parse_output(text: &str) -> Result<Output> {
    match text {
        "human" => Ok(Output::Human),
        "json" => Ok(Output::Json),
        other => Err(usage_error(COMMAND.name, format!("--output expects 'human' or 'json' not '{other}'"))),
    }
}

fn run(args: &Args) -> Result<i32> {
    let output = args.get::<Output>("output").copied().unwrap_or(Output::Human);
    let secrets = args.secrets().clone();
    let request = Request {
        output,
        secrets,
        image: args.one_image()?,
        image_options: args.flag("image-opts"),
        format: args.text("format"),
        chain: args.flag("backing-chain"),
        share: args.flag("force-share"),
    };
    show(request).map(|()| 0)
}

fn show(request: Request<'_>) -> Result<()> {
    let spec = match (request.image_options, request.format) {
        (true, Some(_)) => return Err(Error::invalid("--image-opts and --format are mutually exclusive")),
        (true, None) => ImageSpec::options(request.image, image_options(request.image)?),
        (false, format) => ImageSpec::name(request.image, format),
    };
    let context = OpenContext { secrets: request.secrets, warnings: output::WARNINGS, ..OpenContext::default() };
    let flags = OpenFlags { share: request.share, ..OpenFlags::INFO };
    let reports =
        if request.chain { backing_chain(spec, flags, &context)? } else { vec![report(&spec, flags, &context)?] };
    let text = match (request.output, request.chain) {
        (Output::Human, _) => reports.iter().map(human::text).collect::<Vec<_>>().join("\n"),
        (Output::Json, false) => json::pretty(&reports[0].to_json()) + "\n",
        (Output::Json, true) => json::pretty(&reports.iter().map(NodeReport::to_json).collect()) + "\n",
    };
    print(&text)
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
        let chain = open_chain(&spec, flags, context)?;
        // The same name, or the same file by another name: names of loops may grow ("./x", "././x").
        let identity = chain.top().identity().map(|file| (file, chain.top().driver()));
        if !seen.insert((Some(spec.text().to_owned()), None)) || !seen.insert((None, identity)) {
            return Err(Error::invalid(format!("Backing file '{}' creates an infinite loop.", spec.text())));
        }
        let report = NodeReport::new(chain.top())?;
        if let (Some(backing), Some(full)) = (&report.backing, &report.full_backing) {
            next = Some(ImageSpec::name(full, backing.format.as_deref()));
        }
        reports.push(report);
    }
    Ok(reports)
}
