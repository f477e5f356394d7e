//! `check`: report, counters and exit code, on sound and on damaged images, and what its repairs leave behind.

mod common;

use common::damage::Damage;
use common::files::hash_file;
use common::kinds::{self, Kind, SECRET};
use common::oracle::Twins;
use common::run::{BOTH, Outcome, Tool, script_in};
use common::{Report, Sandbox, breakage, collect, for_all, oracle, require_wording, taken};

/// `@` stands for the options and the operand that name the image.
const KIND_LINES: &[&str] = &[
    "@",
    "--output=json @",
    "-q @",
    "-U -T none @",
    "disk",
    "--output=json -f raw disk",
    "--output json -f qcow2 disk",
    "--image-opts driver=qcow2,file.filename=disk,backing=",
];

fn check_kind(kind: &Kind, report: &mut Report) {
    let lines = KIND_LINES.iter().filter(|line| **line == "@" || taken(&kind.name, line));
    let lines: Vec<_> = lines.map(|line| format!("check {}", line.replace('@', &kind.operand()))).collect();
    for (line, differences) in oracle::read_only(&kind.folder(), &lines) {
        report.note(&format!("{}: {line}", kind.name), differences);
    }
}

#[test]
fn every_kind() {
    require_wording();
    for_all("check, every kind", &kinds::all(), check_kind);
}

/// Each line is run in a folder with `a` (qcow2) and `b` (raw).
const LINES: &[&str] = &[
    "check",
    "check a b",
    "check -x a",
    "check -r",
    "check -r nothing a",
    "check --repair= a",
    "check -r all -U a",
    "check -U -r leaks a",
    "check -r all -f raw b",
    "check -r leaks b",
    "check -f raw --output=json b",
    "check -f raw -q b",
    "check nowhere",
    "check -r all nowhere",
    "check --output=nothing a",
    "check --output json a",
    "check -f nothing a",
    "check -f qcow2 b",
    "check -T nothing a",
    "check -T none a",
    "check --cache=unsafe a",
    "check -f qcow2 --image-opts driver=qcow2,file.filename=a",
    "check --image-opts driver=raw,file.filename=a",
    "check --image-opts driver=qcow2,file.filename=a",
    "check --image-opts driver=file,filename=a",
    "check --image-opts a",
    "check --object nothing a",
    "check --object secret,id=s,data=x a",
    "check --o a",
    "check --f a",
    "check --rep leaks a",
    "check --ou json a",
    "check -q -q a",
    "check -fqcow2 -rall a",
    "check -rleaks --output=json a",
    "check .",
    "check json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"a\"}}",
    "check --output=json json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"a\"}}",
];

const SCENE: &str = "/usr/bin/qemu-img create -q -f qcow2 a 4M\n\
                     qemu-io -f qcow2 -c 'write -P 1 1M 200k' a >/dev/null\nhead -c 100k /dev/zero > b";

#[test]
fn wrong_and_right_lines() {
    require_wording();
    let sandbox = Sandbox::new();
    script_in(sandbox.path(), Tool::Reference, SCENE).expect_ok("the scene");
    let lines: Vec<_> = LINES.iter().map(|line| (*line).to_owned()).collect();
    let mut report = Report::new("check, lines");
    for (line, differences) in oracle::read_only(sandbox.path(), &lines) {
        report.note(&line, differences);
    }
    report.finish();
}

/// One broken image: both tools report it with equal words.
fn reported(kind: &Kind, image: &[u8], damage: &Damage, report: &mut Report) {
    let sandbox = kind.sandbox();
    damage.write(image, &sandbox.file("disk"));
    let mut differences = Vec::new();
    for line in ["check @", "check --output=json @"] {
        let line = line.replace('@', &kind.operand());
        let [ours, reference] = BOTH.map(|tool| sandbox.run(tool, &line));
        differences.extend(oracle::differences(&line, &ours, &reference, &str::to_owned));
    }
    report.note(&format!("{}: {}", kind.name, damage.name), differences);
}

#[test]
fn broken_images_are_reported_alike() {
    require_wording();
    let mut total = Report::new("check, broken images");
    breakage::each("report", |kind, image, damages| {
        total.absorb(collect(&damages, |damage, report| reported(kind, &image, damage, report)));
    });
    total.finish();
}

/// What our repair says where it leaves leaks that the reference frees, and where it leaves a snapshot table that the
/// reference makes anew; docs/compatibility.md has the reasons.
const LEFT: [&str; 2] = ["Leaks are not repaired because ", "The snapshot table is not repaired: "];

/// Where the check reports no damage of a structure that leads to clusters, but ours finds one all the same.
const SILENT: &[&str] =
    &["bytes missing at the end", "snapshot", "L1 table at", "L1 entry none", "L1 entry only a flag"];

