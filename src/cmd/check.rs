//! `check`: whether an image's own structures are sound, and repairing them.

use serde_json::{Map, Value, json};

use super::Command;
use crate::cli::args::{Args, object, operands, parsed, usage_error, value};
use crate::cli::common::{self, Output};
use crate::cli::output::{self, Lines, print};
use crate::error::{Advice, Error, Result};
use crate::image::{CheckNote, CheckReport, Checks, OpenFlags, Repair, open_chain};
use crate::json;
use crate::storage::CacheMode;

/// The command.
pub static COMMAND: Command = Command {
    name: "check",
    summary: "Check whether the structures of an image are sound, and repair them",
    synopsis: "check [--object objectdef] [--image-opts] [-q] [-f fmt] [--output=ofmt] [-r [leaks | all]] \
               [-T src_cache] [-U] filename",
    failure: 1,
    define,
    run,
};

/// Exit codes besides 0 and 1.
const CORRUPT: i32 = 2;
const LEAKS: i32 = 3;
const NO_CHECK: i32 = 63;

fn define(command: clap::Command) -> clap::Command {
    command
        .arg(common::quiet())
        .arg(common::format())
        .arg(common::image_opts())
        .arg(value("cache", "CACHE", "Cache mode of the image (writeback)").short('T').long("cache"))
        .arg(common::force_share())
        .arg(common::output(COMMAND.name))
        .arg(
            value(
                "repair",
                "leaks|all",
                "Repair what is counted as used by mistake, or everything that can be repaired",
            )
            .value_parser(parsed(repair))
            .short('r')
            .long("repair"),
        )
        .arg(object())
        .arg(operands("FILENAME", "The image"))
}

fn repair(text: &str) -> Result<Repair> {
    match text {
        "leaks" => Ok(Repair::Leaks),
        "all" => Ok(Repair::All),
        other => Err(usage_error(COMMAND.name, format!("--repair (-r) expects 'leaks' or 'all' not '{other}'"))),
    }
}

fn run(args: &Args) -> Result<i32> {
    let name = args.one_image()?;
    let cache = args.text("cache").unwrap_or("writeback");
    let cache =
        CacheMode::parse(cache).ok_or_else(|| Error::invalid(format!("Invalid source cache option: {cache}")))?;
    let repair = args.get::<Repair>("repair").copied().unwrap_or_default();
    let share = args.flag("force-share");
    let flags = OpenFlags { write: repair != Repair::Nothing, check: true, share, cache, ..OpenFlags::READ };
    let spec = args.spec(name)?;
    if share && flags.write {
        let error = Error::invalid("force-share=on can only be used with read-only images");
        return Err(error.context(format!("Could not open '{}'", spec.text())));
    }
    let chain = open_chain(&spec, flags, &args.context())?;
    let top = chain.top();
    let Some(image) = top.layer.checks() else {
        output::report(&Error::unsupported("This image format does not support checks"));
        return Ok(NO_CHECK);
    };
    let quiet = args.flag("quiet");
    let mut causes = Vec::new();
    let mut report = check(image, repair, &mut causes)?;
    let (corruptions_fixed, leaks_fixed) = (report.corruptions_fixed, report.leaks_fixed);
    if corruptions_fixed > 0 || leaks_fixed > 0 {
        if args.output() == Output::Human && !quiet {
            print(&format!(
                "The following inconsistencies were found and repaired:\n\n    {leaks_fixed} leaked clusters\n    \
                 {corruptions_fixed} corruptions\n\nDouble checking the fixed image now...\n"
            ))?;
        }
        report = CheckReport { corruptions_fixed, leaks_fixed, ..check(image, Repair::Nothing, &mut causes)? };
    }
    if report.check_errors > 0 {
        output::report(&Error::invalid("Check failed").advise_all(causes));
    }
    match args.output() {
        _ if quiet => {}
        Output::Human => print(&human(&report))?,
        Output::Json => print(&(json::pretty(&to_json(&report, name, top.layer.format())) + "\n"))?,
    }
    Ok(match report {
        CheckReport { check_errors: 1.., .. } => 1,
        CheckReport { corruptions: 1.., .. } => CORRUPT,
        CheckReport { leaks: 1.., .. } => LEAKS,
        _ => 0,
    })
}

/// Adds to `causes` which requests of files failed without ending the check.
fn check(image: &dyn Checks, repair: Repair, causes: &mut Vec<Advice>) -> Result<CheckReport> {
    let mut lines = Lines::default();
    let result = image.check(repair, &mut |note| match note {
        CheckNote::Line(line) => lines.add(line),
        CheckNote::Failure(error) => {
            lines.print();
            output::report(error);
        }
        CheckNote::Cause(error) => {
            let new: Vec<_> = error.advice().iter().filter(|cause| !causes.contains(cause)).cloned().collect();
            causes.extend(new);
        }
    });
    lines.print();
    result.map_err(|error| {
        let failed = error.number().context("Check failed");
        error.notices().iter().fold(failed, |failed, notice| failed.notice(notice.as_str()))
    })
}

fn human(report: &CheckReport) -> String {
    let mut text = String::new();
    let CheckReport { corruptions, leaks, check_errors, .. } = *report;
    if corruptions == 0 && leaks == 0 && check_errors == 0 {
        text.push_str("No errors were found on the image.\n");
    }
    if corruptions > 0 {
        text.push_str(&format!(
            "\n{corruptions} errors were found on the image.\n\
             Data may be corrupted, or further writes to the image may corrupt it.\n"
        ));
    }
    if leaks > 0 {
        text.push_str(&format!(
            "\n{leaks} leaked clusters were found on the image.\n\
             This means waste of disk space, but no harm to data.\n"
        ));
    }
    if check_errors > 0 {
        text.push_str(&format!("\n{check_errors} internal errors have occurred during the check.\n"));
    }
    let CheckReport { total_clusters: total, allocated_clusters: allocated, .. } = *report;
    let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
    if total > 0 && allocated > 0 {
        text.push_str(&format!(
            "{allocated}/{total} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            percent(allocated, total),
            percent(report.fragmented_clusters, allocated),
            percent(report.compressed_clusters, allocated)
        ));
    }
    if report.image_end_offset > 0 {
        text.push_str(&format!("Image end offset: {}\n", report.image_end_offset));
    }
    text
}

fn to_json(report: &CheckReport, filename: &str, format: &str) -> Value {
    let mut object = Map::new();
    object.insert("filename".to_owned(), json!(filename));
    object.insert("format".to_owned(), json!(format));
    object.insert("check-errors".to_owned(), json!(report.check_errors));
    // What is zero is left out.
    for (key, value) in [
        ("image-end-offset", report.image_end_offset),
        ("corruptions", report.corruptions),
        ("leaks", report.leaks),
        ("corruptions-fixed", report.corruptions_fixed),
        ("leaks-fixed", report.leaks_fixed),
        ("total-clusters", report.total_clusters),
        ("allocated-clusters", report.allocated_clusters),
        ("fragmented-clusters", report.fragmented_clusters),
        ("compressed-clusters", report.compressed_clusters),
    ] {
        if value > 0 {
            object.insert(key.to_owned(), json!(value));
        }
    }
    Value::Object(object)
}
