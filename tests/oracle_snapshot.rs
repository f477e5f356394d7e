//! `snapshot` on every image kind: sequences of listing, taking, applying and deleting, with the list, the guest's
//! content, every snapshot's content and the image's health compared after each.

mod common;

use common::kinds::{self, Kind, Open, SECRET};
use common::oracle::{self, Target, Twins};
use common::run::{Outcome, Tool};
use common::{Report, Sandbox, for_all, require_wording};

/// Each is one run of several commands; `@` stands for the image's operand, `%` for its open options as one string.
const SEQUENCES: &[&[&str]] = &[
    &["snapshot -l @", "snapshot -l -q @", "snapshot @", "snapshot -lU @", "snapshot -l -U @"],
    &["snapshot -c new @", "snapshot -l @"],
    &[
        "snapshot -c one @",
        "snapshot -c two @",
        "snapshot -d one @",
        "snapshot -c three @",
        "snapshot -l @",
        "snapshot -a three @",
    ],
    &[
        "snapshot -q -c new @",
        "io write -P 0x55 1M 130k",
        "io write -z 3M 64k",
        "snapshot -a new @",
        "snapshot -d new @",
        "snapshot -l @",
    ],
    &[
        "snapshot -c new @",
        "io write -P 0x55 0 9M",
        "snapshot -c newer @",
        "io discard 2M 3M",
        "snapshot -d new @",
        "snapshot -a newer @",
        "snapshot -l @",
    ],
    &["snapshot -a first @", "snapshot -a 2 @", "snapshot -a second @", "snapshot -a 3 @"],
    &["snapshot -d first @", "snapshot -d 3 @", "snapshot -d second @", "snapshot -l @", "snapshot -d 2 @"],
    &["snapshot -a nothing @", "snapshot -d nothing @", "snapshot -d '' @", "snapshot -a '' @"],
    &[
        "snapshot -c '' @",
        "snapshot -c 'with blank' @",
        "snapshot -c same @",
        "snapshot -c same @",
        "snapshot -d same @",
        "snapshot -l @",
    ],
    &["snapshot -c 7 @", "snapshot -c 1 @", "snapshot -d 1 @", "snapshot -c 2 @", "snapshot -a 7 @", "snapshot -l @"],
    &["snapshot -U -c forced @", "snapshot -q -d forced @", "snapshot -q -a forced @"],
];

fn operand(kind: &Kind) -> String {
    match kind.open {
        Open::Locked => format!("{SECRET} --image-opts {}", kind.image_opts()),
        // `snapshot` has no `-f`; a raw image is named by its options, the others are probed.
        Open::Raw => format!("--image-opts {}", kind.image_opts()),
        _ => "disk".into(),
    }
}

fn target(kind: &Kind) -> Target {
    match kind.open {
        Open::Raw => Target::Raw,
        Open::Locked => Target::Locked,
        _ => Target::Qcow2,
    }
}

/// What ours does better, by kind and command; the reference's outcome is then only looked at to see that it still is so.
fn better(kind: &Kind, step: &str, ours: &Outcome, reference: &Outcome) -> bool {
    match (&*kind.name, step) {
        // The reference adds references to all of the snapshot before it drops those of the disk, and so finds no room.
        ("snapshots-full-refcount", "snapshot -a 2 @") => {
            let refused = "qemu-img: Could not apply snapshot '2': Failed to load snapshot: Invalid argument\n";
            ours.ok() && ours.stderr.is_empty() && reference.code == 1 && reference.stderr == refused
        }
        // The reference opens a raw image once more before it says that there are no snapshots, and warns twice.
        ("bad-magic" | "bad-empty-file", step) if step.starts_with("snapshot -a ") => {
            let (Some(start), Some(end)) = (ours.stderr.find("WARNING: "), ours.stderr.find("qemu-img: ")) else {
                return false;
            };
            let (warning, message) = (&ours.stderr[start..end], &ours.stderr[end..]);
            ours.code == reference.code && reference.stderr == format!("{warning}{warning}{message}")
        }
        _ => false,
    }
}

