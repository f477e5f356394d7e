//! Signals during conversions: how the process ends, what it leaves behind, and what it says about its progress.
//!
//! Conversions are made slow by `-r`, so that a signal always meets them at work.

mod common;

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::run::{Tool, ours_path};
use common::{Report, Sandbox, for_all};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than any of these tests should wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A source that takes about ten seconds at this rate.
const SLOW: &str = "-r 2M";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.file("disk"), pattern(20 << 20)).expect("source");
    sandbox
}

/// Bytes that are neither zeros nor hard to compress.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 512 % 251) as u8 + 1).collect()
}

fn start(dir: &Path, line: &str) -> Child {
    let mut command = Command::new(ours_path());
    command.arg0("qemu-img").args(line.split_whitespace()).current_dir(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("our program starts")
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).expect("the process is still there");
}

/// Waits until `done`, or for the limit; says whether it came true.
fn wait_for(mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Waits for the end; a process that does not end is killed, and the test fails.
fn end(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_for(|| {
        status = child.try_wait().expect("a child can be waited for");
        status.is_some()
    });
    status.unwrap_or_else(|| {
        let _ = child.kill();
        panic!("the conversion did not end");
    })
}

/// Whether the conversion has written something into `file`.
fn has_begun(file: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(file).is_ok_and(|info| info.blocks() * 512 >= 256 << 10)
}

/// What is converted: preparation by the reference, the options, and whether the target is there afterwards.
const RUNS: &[(&str, &str, bool)] = &[
    ("", "-O raw disk out", false),
    ("", "-O qcow2 disk out", false),
    ("", "-O qcow2 -W -m 4 disk out", false),
    ("", "-c -m 4 -O qcow2 disk out", false),
    ("", "-p -O raw disk file:out", false),
    ("", "-O qcow2 -o data_file=data disk out", false),
    (
        "",
        "--object secret,id=s,data=x -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 disk out",
        false,
    ),
    ("qemu-img create -q -f raw out 20M", "-n -O raw disk out", true),
    ("qemu-img create -q -f qcow2 out 20M", "-n -O qcow2 disk out", true),
    // A file that was there before is the user's, with its owner and mode; what was in it is lost in any case.
    ("echo something > out", "-O qcow2 disk out", true),
];

const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

#[test]
fn signals_end_a_conversion_and_take_its_target_away() {
    let mut cases = Vec::new();
    for (number, run) in RUNS.iter().enumerate() {
        // Every run with one signal, the first with each.
        let signals = if number == 0 { &ENDING[..] } else { &ENDING[number % 3..=number % 3] };
        cases.extend(signals.iter().map(|signal| (*signal, run)));
    }
    for_all("signals", &cases, |(signal, (prepare, options, stays)), report| {
        let sandbox = sandbox();
        sandbox.script(Tool::Reference, prepare).expect_ok("preparing the target");
        let mut child = start(sandbox.path(), &format!("convert {SLOW} -f raw {options}"));
        let written = if options.contains("data_file") { "data" } else { "out" };
        // Compressed and encrypted, little is written in the first second.
        let begun = wait_for(|| has_begun(&sandbox.file(written)) || options.starts_with("-c"));
        std::thread::sleep(Duration::from_millis(300));
        let sent = Instant::now();
        send(&child, *signal);
        let status = end(&mut child);
        let mut differences = Vec::new();
        if !begun {
            differences.push("the conversion had not begun".into());
        }
        if status.signal() != Some(*signal as i32) {
            differences.push(format!("ended with {status}"));
        }
        if sent.elapsed() > Duration::from_secs(3) {
            differences.push(format!("took {:?} to end", sent.elapsed()));
        }
        if sandbox.file("out").exists() != *stays || sandbox.file("data").exists() {
            differences.push(format!("left behind: {:?}", common::files::names(sandbox.path())));
        }
        if std::fs::read(sandbox.file("disk")).expect("source") != pattern(20 << 20) {
            differences.push("the source was changed".into());
        }
        report.note(&format!("{signal} during {options}"), differences);
    });
}

/// A signal that comes while files are being created: at whatever moment, nothing is left.
#[test]
fn signals_while_the_target_is_created() {
    let moments: Vec<u64> = (0..24).collect();
    for_all("signals at the start", &moments, |moment, report| {
        let sandbox = Sandbox::new();
        std::fs::write(sandbox.file("disk"), pattern(6 << 20)).expect("source");
        let options = "-O qcow2 -o data_file=data,preallocation=metadata";
        let mut child = start(sandbox.path(), &format!("convert -r 64k -f raw {options} disk out"));
        std::thread::sleep(Duration::from_micros(moment * 700));
        send(&child, Signal::SIGTERM);
        // Whoever asks twice does not wait.
        send(&child, Signal::SIGTERM);
        let status = end(&mut child);
        let mut differences = Vec::new();
        if status.signal() != Some(Signal::SIGTERM as i32) {
            differences.push(format!("ended with {status}"));
        }
        if sandbox.file("out").exists() || sandbox.file("data").exists() {
            differences.push(format!("left behind: {:?}", common::files::names(sandbox.path())));
        }
        report.note(&format!("after {} microseconds", moment * 700), differences);
    });
}

/// What was ignored when the program was started stays ignored (`nohup`).
#[test]
fn ignored_signals_stay_ignored() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.file("disk"), pattern(4 << 20)).expect("source");
    let script = "trap '' HUP; qemu-img convert -r 4M -f raw -O raw disk out & pid=$!; sleep 0.5; kill -HUP $pid; \
                  wait $pid && cmp disk out";
    sandbox.script(Tool::Ours, script).expect_ok("a conversion under nohup");
}

