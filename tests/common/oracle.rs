//! The comparison itself: the same commands by both tools in twin folders, and what they leave behind.

use std::path::Path;

use super::Sandbox;
use super::files::{allocated, fingerprint, names};
use super::kinds::Kind;
use super::run::{Outcome, Tool, without_advice};

/// Two folders with the same content, one for each tool.
pub struct Twins {
    pub ours: Sandbox,
    pub reference: Sandbox,
}

impl Twins {
    pub fn of(kind: &Kind) -> Self {
        Twins { ours: kind.sandbox(), reference: kind.sandbox() }
    }

    pub fn empty() -> Self {
        Twins { ours: Sandbox::new(), reference: Sandbox::new() }
    }

    pub fn each(&self) -> [(Tool, &Sandbox); 2] {
        [(Tool::Ours, &self.ours), (Tool::Reference, &self.reference)]
    }

    /// Runs the same line by each tool in its folder and lists what differs in output and exit code.
    pub fn run(&self, line: &str) -> (Outcome, Vec<String>) {
        let ours = self.ours.run(Tool::Ours, line);
        let reference = self.reference.run(Tool::Reference, line);
        let differences = differences(line, &ours, &reference, &|text| text.to_owned());
        (reference, differences)
    }

    /// The same files must exist. A target that a failed conversion leaves half-written is the one thing the
    /// reference leaves and ours takes away again: `failed` allows that.
    pub fn same_names(&self, failed: bool) -> Vec<String> {
        let (ours, mut reference) = (names(self.ours.path()), names(self.reference.path()));
        if failed {
            reference.retain(|name| ours.contains(name) || !["out", "out.data"].contains(&&**name));
        }
        if ours == reference {
            return Vec::new();
        }
        vec![format!("files left behind:\n  ours      {ours:?}\n  reference {reference:?}")]
    }
}

/// What differs between two outcomes, after `normal` made unavoidable differences alike.
pub fn differences(line: &str, ours: &Outcome, reference: &Outcome, normal: &dyn Fn(&str) -> String) -> Vec<String> {
    let mut found = Vec::new();
    // Some lines send messages there, too.
    let (left, right) = (normal(&without_advice(&ours.stdout)), normal(&reference.stdout));
    if left != right {
        found.push(format!("`{line}` stdout:\n{}", side_by_side(&left, &right)));
    }
    let [left, right] =
        [&without_advice(&ours.stderr), &reference.stderr].map(|stderr| normal(&with_line_ends(stderr.trim_end())));
    if left != right {
        found.push(format!("`{line}` stderr:\n{}", side_by_side(&left, &right)));
    }
    if ours.code != reference.code {
        found.push(format!("`{line}` exit code: ours {}, reference {}", ours.code, reference.code));
    }
    found
}

/// One warning of the reference's lacks its line end, so that the next message follows on the same line; ours has it.
fn with_line_ends(text: &str) -> String {
    const WARNING: &str = "run 'qemu-img check -r' on the image file to fix.";
    text.replace(WARNING, &format!("{WARNING}\n")).replace(&format!("{WARNING}\n\n"), &format!("{WARNING}\n"))
}

