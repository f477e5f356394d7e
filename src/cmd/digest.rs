//! `digest`: the checksum of what the guest sees.

use serde_json::json;

use super::Command;
use super::source_snapshot::{SnapshotChoice, parse_snapshot};
use super::watch::Watch;
use crate::cli::args::{Args, flag, object, operands, parsed, usage_error, value};
use crate::cli::common::{self, Output};
use crate::cli::output::print;
use crate::cli::progress::Ending;
use crate::copy::{Source, digest};
use crate::digest::Algorithm;
use crate::error::{Error, Result};
use crate::image::{OpenFlags, open_chain};
use crate::json;

/// The command.
pub static COMMAND: Command = Command {
    name: "digest",
    summary: "Print the checksum of what the guest sees",
    synopsis: "digest [--object objectdef] [--image-opts] [-U] [-p] [-q] [-f fmt] [-l snapshot_param] [-a algorithm] \
               [--output=ofmt] filename",
    failure: 1,
    define,
    run,
};

fn define(command: clap::Command) -> clap::Command {
    command
        .arg(
            value("algorithm", "sha256|blake3", "Which checksum (sha256)")
                .value_parser(parsed(|text| {
                    parse_algorithm(text).map_err(|error| usage_error(COMMAND.name, error.to_string()))
                }))
                .short('a')
                .long("algorithm"),
        )
        .arg(common::format())
        .arg(common::image_opts())
        .arg(object())
        .arg(common::output(COMMAND.name))
        .arg(common::force_share())
        .arg(
            value("snapshot", "SNAPSHOT", "Read this internal snapshot of the image")
                .value_parser(parsed(parse_snapshot))
                .short('l')
                .long("snapshot"),
        )
        .args(common::progress())
        .arg(flag("quiet", "Show no progress").short('q').long("quiet"))
        .arg(operands("FILENAME", "The image"))
}

/// An algorithm by its name.
pub fn parse_algorithm(text: &str) -> Result<Algorithm> {
    Algorithm::from_name(text)
        .ok_or_else(|| Error::invalid(format!("There is no digest '{text}'; there are 'sha256' and 'blake3'")))
}

fn run(args: &Args) -> Result<i32> {
    let filename = args.one_image()?;
    let algorithm = args.get::<Algorithm>("algorithm").copied().unwrap_or_default();
    let flags = OpenFlags { share: args.flag("force-share"), ..OpenFlags::READ };
    let chains = [open_chain(&args.spec(filename)?, flags, &args.context())?];
    if let Some(choice) = args.get::<SnapshotChoice>("snapshot") {
        choice.show(&*chains[0].top().layer)?;
    }
    let source = Source::new(&chains, false);
    let watch = Watch::new(args.progress(), args.flag("quiet"))?;
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get().min(16));
    let digest = digest::run(&source, algorithm, workers, &watch);
    watch.finish(Ending::of(&digest));
    let digest = digest?;
    print(&match args.output() {
        Output::Human => line(&digest, filename),
        Output::Json => {
            let value = json!({
                "filename": filename,
                "algorithm": algorithm.name(),
                "digest": digest,
                "virtual-size": source.size(),
            });
            format!("{}\n", json::pretty(&value))
        }
    })?;
    Ok(0)
}

/// A line as `sha256sum` and `b3sum` print and check it: a name that would break lines is escaped, and the line says so.
pub fn line(digest: &str, name: &str) -> String {
    if !name.contains(['\\', '\n', '\r']) {
        return format!("{digest}  {name}\n");
    }
    let name = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
    format!("\\{digest}  {name}\n")
}
