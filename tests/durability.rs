//! When a command that changes an image ends well, all of it is on stable storage: the last write to each of its files is
//! followed by a flush. What the system is asked for is watched with `strace`.

mod common;

use std::collections::BTreeMap;

use common::files::words;
use common::looks::{CHANGES, IMAGES};
use common::run::{Tool, ours_path, program_in};
use common::{Sandbox, for_all};

/// Further commands, and whether they flush: conversions do what their cache mode says.
const MORE: [(&str, bool); 14] = [
    ("create -q -f qcow2 out 8M", true),
    ("create -q -f qcow2 -o preallocation=full out 8M", true),
    ("create -q -f raw -o preallocation=full out 8M", true),
    ("rebase -u -b other -F qcow2 top", true),
    ("commit -q -d top", true),
    ("resize -q -f raw noise 9M", true),
    ("convert -f raw -O qcow2 -t writeback noise out", true),
    ("convert -f raw -O raw -t writeback noise out", true),
    ("convert -c -f raw -O qcow2 -t writethrough noise out", true),
    ("convert -f raw -O raw -t directsync noise out", true),
    ("convert -f raw -O qcow2 -t none -W noise out", true),
    ("convert -f raw -O qcow2 -t unsafe noise out", false),
    ("convert -f raw -O raw noise out", false),
    ("convert -n -f raw -O qcow2 -t unsafe noise disk", false),
];

/// By file: how many flushes there were, and what was written after the last one.
fn traced(trace: &str) -> BTreeMap<String, (usize, Vec<String>)> {
    let mut files: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
    for line in trace.lines() {
        // 123 pwrite64(3</folder/disk>, ...) = 8
        let Some((call, rest)) = line.split_once('(') else { continue };
        let call = call.rsplit(' ').next().unwrap_or(call);
        let Some((_, name)) = rest.split_once('<') else { continue };
        let Some((name, arguments)) = name.split_once('>') else { continue };
        let Some(name) = name.rsplit('/').next().filter(|_| name.starts_with('/')) else { continue };
        let file = files.entry(name.to_owned()).or_default();
        match call {
            "fdatasync" | "fsync" => {
                file.0 += 1;
                file.1.clear();
            }
            // Giving space back is not what anybody relies on.
            "fallocate" if arguments.contains("PUNCH_HOLE") => {}
            _ => file.1.push(line.to_owned()),
        }
    }
    files
}

#[test]
fn what_a_command_has_written_is_on_the_disk_when_it_ends() {
    common::files::stay_on_disk();
    let images = Sandbox::new();
    images.script(Tool::Reference, IMAGES).expect_ok("preparing the images");
    let probe = program_in(images.path(), "strace", &["-o", "trace", "true"]);
    if !probe.ok() {
        println!("skipped: strace: {probe}");
        return;
    }
    let changes = CHANGES.iter().filter(|change| !change.mixes).map(|change| (change.line, true));
    let cases: Vec<_> = changes.chain(MORE).collect();
    for_all("flushes", &cases, |(line, flushes), report| {
        let sandbox = Sandbox::copy_of(images.path());
        let calls = "trace=write,pwrite64,pwritev,pwritev2,copy_file_range,fallocate,fdatasync,fsync";
        let ours = ours_path();
        let mut args: Vec<String> = ["-f", "-y", "-e", calls, "-o", "trace"].map(String::from).to_vec();
        args.push(ours.display().to_string());
        args.extend(words(line));
        program_in(sandbox.path(), "strace", &args).expect_ok(line);
        let trace = std::fs::read_to_string(sandbox.file("trace")).expect("the trace");
        let mut found = Vec::new();
        let mut written = 0;
        for (name, (count, rest)) in traced(&trace) {
            if !sandbox.file(&name).is_file() {
                continue;
            }
            written += 1;
            match flushes {
                true if !rest.is_empty() => {
                    found.push(format!("{name} is not flushed at the end:\n{}", rest.join("\n")))
                }
                false if count > 0 => found.push(format!("{name} is flushed {count} times")),
                _ => {}
            }
        }
        if written == 0 {
            found.push(format!("no writes were seen:\n{trace}"));
        }
        report.note(line, found);
    });
}
