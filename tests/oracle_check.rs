//! `check`: report, counters and exit code, on sound and on damaged images, and what its repairs leave behind.

mod common;

use common::kinds::{self, Kind};
use common::run::{BOTH, Tool, script_in};
use common::{Report, Sandbox, for_all, oracle, require_wording};

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
    let lines: Vec<_> = KIND_LINES.iter().map(|line| format!("check {}", line.replace('@', &kind.operand()))).collect();
    if kind.name == "bitmaps-stale" {
        return check_stale(&kind.sandbox(), &lines, report);
    }
    for (line, differences) in oracle::read_only(&kind.folder(), &lines) {
        report.note(&format!("{}: {line}", kind.name), differences);
    }
}

/// The reference forgets the line end behind a warning, and the report follows on the same line.
fn check_stale(sandbox: &Sandbox, lines: &[String], report: &mut Report) {
    for line in lines {
        let [ours, reference] = BOTH.map(|tool| sandbox.run(tool, line));
        let normal = |text: &str| text.replace("to fix.Leaked", "to fix.\nLeaked");
        report.note(&format!("bitmaps-stale: {line}"), oracle::differences(line, &ours, &reference, &normal));
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