/// A write by the reference's qemu-io, alike in both folders.
fn write(sandbox: &Sandbox, kind: &Kind, command: &str) {
    let args = format!("{SECRET} --image-opts {}", kind.image_opts());
    let mut words = common::files::words(&args);
    words.extend(["-c".into(), command.into()]);
    // A kind may be smaller than the range or not writable; both folders see the same.
    common::run::program_in(sandbox.path(), "/usr/bin/qemu-io", &words);
}

/// The IDs of an image's snapshots, in order.
fn ids(sandbox: &Sandbox, kind: &Kind) -> Vec<String> {
    let info = sandbox.reference(&format!("info {SECRET} --output json --image-opts {}", kind.image_opts()));
    let value: serde_json::Value = serde_json::from_str(&info.stdout).unwrap_or_default();
    let list = value["snapshots"].as_array().cloned().unwrap_or_default();
    list.iter().map(|entry| entry["id"].as_str().unwrap_or("").to_owned()).collect()
}

/// Every snapshot's content, read by the reference in both folders.
fn same_snapshots(twins: &Twins, kind: &Kind) -> Vec<String> {
    let mut found = Vec::new();
    let (ours, reference) = (ids(&twins.ours, kind), ids(&twins.reference, kind));
    if ours != reference {
        return vec![format!("snapshot IDs: ours {ours:?}, reference {reference:?}")];
    }
    for id in ours {
        for (_, sandbox) in twins.each() {
            let line =
                format!("convert -l snapshot.id={id} {SECRET} --image-opts -O raw {} snapshot.raw", kind.image_opts());
            let read = sandbox.reference(&line);
            if !read.ok() {
                found.push(format!("{line}: {read}"));
            }
        }
        found.extend(
            oracle::same_target(twins, "snapshot.raw", Target::Raw).iter().map(|text| format!("snapshot {id}: {text}")),
        );
    }
    for (_, sandbox) in twins.each() {
        let _ = std::fs::remove_file(sandbox.file("snapshot.raw"));
    }
    found
}

fn run(kind: &Kind, sequence: &[&str], report: &mut Report) {
    let twins = Twins::of(kind);
    let mut differences = Vec::new();
    for step in sequence {
        if let Some(command) = step.strip_prefix("io ") {
            for (_, sandbox) in twins.each() {
                write(sandbox, kind, command);
            }
            continue;
        }
        let line = step.replace('@', &operand(kind));
        let ours = twins.ours.run(Tool::Ours, &line);
        let reference = twins.reference.run(Tool::Reference, &line);
        if better(kind, step, &ours, &reference) {
            // From here on the two hold different things.
            if ours.code != reference.code {
                assert_eq!(oracle::unhealthy(&twins.ours, "disk", target(kind)), [""; 0]);
                report.note(&format!("{}: {sequence:?}", kind.name), differences);
                return;
            }
            continue;
        }
        differences.extend(oracle::differences(&line, &ours, &reference, &oracle::without_dates));
    }
    differences.extend(twins.same_names(false));
    let sound = twins.reference.reference(&format!("check {SECRET} --image-opts {}", kind.image_opts()));
    if kind.open == Open::Broken || (sound.code != 0 && kind.open != Open::Raw) {
        // Nothing to compare beyond the messages: the reference itself cannot check this image, or finds it bad.
    } else {
        differences.extend(oracle::same_target(&twins, "disk", target(kind)));
        differences.extend(same_snapshots(&twins, kind));
    }
    report.note(&format!("{}: {sequence:?}", kind.name), differences);
}

/// The larger half of the kinds gets two sequences, those with snapshots all of them.
fn sequences_for(kind: &Kind) -> Vec<&'static [&'static str]> {
    let all = kind.name.contains("snapshot") || ["plain", "raw", "data-file", "aes", "luks"].contains(&&*kind.name);
    let sequences = if all { SEQUENCES.to_vec() } else { vec![SEQUENCES[0], SEQUENCES[4]] };
    sequences.into_iter().filter(|sequence| common::taken(&kind.name, &sequence.join(";"))).collect()
}

