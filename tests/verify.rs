//! `convert --verify` on targets that somebody else changes after they were written and before they are read back.
//! The rate limit gives the test the time to do it.

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::kinds::SECRET;
use common::run::{Outcome, Tool};
use common::{Random, Report, Sandbox, for_all};

struct Case {
    name: &'static str,
    options: &'static str,
    /// What the message says after "at byte N"; nothing where the data cannot be unpacked any more.
    reader: &'static str,
    /// The target is there before.
    existing: bool,
}

const fn case(name: &'static str, options: &'static str, reader: &'static str) -> Case {
    Case { name, options, reader, existing: false }
}

impl Case {
    /// Whether the byte in the message is known before.
    fn is_exact(&self) -> bool {
        !self.reader.is_empty() && !self.options.contains("encrypt")
    }
}

const OWN: &str = ", read by this program";
const BOTH: &str = ", read by qcow2-rs and by this program";
const LUKS: &str = "-O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";

const CASES: [Case; 9] = [
    case("raw", "-O raw", OWN),
    case("plain", "-O qcow2", BOTH),
    case("extended", "-O qcow2 -o extended_l2=on", OWN),
    case("data-file", "-O qcow2 -o data_file=out.data", OWN),
    case("luks", LUKS, OWN),
    case("aes", "-O qcow2 -o encrypt.format=aes,encrypt.key-secret=s", OWN),
    case("zlib", "-O qcow2 -c", ""),
    case("zstd", "-O qcow2 -c -o compression_type=zstd", ""),
    Case { existing: true, ..case("existing", "-n -O qcow2", BOTH) },
];

/// The guest offset of what is spoilt.
const PLACE: u64 = 128 << 10;

/// Noise, and what compresses to something less than itself.
fn write_source(path: &Path, compressible: bool) {
    let mut bytes = vec![0; 3 << 20];
    Random::new(5).fill(&mut bytes);
    if compressible {
        bytes.iter_mut().for_each(|byte| *byte = 1 + *byte % 16);
    }
    fs::write(path, bytes).expect("source");
}

/// Where in which file the bytes at [`PLACE`] are, or some others where the reference does not say. This is asked of a
/// first conversion: the layout is the same on every run.
fn find(case: &Case, sandbox: &Sandbox) -> (&'static str, u64) {
    if case.name == "raw" {
        return ("out", PLACE);
    }
    if !case.is_exact() {
        return ("out", fs::metadata(sandbox.file("out")).expect("target").len() / 2);
    }
    let map = sandbox.reference(&format!("map --output json -f qcow2 out -s {PLACE} -l 512"));
    let (_, rest) = map.stdout.split_once("\"offset\": ").unwrap_or_else(|| panic!("no offset: {map}"));
    let offset = rest.split('}').next().and_then(|text| text.trim().parse().ok()).expect("a number");
    (if case.name == "data-file" { "out.data" } else { "out" }, offset)
}

/// Waits until something is written there, and spoils it.
fn spoil(path: &Path, offset: u64, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        let mut bytes = [0; 64];
        if let Ok(file) = OpenOptions::new().read(true).write(true).open(path)
            && file.read_exact_at(&mut bytes, offset).is_ok()
            && bytes.iter().any(|byte| *byte != 0)
        {
            let turned = bytes.map(|byte| byte ^ 0xff);
            file.write_all_at(&turned, offset).expect("spoiling");
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn convert(case: &Case, sandbox: &Sandbox, more: &str) -> Outcome {
    if case.existing {
        sandbox.reference("create -q -f qcow2 out 3M").expect_ok("a target");
    }
    sandbox.run(Tool::Ours, &format!("convert {SECRET} -f raw {} {more} source out", case.options))
}

fn check(case: &Case, report: &mut Report) {
    let sandbox = Sandbox::new();
    write_source(&sandbox.file("source"), case.reader.is_empty());
    convert(case, &sandbox, "--verify").expect_ok("a conversion that nobody disturbs");
    let (file, offset) = find(case, &sandbox);
    // On a busy machine the conversion may end before the other thread is awake.
    for _ in 0..5 {
        for name in ["out", "out.data"] {
            let _ = fs::remove_file(sandbox.file(name));
        }
        let ended = AtomicBool::new(false);
        let done = std::thread::scope(|scope| {
            scope.spawn(|| spoil(&sandbox.file(file), offset, &ended));
            let done = convert(case, &sandbox, "--verify -r 2M -m 1");
            ended.store(true, Ordering::Relaxed);
            done
        });
        if !done.ok() {
            return report.note(case.name, differences(case, &sandbox, &done));
        }
    }
    report.note(case.name, vec!["the damage was not found".into()]);
}

fn differences(case: &Case, sandbox: &Sandbox, done: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    let message = done.stderr.trim_end();
    let start = "qemu-img: 'out' is not what it should be: ";
    let differs = format!("{start}Verification failed: the target differs from the source at byte ");
    let as_it_should = match (case.is_exact(), case.reader) {
        (true, reader) => message == format!("{differs}{PLACE}{reader}"),
        (false, "") => message.starts_with(start) && message.contains(" at byte "),
        (false, reader) => message.starts_with(&differs) && message.ends_with(reader),
    };
    if !as_it_should {
        found.push(format!("it says\n  {message}"));
    }
    if done.code != 1 {
        found.push(format!("exit code {}", done.code));
    }
    // Nobody shall use it by mistake; but what was there before this run is not ours to remove.
    if sandbox.file("out").exists() != case.existing || sandbox.file("out.data").exists() {
        found.push(format!("left behind: {:?}", common::files::names(sandbox.path())));
    }
    found
}

#[test]
fn damage_between_writing_and_reading_back_is_found() {
    common::files::stay_on_disk();
    for_all("verify", &CASES, check);
}
