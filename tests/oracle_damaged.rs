//! Damaged images: what is read from them is what the reference reads, in its words; and snapshots are taken, applied and
//! deleted without making anything worse for the data that can still be read.

mod common;

use std::collections::BTreeMap;

use common::damage::Damage;
use common::files::hash_file;
use common::kinds::{Kind, Open, SECRET};
use common::oracle;
use common::run::{BOTH, Outcome, Tool};
use common::{Report, Sandbox, breakage, collect, require_wording};

/// `@` stands for the options and the operand that name the image.
const READING: &[&str] = &[
    "map @",
    "map --output=json @",
    "map --output=json --start-offset=100000 --max-length=1100000 @",
    "measure -O qcow2 @",
    "measure -O raw @",
    "info @",
    "snapshot -l @",
];

/// One broken image, which both tools read.
fn read(kind: &Kind, image: &[u8], damage: &Damage, report: &mut Report) {
    let sandbox = broken(kind, image, damage);
    let mut found = Vec::new();
    for line in READING {
        let line = line.replace('@', &kind.operand());
        let [ours, reference] = BOTH.map(|tool| sandbox.run(tool, &line));
        if !finds_later(&line, &ours, &reference) {
            let normal: &dyn Fn(&str) -> String = match kind.open {
                // Where data is encrypted ours does not ask for refcounts.
                Open::Locked => &first_failure,
                _ => &oracle::without_dates,
            };
            found.extend(oracle::differences(&line, &ours, &reference, normal));
        }
    }
    let line = format!("convert -O raw {} out", kind.operand());
    let [ours, reference] = BOTH.map(|tool| (sandbox.run(tool, &line), digest(&sandbox, "out")));
    if !finds_later(&line, &ours.0, &reference.0) {
        found.extend(oracle::differences(&line, &ours.0, &reference.0, &first_failure));
    }
    if ours.0.ok() && ours.1 != reference.1 {
        found.push("the disk reads differently".to_owned());
    }
    report.note(&format!("{}: {}", kind.name, damage.name), found);
}

/// Where subclusters cannot be what their entry says, the reference refuses the whole range that it asks for. Ours gets as
/// far as that entry, or says before that this cannot be shown; nothing of it is measured.
fn finds_later(line: &str, ours: &Outcome, reference: &Outcome) -> bool {
    const INVALID: &str = "Invalid cluster entry found";
    let refused = [INVALID, "File contains external, encrypted or compressed clusters"];
    reference.stderr.contains(INVALID)
        && (refused.iter().any(|text| ours.code == 1 && ours.stderr.contains(text)) || line.starts_with("measure"))
}

/// The reference reads several places at a time, and says of each that it failed, whichever comes first. It also asks for
/// refcounts on the way.
fn first_failure(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with("qcow2: Image is corrupt: Refblock offset")) {
        let line = match line.strip_prefix("qemu-img: error while reading at byte ") {
            Some(rest) => format!("reading failed{}", rest.trim_start_matches(|digit: char| digit.is_ascii_digit())),
            None => line.to_owned(),
        };
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.join("\n")
}

#[test]
fn broken_images_are_read_alike() {
    require_wording();
    let mut total = Report::new("reading broken images");
    breakage::each("read", |kind, image, damages| {
        total.absorb(collect(&damages, |damage, report| read(kind, &image, damage, report)));
    });
    total.finish();
}

fn broken(kind: &Kind, image: &[u8], damage: &Damage) -> Sandbox {
    let sandbox = kind.sandbox();
    damage.write(image, &sandbox.file("disk"));
    sandbox
}

/// A number for what a file holds; 0 where there is none. The file is gone then.
fn digest(sandbox: &Sandbox, name: &str) -> u64 {
    let file = sandbox.file(name);
    let digest = if file.exists() { hash_file(&file) } else { 0 };
    let _ = std::fs::remove_file(file);
    digest
}

/// One operation on the snapshots of a broken image.
struct Operation {
    /// `@` as above.
    line: &'static str,
    /// Of which snapshot (the disk has no name) each of them holds the content afterwards.
    after: &'static [(&'static str, &'static str)],
}

const OPERATIONS: &[Operation] = &[
    Operation { line: "snapshot -c new @", after: &[("", ""), ("new", ""), ("one", "one"), ("two", "two")] },
    Operation { line: "snapshot -d one @", after: &[("", ""), ("two", "two")] },
    Operation { line: "snapshot -a one @", after: &[("", "one"), ("one", "one"), ("two", "two")] },
];

/// What the reference reads from the disk and the snapshots of a broken image, as far as they can be read.
fn contents(kind: &Kind, sandbox: &Sandbox) -> BTreeMap<&'static str, u64> {
    let mut found = BTreeMap::new();
    for name in ["", "one", "two", "new"] {
        let chosen = if name.is_empty() { String::new() } else { format!("-l snapshot.name={name} ") };
        let image = kind.image_opts();
        let outcome = sandbox.reference(&format!("convert {SECRET} --image-opts {chosen}{image} -O raw out"));
        let digest = digest(sandbox, "out");
        if outcome.ok() {
            found.insert(name, digest);
        }
    }
    found
}

/// Damages with which what an operation does cannot but be seen: what is taken for guest data or for a table is other
/// metadata, or may be, as random bits lead anywhere.
const SEEN: [&str; 4] = ["L2 entry on ", "L1 entry on ", "snapshot's L1 entry 0x", "flips"];

/// What the disk uses twice is given up twice when another state takes its place, once more than it is counted.
fn gives_up_twice(operation: &Operation, damage: &Damage) -> bool {
    operation.line.starts_with("snapshot -a") && damage.name.contains("like ")
}

/// Whatever is wrong with an image: the data that could be read before can still be read, and where the operation counts as
/// done, that is what is there.
fn operated(kind: &Kind, image: &[u8], damage: &Damage, report: &mut Report) {
    if SEEN.iter().any(|part| damage.name.contains(part)) {
        return;
    }
    let before = contents(kind, &broken(kind, image, damage));
    for operation in OPERATIONS.iter().filter(|operation| !gives_up_twice(operation, damage)) {
        let sandbox = broken(kind, image, damage);
        let outcome = sandbox.run(Tool::Ours, &operation.line.replace('@', &kind.operand()));
        let done = outcome.ok() || outcome.stderr.contains("Hint: The snapshot has been ");
        let same: Vec<_> = before.keys().map(|name| (*name, *name)).collect();
        let expected = if done { operation.after } else { &same };
        let mut found = lost(expected, &before, &contents(kind, &sandbox));
        if !outcome.ok() && outcome.code != 1 {
            found.push("an exit code of its own".to_owned());
        }
        found.iter_mut().for_each(|found| *found = format!("{found}\n{outcome}"));
        report.note(&format!("{}: {}: {}", kind.name, damage.name, operation.line), found);
    }
}

fn lost(
    expected: &[(&'static str, &'static str)],
    before: &BTreeMap<&'static str, u64>,
    after: &BTreeMap<&'static str, u64>,
) -> Vec<String> {
    let mut found = Vec::new();
    for (name, of) in expected {
        if let Some(wanted) = before.get(of)
            && after.get(name) != Some(wanted)
        {
            found.push(format!("'{name}' does not hold what '{of}' held"));
        }
    }
    found
}

#[test]
fn snapshots_of_broken_images_lose_nothing() {
    require_wording();
    let mut total = Report::new("snapshots of broken images");
    breakage::each("snapshots", |kind, image, damages| {
        total.absorb(collect(&damages, |damage, report| operated(kind, &image, damage, report)));
    });
    total.finish();
}