/// `kill -9` leaves what was written so far, and nothing that keeps the next conversion from doing all of it.
#[test]
fn a_conversion_after_a_killed_one() {
    let runs = ["-O raw disk out", "-O qcow2 disk out", "-c -O qcow2 disk out"];
    for_all("killed", &runs, |options, report| {
        let sandbox = sandbox();
        let mut child = start(sandbox.path(), &format!("convert {SLOW} -f raw {options}"));
        wait_for(|| sandbox.file("out").exists());
        std::thread::sleep(Duration::from_millis(700));
        send(&child, Signal::SIGKILL);
        end(&mut child);
        let mut differences = Vec::new();
        let again = sandbox.run(Tool::Ours, &format!("convert -f raw {options}"));
        let same = sandbox.reference("compare -f raw disk out");
        if !again.ok() || !same.ok() {
            differences.push(format!("{again}\n{same}"));
        }
        report.note(options, differences);
    });
}

/// Reads all a pipe gives.
fn all(pipe: Option<impl Read>) -> String {
    let mut text = String::new();
    pipe.expect("a pipe").read_to_string(&mut text).expect("text");
    text
}

/// The number in `    (12.34/100%)`, if it is that and nothing else.
fn percentage(line: &str) -> Option<f64> {
    let number = line.strip_prefix("    (")?.strip_suffix("/100%)")?;
    let (whole, fraction) = number.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(whole) && digits(fraction) && fraction.len() == 2).then(|| number.parse().ok())?
}

/// SIGUSR1 makes exactly one line of progress on standard error, with `-p` or without.
#[test]
fn a_signal_asks_for_progress() {
    for_all("SIGUSR1", &["-O raw", "-p -O raw", "-q -O raw", "-c -O qcow2", "-pc -O qcow2"], |options, report| {
        let sandbox = Sandbox::new();
        std::fs::write(sandbox.file("disk"), pattern(8 << 20)).expect("source");
        let mut child = start(sandbox.path(), &format!("convert -r 4M -f raw {options} disk out"));
        wait_for(|| sandbox.file("out").exists());
        std::thread::sleep(Duration::from_millis(1200));
        send(&child, Signal::SIGUSR1);
        let status = end(&mut child);
        let (stdout, stderr) = (all(child.stdout.take()), all(child.stderr.take()));
        let mut differences = Vec::new();
        let lines: Vec<_> = stderr.lines().collect();
        let reported = lines.first().and_then(|line| percentage(line.trim_end_matches('\r')));
        if !status.success() || lines.len() != 1 || !reported.is_some_and(|value| value > 0.0 && value < 100.0) {
            differences.push(format!("{status}, standard error: {stderr:?}"));
        }
        if options.contains("-p") == stdout.is_empty() {
            differences.push(format!("standard output: {stdout:?}"));
        }
        report.note(options, differences);
    });
}

/// Progress into a pipe: what is converted, and whether there is any.
const PROGRESS: &[(&str, bool)] = &[
    ("convert -p -f raw -O raw disk out", true),
    ("convert -p -f raw -O qcow2 disk out", true),
    ("convert -pc -f raw -O qcow2 disk out", true),
    ("convert -p -m 1 -f raw -O qcow2 disk out", true),
    ("convert -p -W -m 8 -f raw -O qcow2 disk out", true),
    ("convert -p -f raw -O qcow2 empty out", true),
    ("convert -p -f raw -O qcow2 zeros out", true),
    ("convert -p -S 0 -f raw -O raw zeros out", true),
    ("convert -p -f raw -O qcow2 disk empty zeros disk out", true),
    ("convert -p -n -f raw -O raw disk other", true),
    ("convert -p -f raw -O raw disk folder/out", true),
    ("convert -p -f raw -O raw nowhere out", true),
    ("convert -p -q -f raw -O raw disk out", false),
    ("convert -q -p -c -f raw -O qcow2 disk out", false),
    ("convert -f raw -O raw disk out", false),
];

#[test]
fn progress_into_a_pipe_is_what_programs_parse() {
    let mut report = Report::new("progress");
    let sandbox = sandbox();
    for (name, len) in [("empty", 0), ("zeros", 8 << 20), ("other", 20 << 20)] {
        let file = std::fs::File::create(sandbox.file(name)).expect("source");
        file.set_len(len).expect("length");
    }
    for (line, shown) in PROGRESS {
        let outcome = sandbox.run(Tool::Ours, line);
        let reference = sandbox.run(Tool::Reference, line);
        let mut differences = Vec::new();
        if outcome.code != reference.code {
            differences.push(format!("ours: {outcome}\nreference: {reference}"));
        }
        for (tool, outcome) in [("ours", &outcome), ("reference", &reference)] {
            if let Err(text) = well_formed(&outcome.stdout, *shown, outcome.ok()) {
                differences.push(format!("{tool}: {text}: {:?}", outcome.stdout));
            }
        }
        report.note(line, differences);
    }
    report.finish();
}

/// The rules: each update ends with a carriage return, the first is 0.00, they rise, the last of a success is 100.00, and
/// a line feed ends it all.
fn well_formed(stdout: &str, shown: bool, success: bool) -> Result<(), &'static str> {
    if !shown {
        return if stdout.is_empty() { Ok(()) } else { Err("progress that nobody asked for") };
    }
    let updates = stdout.strip_suffix("\r\n").ok_or("does not end with a carriage return and a line feed")?;
    let values: Option<Vec<f64>> = updates.split('\r').map(percentage).collect();
    let values = values.ok_or("an update has another form")?;
    let last = values.last().copied().unwrap_or(-1.0);
    if values[0] != 0.0 || !values.is_sorted() {
        return Err("does not rise from 0.00");
    }
    if success != (last == 100.0) {
        return Err("ends with another number");
    }
    Ok(())
}
