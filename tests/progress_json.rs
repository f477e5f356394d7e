//! `--progress=json` and `--progress-fd`: lines that a program can read, on the descriptor that was asked for, and `-p` as it
//! was.

mod common;

use common::run::{Outcome, Tool};
use common::{Report, Sandbox};
use serde_json::Value;

/// The lines of a file, or of standard error.
fn parse(text: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    text.lines().map(parse).collect()
}

/// What is wrong with the lines of a run that went through `phases`.
fn mistakes(lines: &[Value], phases: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen: Vec<&str> = lines.iter().filter_map(|line| line["phase"].as_str()).collect();
    seen.dedup();
    if seen != phases {
        found.push(format!("phases {seen:?}, not {phases:?}"));
    }
    const KEYS: [&str; 6] = ["phase", "bytes-done", "bytes-total", "bytes-per-second", "seconds-left", "seconds"];
    for line in lines {
        let keys: Vec<&str> = line.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        if keys != KEYS {
            found.push(format!("keys {keys:?}"));
        }
        if let Some(total) = line["bytes-total"].as_u64()
            && line["bytes-done"].as_u64().is_none_or(|done| done > total)
        {
            found.push(format!("more done than there is: {line}"));
        }
    }
    let times: Vec<f64> = lines.iter().filter_map(|line| line["seconds"].as_f64()).collect();
    if times.len() != lines.len() || !times.is_sorted() {
        found.push(format!("times {times:?}"));
    }
    found
}

/// An 8 MiB disk with 3 MiB of data, an overlay with more, and copies of that.
fn prepared() -> Sandbox {
    let sandbox = Sandbox::new();
    let script = "truncate -s 8M disk && qemu-io -f raw -c 'write -P 1 0 2M' -c 'write -P 2 5M 1M' disk \
                  && qemu-img convert -f raw -O qcow2 disk base \
                  && qemu-img create -q -f qcow2 -b base -F qcow2 over && qemu-io -c 'write -P 3 1M 1M' over \
                  && qemu-img convert -f qcow2 -O raw over flat";
    sandbox.script(Tool::Reference, script).expect_ok("preparing");
    sandbox
}

struct Case {
    line: &'static str,
    phases: &'static [&'static str],
    code: i32,
    /// Bytes done and in all, in the last line.
    end: (Option<u64>, Option<u64>),
}

const MIB: u64 = 1 << 20;