/// Both tools repair a broken image: with equal words, and with the same disk and snapshots afterwards.
fn repaired(kind: &Kind, image: &[u8], damage: &Damage, report: &mut Report) {
    // The reference writes the header as it opens such images, when it has not read the snapshot table yet: they lose
    // their snapshots.
    let loses = kind.name == "victim-bitmaps" || damage.name.starts_with("autoclear");
    for mode in ["leaks", "all"] {
        let twins = Twins::of(kind);
        for (_, sandbox) in twins.each() {
            damage.write(image, &sandbox.file("disk"));
        }
        let line = format!("check -r {mode} {}", kind.operand());
        let ours = ours_alone(kind, image, damage, &line);
        // The reference repairs on opening here, whatever the mode is. Ours does not when it cannot read the snapshots.
        let refuses = kind.name == "victim-lazy" && mode == "leaks" && ours.code == 1;
        let differences = if refuses || LEFT.iter().any(|text| ours.stderr.contains(text)) {
            leaves(kind, damage, &twins, mode)
        } else if loses {
            keeps(kind, &twins, mode)
        } else {
            repairs(kind, &twins, mode)
        };
        report.note(&format!("{}: {}: -r {mode}", kind.name, damage.name), differences);
    }
}

/// What ours says, without a trace.
fn ours_alone(kind: &Kind, image: &[u8], damage: &Damage, line: &str) -> Outcome {
    let sandbox = kind.sandbox();
    damage.write(image, &sandbox.file("disk"));
    sandbox.run(Tool::Ours, line)
}

/// Ours leaves leaks, or the snapshot table: only where there is a reason, and all that was leaked still is.
fn leaves(kind: &Kind, damage: &Damage, twins: &Twins, mode: &str) -> Vec<String> {
    let line = format!("check {}", kind.operand());
    let leaks = |outcome: &Outcome| -> Vec<String> {
        let lines = outcome.stderr.lines().filter(|line| line.starts_with("Leaked cluster"));
        lines.map(|line| line.split(" reference").next().unwrap_or("").to_owned()).collect()
    };
    let before = twins.reference.reference(&line);
    let lead = |line: &str| {
        line.contains("ERROR failed to read the snapshot table")
            || line.starts_with("ERROR")
                && !line.starts_with("ERROR cluster")
                && !line.starts_with("ERROR OFLAG_COPIED")
    };
    let mut differences = keeps(kind, twins, mode);
    // See `repaired`: the reference repairs on opening.
    let dirty = kind.name == "victim-lazy" && mode == "leaks";
    if !dirty && !before.stderr.lines().any(lead) && !SILENT.iter().any(|part| damage.name.contains(part)) {
        differences.push(format!("no reason to leave anything: {before}"));
    }
    let after = leaks(&twins.ours.reference(&line));
    let freed: Vec<_> = leaks(&before).into_iter().filter(|leak| !after.contains(leak)).collect();
    if !freed.is_empty() {
        differences.push(format!("not leaked any more: {freed:?}"));
    }
    differences
}

fn repairs(kind: &Kind, twins: &Twins, mode: &str) -> Vec<String> {
    let line = format!("check -r {mode} {}", kind.operand());
    let [ours, reference] = twins.each().map(|(tool, sandbox)| sandbox.run(tool, &line));
    let mut differences = Vec::new();
    if !repairs_differently(&ours, &reference) {
        let rebuilt = mode == "all" && ours.stderr.contains("Rebuilding refcount structure");
        let ends = |text: &str| {
            let lines = text.lines().filter(|line| !(rebuilt && line.starts_with("Image end offset:")));
            lines.collect::<Vec<_>>().join("\n")
        };
        differences.extend(oracle::differences(&line, &ours, &reference, &ends));
    }
    let line = format!("check -q {}", kind.operand());
    let [after, wanted] = twins.each().map(|(_, sandbox)| sandbox.reference(&line));
    if badness(&after) > badness(&wanted) || (ours.code == 0 && after.code != 0) {
        differences.push(format!("ours: {ours}\nafter -r {mode}, ours: {after}\nafter the reference's: {wanted}"));
    }
    if after.code == 0 && wanted.code == 0 {
        differences.extend(same_content(kind, twins));
    }
    differences
}

/// Ours alone repairs; the other twin stays as it is, to compare with.
fn keeps(kind: &Kind, twins: &Twins, mode: &str) -> Vec<String> {
    let line = format!("check -q {}", kind.operand());
    let before = twins.reference.reference(&line);
    let ours = twins.ours.run(Tool::Ours, &format!("check -r {mode} {}", kind.operand()));
    let after = twins.ours.reference(&line);
    let mut differences = Vec::new();
    if badness(&after) > badness(&before) || (ours.code == 0 && after.code != 0) {
        differences.push(format!("before: {before}\nafter -r {mode}: {after}"));
    }
    let left = LEFT.iter().any(|text| ours.stderr.contains(text));
    if mode == "all" && badness(&before) < 3 && after.code == 3 && !left {
        differences.push(format!("-r all left leaks: {ours}"));
    }
    if badness(&before) < 2 {
        differences.extend(same_content(kind, twins));
    }
    differences
}

