//! The examples of docs/additions.md, run from the first to the last in one empty folder: they print what stands there. Dates,
//! times and numbers of processes aside. Lines with `#` need root and loop devices, and are left out where there are none;
//! so are those that need another machine.

mod common;

use std::path::Path;

use common::run::{Tool, program_in};
use common::{Report, Sandbox};

/// A command of a document, and what is printed below it.
struct Step<'a> {
    root: bool,
    command: &'a str,
    expected: Vec<&'a str>,
}

/// Commands begin with `$` or `#` in code that is indented by four spaces; what they print reaches to the next command
/// or the end of the code.
fn steps(document: &str) -> Vec<Step<'_>> {
    let mut steps: Vec<Step<'_>> = Vec::new();
    let mut open = false;
    for line in document.lines() {
        let Some(code) = line.strip_prefix("    ") else {
            open = false;
            continue;
        };
        let command = |prompt| code.strip_prefix(prompt).map(|command| (prompt == "# ", command));
        match command("$ ").or_else(|| command("# ")) {
            Some((root, command)) => {
                steps.push(Step { root, command, expected: Vec::new() });
                open = true;
            }
            None if open => steps.last_mut().expect("a command").expected.push(code),
            None => {}
        }
    }
    steps
}

/// Whether this machine lets us mount and make loop devices.
fn is_root(sandbox: &Sandbox) -> bool {
    let script = "truncate -s 1M probe && device=$(losetup -f --show probe) && losetup -d $device && rm probe";
    program_in(sandbox.path(), "unshare", &["--mount", "bash", "-c", script]).ok()
}

/// Runs the commands in one shell, on a terminal as a person would, and returns what each of them prints.
fn play(sandbox: &Sandbox, commands: &[&str]) -> Vec<String> {
    const MARK: &str = "--- next";
    let script = commands.iter().map(|command| format!("{command}\necho '{MARK}'\n")).collect::<String>();
    std::fs::write(sandbox.file("transcript"), script).expect("the script");
    // In a mount namespace of its own, so that nothing stays mounted.
    let line = "unshare --mount true 2>/dev/null && own='unshare --mount'; script -qec \"$own bash transcript\" /dev/null; \
                losetup -j back 2>/dev/null | cut -d: -f1 | xargs -r losetup -d; true";
    let output = sandbox.script(Tool::Ours, line).stdout.replace('\r', "");
    output.split(&format!("{MARK}\n")).map(str::to_owned).collect()
}

/// The text without what differs from run to run.
fn settled(text: &str, folder: &Path, hashes: &mut Vec<String>) -> Vec<String> {
    let text = text.replace(folder.to_str().expect("a name"), "/srv");
    text.lines().map(|line| settled_line(line, hashes)).collect()
}

fn settled_line(line: &str, hashes: &mut Vec<String>) -> String {
    let unsettled = line.starts_with("{\"phase\"")
        || ["\"date-sec\"", "\"date-nsec\"", "(process ", "[pid ", "writing at byte ", " bytes at offset "]
            .iter()
            .any(|part| line.contains(part));
    let words = line.split_inclusive(|c: char| !c.is_ascii_alphanumeric()).map(|word| {
        let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        if bare.len() == 64 && bare.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            // Which one it is does not matter, but that the same ones are the same.
            let known = hashes.iter().position(|hash| hash == bare);
            let number = known.unwrap_or_else(|| {
                hashes.push(bare.to_owned());
                hashes.len() - 1
            });
            return word.replace(bare, &format!("digest-{number}"));
        }
        let number = !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit());
        if unsettled && number { word.replace(bare, "N") } else { word.to_owned() }
    });
    // Numbers are aligned.
    without_date(&words.collect::<String>().replace("[pid  N]", "[pid N]"))
}

/// Puts a word for each date with time.
fn without_date(line: &str) -> String {
    const FORM: &str = "dddd-dd-dd dd:dd:dd";
    let fits = |text: &str| {
        text.len() >= FORM.len()
            && text
                .bytes()
                .zip(FORM.bytes())
                .all(|(byte, form)| if form == b'd' { byte.is_ascii_digit() } else { byte == form })
    };
    match (0..line.len()).find(|at| line.is_char_boundary(*at) && fits(&line[*at..])) {
        Some(at) => format!("{}DATE{}", &line[..at], &line[at + FORM.len()..]),
        None => line.to_owned(),
    }
}

/// Whether lines are what is expected, where `...` stands for any lines.
fn matches(expected: &[String], lines: &[String]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first.trim() == "..." => (0..=lines.len()).any(|from| matches(rest, &lines[from..])),
        Some((first, rest)) => lines.first() == Some(first) && matches(rest, &lines[1..]),
    }
}

#[test]
fn the_examples_print_what_the_documentation_shows() {
    let document = include_str!("../docs/additions.md");
    let (sandbox, folder) = (Sandbox::new(), Sandbox::new());
    let root = is_root(&folder);
    let steps: Vec<_> =
        steps(document).into_iter().filter(|step| (root || !step.root) && !step.command.contains("ssh ")).collect();
    assert!(steps.len() > 40, "{}", steps.len());
    let outputs = play(&sandbox, &steps.iter().map(|step| step.command).collect::<Vec<_>>());
    assert_eq!(outputs.len(), steps.len() + 1, "{outputs:?}");
    let path = sandbox.path().canonicalize().expect("the folder");
    let mut report = Report::new("transcripts");
    let (mut hashes, mut documented) = (Vec::new(), Vec::new());
    for (step, output) in steps.iter().zip(&outputs) {
        let expected = settled(&step.expected.join("\n"), &path, &mut documented);
        let lines = settled(output, &path, &mut hashes);
        let good = matches(&expected, &lines);
        report.note(
            step.command,
            if good { Vec::new() } else { vec![format!("expected {expected:#?}, not {lines:#?}")] },
        );
    }
    report.finish();
}
