//! Damaged images: what is read from them is what the reference reads, in its words; and snapshots are taken, applied and
//! deleted without making anything worse for the data that can still be read.

mod common;

use common::damage::Damage;
use common::files::hash_file;
use common::kinds::{Kind, Open};
use common::oracle;
use common::run::{BOTH, Outcome};
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
