//! System calls that fail, made to from outside by `strace`: the n-th of a kind, for every n, and interruptions (EINTR) of
//! each. A failure is an error with exit code 1 that names the file, the place and the cause; an image that was there is what
//! it was or what it was to become, and a target that the run created is gone. An interruption is no failure.

mod common;
#[path = "../src/storage/testing.rs"]
#[allow(dead_code, reason = "loop devices are for the unit tests")]
mod mounts;

use std::path::Path;

use common::files::words;
use common::looks::{CHANGES, Change, IMAGES, differences, look};
use common::run::{Outcome, Tool, ours_path, program_in, reference_path};
use common::{Report, Sandbox, collect, for_all, taken};
use mounts::Mount;

/// Makes new files: the target is `out`, and holds what the second name says.
const TARGETS: [(&str, &str); 9] = [
    ("convert -m 1 -f raw -O raw noise out", "noise"),
    ("convert -m 1 -f raw -O qcow2 -t writeback noise out", "noise"),
    ("convert -m 1 -c -f raw -O qcow2 -t writethrough noise out", "noise"),
    ("convert -m 1 -C -f raw -O raw noise out", "noise"),
    ("convert -m 1 -f qcow2 -O raw disk out", "disk"),
    ("convert -m 1 -f raw -O qcow2 -t writeback -o data_file=data noise out", "noise"),
    ("dd -f raw -O qcow2 bs=64k if=noise of=out", "noise"),
    ("create -q -f qcow2 -o preallocation=full out 2M", "nothing"),
    ("create -q -f raw -o preallocation=falloc out 2M", "nothing"),
];

/// Which calls fail, with what, and how the system puts that.
const FAULTS: [(&str, &str, &str); 9] = [
    ("pwrite64", "EIO", "Input/output error"),
    ("pwrite64", "ENOSPC", "No space left on device"),
    ("pwrite64", "EDQUOT", "Disk quota exceeded"),
    ("pread64", "EIO", "Input/output error"),
    ("fdatasync", "EIO", "Input/output error"),
    ("fdatasync", "ENOSPC", "No space left on device"),
    ("ftruncate", "EIO", "Input/output error"),
    ("fallocate", "EIO", "Input/output error"),
    ("fallocate", "ENOSPC", "No space left on device"),
];

/// What signals can interrupt.
const INTERRUPTED: &str =
    "openat,pread64,pwrite64,fdatasync,ftruncate,fallocate,copy_file_range,sync_file_range,lseek,fcntl,ioctl";

/// The files that are watched: what the dynamic linker reads is none of our business.
const FILES: [&str; 9] = ["noise", "disk", "broken", "marks", "base", "other", "top", "out", "data"];

/// A run in which calls were spoilt.
struct Spoilt {
    outcome: Outcome,
    /// How many were.
    spoilt: usize,
    /// How many calls of these kinds there were.
    calls: usize,
}

/// Ours under `strace`, which spoils those of `calls` that `how` says.
fn spoil(dir: &Path, line: &str, calls: &str, how: &str) -> Spoilt {
    let mut args: Vec<String> = ["-f", "-qq", "-o", "trace"].map(String::from).to_vec();
    args.extend(["-e".into(), format!("trace={calls}"), "-e".into(), format!("inject={calls}:{how}")]);
    for name in FILES {
        args.extend(["-P".into(), dir.join(name).display().to_string()]);
    }
    args.push(ours_path().display().to_string());
    args.extend(words(line));
    let outcome = program_in(dir, "strace", &args);
    let trace = std::fs::read_to_string(dir.join("trace")).unwrap_or_default();
    let called = trace.lines().filter(|line| line.contains('(')).count();
    Spoilt { outcome, spoilt: trace.matches("(INJECTED)").count(), calls: called }
}

/// The images, if `strace` can be used here.
fn images() -> Option<Sandbox> {
    let images = Sandbox::new();
    let probe = program_in(images.path(), "strace", &["-o", "/dev/null", "true"]);
    if !probe.ok() {
        println!("skipped: strace: {probe}");
        return None;
    }
    images.script(Tool::Reference, IMAGES).expect_ok("preparing the images");
    Some(images)
}

/// What is wrong with how a run ended in which a call failed for this reason.
fn bad_end(outcome: &Outcome, cause: &str) -> Option<String> {
    let named = |line: &str| FILES.iter().any(|name| line.contains(&format!("'{name}' ")));
    let placed =
        |line: &str| [" at offset ", "Flushing ", "Setting the length "].iter().any(|text| line.contains(text));
    let told = |line: &str| line.starts_with("Hint: ") && named(line) && placed(line);
    let good = match outcome.code {
        // What is done after the work, as giving space back, may fail; and for some calls there are other ways.
        0 => !outcome.stderr.contains("qemu-img: "),
        1 => {
            outcome.stderr.lines().any(|line| line.starts_with("qemu-img: "))
                && outcome.stderr.lines().any(told)
                && outcome.stderr.contains(cause)
        }
        _ => false,
    };
    (!good).then(|| outcome.to_string())
}