#[test]
fn snapshot_sequences_are_the_same() {
    require_wording();
    let kinds: Vec<_> = kinds::all()
        .into_iter()
        .filter(|kind| !kind.name.starts_with("sparse-tail") && kind.name != "huge-empty")
        .collect();
    for_all("snapshot", &kinds, |kind, report| {
        for sequence in sequences_for(kind) {
            run(kind, sequence, report);
        }
    });
}

/// Cycles that leave an image as it was; `#` stands for the number of the cycle.
const CYCLES: &[&[&str]] = &[
    &["snapshot -c s# @", "snapshot -a s# @", "snapshot -d s# @"],
    &["snapshot -c s# @", "io write -P 0x55 2M 700k", "snapshot -a s# @", "snapshot -d s# @"],
    &["snapshot -c s# @", "io write -P 0x55 2M 700k", "snapshot -d s# @"],
    &["snapshot -a first @", "snapshot -c s# @", "snapshot -a second @", "snapshot -d s# @"],
];

/// The length of the image file, the end of the last cluster in use, and the space that the file takes.
fn lengths(sandbox: &Sandbox, kind: &Kind) -> [u64; 3] {
    let check = sandbox.reference(&format!("check {SECRET} --output json --image-opts {}", kind.image_opts()));
    assert_eq!(check.code, 0, "{check}");
    let value: serde_json::Value = serde_json::from_str(&check.stdout).expect("JSON");
    let path = sandbox.file("disk");
    let len = std::fs::metadata(&path).expect("the image").len();
    [len, value["image-end-offset"].as_u64().expect("a number"), common::files::allocated(&path)]
}

#[test]
fn snapshots_taken_and_given_up_do_not_make_the_file_grow() {
    require_wording();
    let rounds: usize = std::env::var("CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let kinds = ["snapshots", "snapshots-2M", "snapshots-extended", "snapshots-512", "luks-snapshot"];
    let cases: Vec<_> = kinds.iter().flat_map(|name| CYCLES.iter().map(move |cycle| (*name, *cycle))).collect();
    for_all("growth", &cases, |(name, cycle), report| {
        if *name == "luks-snapshot" && cycle.iter().any(|step| step.ends_with("first @")) {
            return;
        }
        let kind = kinds::named(name);
        let twins = Twins::of(&kind);
        let mut found = Vec::new();
        for round in 0..rounds {
            for (tool, sandbox) in twins.each() {
                for step in *cycle {
                    match step.strip_prefix("io ") {
                        Some(command) => write(sandbox, &kind, command),
                        None => {
                            let line = step.replace('#', &round.to_string()).replace('@', &operand(&kind));
                            sandbox.run(tool, &line).expect_ok(&line);
                        }
                    }
                }
            }
            if round == 0 || round == rounds / 2 || round == rounds - 1 {
                let [ours, reference] = twins.each().map(|(_, sandbox)| lengths(sandbox, &kind));
                // Tables and refcount blocks are written beside the former ones, whose places are free then: that may be in
                // the way of a write, which goes behind. The space is the same.
                let cluster = if *name == "snapshots-2M" { 2 << 20 } else { 64 << 10 };
                let (behind, more) = (5 * cluster + (700 << 10), 2 * cluster);
                let slack = [behind, behind, more];
                if ours.iter().zip(&reference).zip(&slack).any(|((ours, reference), slack)| *ours > reference + slack) {
                    found.push(format!("round {round}: length, end, space: ours {ours:?}, reference {reference:?}"));
                }
            }
        }
        found.extend(oracle::same_target(&twins, "disk", target(&kind)));
        report.note(&format!("{name}: {cycle:?}"), found);
    });
}