/// How bad a verdict of `check` is.
fn badness(outcome: &Outcome) -> i32 {
    match outcome.code {
        0 => 0,
        3 => 1,
        2 => 2,
        _ => 3,
    }
}

/// Where our repair does something else on purpose; docs/compatibility.md has the reasons. What it leaves behind is
/// compared all the same.
fn repairs_differently(ours: &Outcome, reference: &Outcome) -> bool {
    // The reference gives up; or it makes the file long enough for the place of a refcount block.
    let gives_up = ["Marking image as corrupt", "could not resize image", "is outside image"];
    // Entries of the snapshot table that hold nothing are dropped, and a table that cannot be where it should be.
    let drops = ["Repairing snapshot table entry", "overhanging snapshots", "Discarding 0 snapshots"];
    // New structures lie elsewhere, and what garbage in tables seems to lead to is counted with them.
    let garbage = ["Rebuilding refcount structure", "ERROR found L"].iter().all(|text| ours.stderr.contains(text));
    garbage
        || gives_up.iter().any(|text| reference.stderr.contains(text))
        || drops.iter().any(|text| ours.stderr.contains(text))
}

fn same_content(kind: &Kind, twins: &Twins) -> Vec<String> {
    let mut found = Vec::new();
    let [ours, theirs] = twins
        .each()
        .map(|(_, sandbox)| kind.image_opts().replace("=disk", &format!("={}", sandbox.file("disk").display())));
    let line = format!("compare {SECRET} --image-opts {ours} {theirs}");
    let result = twins.ours.reference(&line);
    // What cannot be read in one must not be readable in the other.
    if result.code == 1 || (result.code > 1 && twins.ours.reference(&line.replace(&ours, &theirs)).code == 0) {
        found.push(format!("the disk differs: {result}"));
    }
    let list = format!("snapshot {SECRET} -l --image-opts {}", kind.image_opts());
    let [left, right] = twins.each().map(|(_, sandbox)| sandbox.reference(&list));
    // Without those that hold nothing at all, not even a name; where there are no others, without the heading.
    let named = |text: &str| {
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with(&" ".repeat(20))).collect();
        if lines.len() > 2 { lines.join("\n") } else { String::new() }
    };
    found.extend(oracle::differences(&list, &left, &right, &named));
    for name in ["one", "two"].into_iter().filter(|name| right.stdout.contains(name)) {
        let line = format!("convert {SECRET} --image-opts -l {name} {} -O raw out", kind.image_opts());
        let [left, right] = twins.each().map(|(_, sandbox)| {
            let outcome = sandbox.reference(&line);
            (outcome.code, if outcome.ok() { hash_file(&sandbox.file("out")) } else { 0 })
        });
        if left != right {
            found.push(format!("snapshot {name} differs"));
        }
    }
    found
}

#[test]
fn broken_images_are_repaired_alike() {
    require_wording();
    let mut total = Report::new("check -r, broken images");
    breakage::each("repair", |kind, image, damages| {
        total.absorb(collect(&damages, |damage, report| repaired(kind, &image, damage, report)));
    });
    total.finish();
}

/// Images whose writer was killed while refcounts were still to be written.
const UNCLOSED: &[&str] = &["cluster_size=64k", "cluster_size=4k", "refcount_bits=64", "extended_l2=on"];

#[test]
fn images_that_were_not_closed() {
    require_wording();
    for_all("check, not closed", UNCLOSED, |options, report| {
        let scene = Sandbox::new();
        let make = format!(
            "qemu-img create -q -f qcow2 -o lazy_refcounts=on,{options} disk 8M
             qemu-io -f qcow2 -c 'write -P 1 0 1M' disk >/dev/null; qemu-img snapshot -c one disk
             qemu-io -f qcow2 -c 'write -P 2 2M 1M' -c flush -c 'sigraise 9' disk >/dev/null 2>&1
             qemu-img convert -O raw disk before"
        );
        scene.script(Tool::Reference, &make).expect_ok("a dirty image");
        for mode in ["", "-r leaks", "-r all"] {
            let twins = Twins { ours: Sandbox::copy_of(scene.path()), reference: Sandbox::copy_of(scene.path()) };
            let (_, mut differences) = twins.run(&format!("check -f qcow2 {mode} disk"));
            let [ours, reference] = twins.each().map(|(_, sandbox)| sandbox.reference("check -f qcow2 disk"));
            differences.extend(oracle::differences("check afterwards", &ours, &reference, &str::to_owned));
            // The reference takes the mark away although refcounts are missing.
            let dirty = twins.ours.reference("info --output=json disk").stdout.contains("\"dirty-flag\": true");
            if dirty == (mode == "-r all") {
                differences.push(format!("the image is {}marked as dirty", if dirty { "" } else { "not " }));
            }
            let content = twins.ours.reference("compare -f raw -F qcow2 before disk");
            if !content.ok() {
                differences.push(format!("something else is on the disk: {content}"));
            }
            report.note(&format!("{options} {mode}"), differences);
        }
    });
}