/// A command with the n-th call of one kind failing, for every n (of many, a share). `verdict` says what is wrong with what
/// it left.
fn each_call(
    images: &Sandbox,
    line: &str,
    (call, errno, cause): (&str, &str, &str),
    report: &mut Report,
    verdict: impl Fn(&Sandbox, &Outcome) -> Vec<String>,
) {
    let whole = spoil(Sandbox::copy_of(images.path()).path(), line, call, &format!("error={errno}:when=65535"));
    whole.outcome.expect_ok(line);
    for number in 1..=whole.calls {
        let case = format!("{call} {number} of {}: {errno}", whole.calls);
        if !taken(line, &case) {
            continue;
        }
        let sandbox = Sandbox::copy_of(images.path());
        let Spoilt { outcome, spoilt, .. } = spoil(sandbox.path(), line, call, &format!("error={errno}:when={number}"));
        // Threads count each for themselves, so there may be fewer.
        if spoilt > 0 {
            let mut found: Vec<_> = bad_end(&outcome, cause).into_iter().collect();
            found.extend(verdict(&sandbox, &outcome));
            report.note(&format!("{line}, {case}"), found);
        }
    }
}

/// What an image holds before and after a change.
fn looks(images: &Sandbox, change: &Change) -> [Vec<String>; 2] {
    let finished = Sandbox::copy_of(images.path());
    finished.run(Tool::Ours, change.line).expect_ok(change.line);
    [images, &finished].map(|sandbox| look(sandbox.path(), change).expect("readable"))
}

#[test]
fn a_call_that_fails_spoils_no_image() {
    let Some(images) = images() else { return };
    let mut report = Report::new("changes with failing calls");
    report.absorb(collect(&CHANGES, |change, report| {
        let [before, after] = looks(&images, change);
        for fault in FAULTS {
            each_call(&images, change.line, fault, report, |sandbox, outcome| {
                let wanted: &[_] = if outcome.ok() { &[&after] } else { &[&before, &after] };
                differences(sandbox.path(), change, wanted)
            });
        }
    }));
    report.finish();
}

/// What is wrong with a target that is finished.
fn unlike(sandbox: &Sandbox, holds: &str) -> Option<String> {
    let verdict = match holds {
        "nothing" => sandbox.reference("info out"),
        holds => sandbox.reference(&format!("compare {holds} out")),
    };
    (!verdict.ok()).then(|| verdict.to_string())
}

#[test]
fn a_call_that_fails_leaves_no_target() {
    let Some(images) = images() else { return };
    let mut report = Report::new("targets with failing calls");
    report.absorb(collect(&TARGETS, |(line, holds), report| {
        for fault in FAULTS {
            each_call(&images, line, fault, report, |sandbox, outcome| {
                let there = ["out", "data"].iter().any(|name| sandbox.file(name).exists());
                match outcome.ok() {
                    true => unlike(sandbox, holds).into_iter().collect(),
                    false => there.then(|| "something is left of the target".to_owned()).into_iter().collect(),
                }
            });
        }
    }));
    report.finish();
}

#[test]
fn an_interrupted_call_is_made_again() {
    let Some(images) = images() else { return };
    let every_other = |sandbox: &Sandbox, line: &str| {
        let Spoilt { outcome, spoilt, .. } = spoil(sandbox.path(), line, INTERRUPTED, "error=EINTR:when=1+2");
        match outcome.ok() && spoilt > 10 {
            true => None,
            false => Some(format!("{spoilt} interruptions: {outcome}")),
        }
    };
    for_all("changes with interrupted calls", &CHANGES, |change, report| {
        let [_, after] = looks(&images, change);
        let sandbox = Sandbox::copy_of(images.path());
        let mut found: Vec<_> = every_other(&sandbox, change.line).into_iter().collect();
        found.extend(differences(sandbox.path(), change, &[&after]));
        report.note(change.line, found);
    });
    for_all("targets with interrupted calls", &TARGETS, |(line, holds), report| {
        let sandbox = Sandbox::copy_of(images.path());
        let mut found: Vec<_> = every_other(&sandbox, line).into_iter().collect();
        found.extend(unlike(&sandbox, holds));
        report.note(line, found);
    });
}

/// On file systems that share blocks a conversion is a few `ioctl`s: one that was interrupted is made again, and what one that
/// fails would have shared is copied.
#[test]
fn clones_that_are_interrupted_or_fail_lose_nothing() {
    let Some(images) = images() else { return };
    for mount in ["xfs", "btrfs"].iter().filter_map(|kind| Mount::new(kind, 600 << 20)) {
        let folder = mount.path();
        for (line, holds) in
            [("convert -f raw -O qcow2 noise out", "noise"), ("convert -f qcow2 -O raw disk out", "disk")]
        {
            std::fs::copy(images.file(holds), folder.join(holds)).expect("a copy");
            for how in ["EINTR:when=1+2", "EIO:when=1", "ENOSPC:when=1", "EOPNOTSUPP"] {
                let Spoilt { outcome, spoilt, .. } = spoil(folder, line, "ioctl", &format!("error={how}"));
                outcome.expect_ok(&format!("{line}, {how}"));
                assert!(spoilt > 0, "{line}, {how}: there was no clone");
                let compared = program_in(folder, reference_path(), &words(&format!("compare {holds} out")));
                assert!(compared.ok(), "{line}, {how}: {compared}");
                std::fs::remove_file(folder.join("out")).expect("the target");
            }
        }
    }
}