const fn case(line: &'static str, phases: &'static [&'static str], done: u64, total: Option<u64>) -> Case {
    Case { line, phases, code: 0, end: (Some(done), total) }
}

const CASES: &[Case] = &[
    case("convert @ -O qcow2 disk out", &["scan", "copy", "flush", "done"], 3 * MIB, Some(3 * MIB)),
    case(
        "convert @ -c -O qcow2 --verify disk out",
        &["scan", "copy", "flush", "verify", "done"],
        3 * MIB,
        Some(3 * MIB),
    ),
    case("convert @ -O raw over out", &["scan", "copy", "flush", "done"], 3 * MIB, Some(3 * MIB)),
    case("compare @ over flat", &["compare", "done"], 8 * MIB, Some(8 * MIB)),
    case("digest @ over", &["digest", "done"], 8 * MIB, Some(8 * MIB)),
    case("commit @ over", &["scan", "copy", "flush", "empty", "done"], MIB, Some(MIB)),
    case("rebase @ -b '' over", &["scan", "copy", "header", "done"], 2 * MIB, Some(2 * MIB)),
    case("amend @ -o lazy_refcounts=on base", &["header", "done"], 0, None),
    Case { code: 1, ..case("amend @ -o backing_file=disk base", &["header", "failed"], 0, None) },
    Case { code: 1, ..case("compare @ over base", &["compare", "done"], 0, Some(8 * MIB)) },
    Case { code: 1, ..case("convert @ -O qcow2 nothing out", &["failed"], 0, None) },
];

#[test]
fn every_command_with_progress_writes_json_lines() {
    let mut report = Report::new("JSON lines");
    for case in CASES {
        for (option, redirection, file) in [
            ("--progress=json", "2> lines", "lines"),
            ("--progress-fd 7", "7> lines 2> rest", "lines"),
            ("-p --progress-fd 2", "2> lines", "lines"),
        ] {
            let sandbox = prepared();
            let line = format!("qemu-img {} {redirection}", case.line.replace('@', option));
            let outcome = sandbox.script(Tool::Ours, &line);
            let text = std::fs::read_to_string(sandbox.file(file)).unwrap();
            // Messages come between and behind the lines where both go to standard error.
            let json: String =
                text.lines().filter(|line| line.starts_with('{')).map(|line| format!("{line}\n")).collect();
            let lines = parse(&json);
            let mut found = mistakes(&lines, case.phases);
            let end =
                lines.last().map_or((None, None), |last| (last["bytes-done"].as_u64(), last["bytes-total"].as_u64()));
            // Where a comparison stops depends on its threads.
            if end != case.end && !(case.line.starts_with("compare") && case.code == 1) {
                found.push(format!("the last line tells of {end:?}, not {:?}", case.end));
            }
            if outcome.code != case.code || (case.code == 0 && json != text) || outcome.stdout.contains("/100%") {
                found.push(format!("{outcome}\n{text}"));
            }
            report.note(&line, found);
        }
    }
    report.finish();
}

#[test]
fn long_work_tells_how_long_it_will_take() {
    let sandbox = prepared();
    // 3 MiB at 4 MiB a second.
    let outcome = sandbox.run(Tool::Ours, "convert --progress=json -r 4M -m 1 -f raw -O raw disk out");
    let lines = parse(&outcome.stderr);
    assert_eq!(mistakes(&lines, &["scan", "copy", "flush", "done"]), Vec::<String>::new());
    let known = |line: &&Value| line["bytes-per-second"].is_u64() && line["seconds-left"].is_u64();
    assert!(lines.iter().filter(|line| line["phase"] == "copy").any(|line| known(&line)), "{outcome}");
    let last = lines.last().unwrap();
    assert!(last["seconds"].as_f64().unwrap() > 0.2 && known(&last), "{last}");
}

fn run(sandbox: &Sandbox, line: &str) -> Outcome {
    sandbox.script(Tool::Ours, &format!("exec 9>&-; qemu-img {line}"))
}

#[test]
fn wrong_uses_are_refused_before_anything_happens() {
    let sandbox = prepared();
    let before = common::files::fingerprint(sandbox.path());
    let descriptor = "--progress-fd expects the number of a descriptor open for writing, not";
    for (line, message) in [
        ("convert --progress-fd 9 -O qcow2 disk out", format!("qemu-img: {descriptor} '9'\n")),
        ("convert --progress-fd 9 -O qcow2 disk out 9< disk", format!("qemu-img: {descriptor} '9'\n")),
        ("convert --progress-fd -1 -O qcow2 disk out", format!("qemu-img: {descriptor} '-1'\n")),
        ("convert --progress-fd x -O qcow2 disk out", format!("qemu-img: {descriptor} 'x'\n")),
        ("rebase --progress-fd 9 -b '' over", format!("qemu-img: {descriptor} '9'\n")),
        ("convert --progress=xml -O qcow2 disk out", "option '--progress' doesn't allow an argument".into()),
        ("convert --progress= -O qcow2 disk out", "option '--progress' doesn't allow an argument".into()),
        ("compare --progress=xml disk disk", "option '--progress' doesn't allow an argument".into()),
        // What is ours has no short forms.
        ("convert --progress-f 2 -O qcow2 disk out", "unrecognized option '--progress-f'".into()),
    ] {
        let outcome = run(&sandbox, line);
        assert!(outcome.stderr.contains(&message) && outcome.code == 1, "{line}: {outcome}");
    }
    assert_eq!(common::files::fingerprint(sandbox.path()), before);
}

#[test]
fn what_was_there_before_stays() {
    let sandbox = prepared();
    let percent = "    (0.00/100%)\r";
    for line in [
        "convert -p -O qcow2 disk out",
        "convert -qp --progress=json -O qcow2 disk out",
        "compare --progress disk disk",
    ] {
        let outcome = run(&sandbox, line).expect_ok(line);
        assert_eq!(outcome.stdout.starts_with(percent), !line.contains("-qp"), "{line}: {outcome}");
        assert_eq!(outcome.stderr, "", "{line}");
    }
}

#[test]
fn nobody_reading_is_no_failure() {
    let sandbox = prepared();
    let line = "qemu-img convert --progress-fd 7 -r 8M -f raw -O qcow2 disk out 7> >(head -c 1 > /dev/null)";
    let outcome = sandbox.script(Tool::Ours, line).expect_ok("a reader that goes away");
    assert_eq!(outcome.stderr, "");
}