/// The lines that differ, ours with `<`, the reference's with `>`.
fn side_by_side(ours: &str, reference: &str) -> String {
    let (ours, reference): (Vec<_>, Vec<_>) = (ours.lines().collect(), reference.lines().collect());
    let head = ours.iter().zip(&reference).take_while(|(a, b)| a == b).count();
    let tail = ours[head..].iter().rev().zip(reference[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let mut text = String::new();
    for line in &ours[head..ours.len() - tail] {
        text.push_str(&format!("  < {line}\n"));
    }
    for line in &reference[head..reference.len() - tail] {
        text.push_str(&format!("  > {line}\n"));
    }
    if text.is_empty() { "  (only line ends differ)\n".into() } else { text }
}

/// Runs read-only commands by both tools on the same files and checks that ours leaves them as they were.
/// Each line is reported by itself.
pub fn read_only(folder: &Path, lines: &[String]) -> Vec<(String, Vec<String>)> {
    let before = fingerprint(folder);
    let mut found = Vec::new();
    for line in lines {
        let args = super::files::words(line);
        let ours = super::run::run_in(folder, Tool::Ours, &args);
        let reference = super::run::run_in(folder, Tool::Reference, &args);
        found.push((line.clone(), differences(line, &ours, &reference, &|text| text.to_owned())));
    }
    if fingerprint(folder) != before {
        found.push(("all of these".into(), vec!["a file was changed that should only be read".into()]));
    }
    found
}

/// How a target written by both tools is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Raw,
    Qcow2,
    Locked,
}

impl Target {
    fn opts(self, file: &Path) -> String {
        let file = file.display();
        match self {
            Target::Raw => format!("driver=raw,file.filename={file}"),
            Target::Qcow2 => format!("driver=qcow2,file.filename={file}"),
            Target::Locked => format!("driver=qcow2,encrypt.key-secret=s,file.filename={file}"),
        }
    }
}

const SECRET: &str = "--object secret,id=s,data=hunter2";

/// Compares a target both tools made under the same name: content by the reference's `compare`, health by its
/// `check`, description by its `info` without what depends on the layout, and the space it takes.
pub fn same_target(twins: &Twins, name: &str, target: Target) -> Vec<String> {
    let mut found = Vec::new();
    let (ours, reference) = (twins.ours.file(name), twins.reference.file(name));
    if !ours.exists() || !reference.exists() {
        // Whether both should exist is the caller's to say, with `Twins::same_names`.
        return found;
    }
    let line = format!("compare -s {SECRET} --image-opts {} {}", target.opts(&ours), target.opts(&reference));
    let result = twins.ours.reference(&line.replace("compare -s", "compare"));
    if !result.ok() {
        found.push(format!("content of {name} differs: {}{}", result.stdout, result.stderr));
    }
    if target != Target::Raw {
        found.extend(unhealthy(&twins.ours, name, target));
        found.extend(same_description(twins, name, target));
    }
    let (a, b) = (allocated(&ours), allocated(&reference));
    if a > b + b / 8 + (256 << 10) {
        found.push(format!("{name} takes {a} bytes of storage, the reference's {b}"));
    }
    found
}

/// What the reference's `check` says against an image, if anything.
pub fn unhealthy(sandbox: &Sandbox, name: &str, target: Target) -> Vec<String> {
    let check = sandbox.reference(&format!("check {SECRET} --image-opts {}", target.opts(Path::new(name))));
    if check.code == 0 { Vec::new() } else { vec![format!("check {name}: {check}")] }
}

fn same_description(twins: &Twins, name: &str, target: Target) -> Vec<String> {
    let line = format!("info {SECRET} --output json --image-opts {}", target.opts(Path::new(name)));
    let ours = twins.ours.reference(&line);
    let reference = twins.reference.reference(&line);
    differences(&line, &ours, &reference, &without_layout)
}

/// Normalisation of `info`: file lengths and disk sizes follow from where clusters were placed; UUIDs, salted
/// iteration counts and dates are new for every image. Everything else must be equal.
pub fn without_layout(text: &str) -> String {
    let layout = [
        "\"actual-size\":",
        "\"virtual-size\":",
        "disk size:",
        "file length:",
        "\"uuid\":",
        "uuid:",
        "\"iters\":",
        "iters:",
        "\"master-key-iters\":",
        "master key iters:",
        "\"date-sec\":",
        "\"date-nsec\":",
    ];
    let mut lines: Vec<String> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let start = line.trim_start();
        // The virtual size of the image itself (indented by four) counts; the one of its file is its length.
        let is_length = start.starts_with("\"virtual-size\":") && line.starts_with("     ");
        let volatile = layout.iter().any(|key| start.starts_with(key) && (*key != "\"virtual-size\":" || is_length));
        let _ = number;
        lines.push(if volatile { line.split(':').next().unwrap_or("").to_owned() } else { line.to_owned() });
    }
    lines.join("\n")
}

/// Normalisation of a snapshot list: the date of a snapshot made a moment ago.
pub fn without_dates(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let bytes = line.as_bytes();
        let date = (0..bytes.len().saturating_sub(18)).find(|at| {
            let part = &bytes[*at..*at + 19];
            part[4] == b'-' && part[7] == b'-' && part[10] == b' ' && part[13] == b':' && part[16] == b':'
        });
        lines.push(match date {
            Some(at) => format!("{}<date>{}", &line[..at], &line[at + 19..]),
            None => line.to_owned(),
        });
    }
    lines.join("\n")
}
