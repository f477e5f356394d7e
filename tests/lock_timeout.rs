//! `--lock-timeout`: waiting for an image that somebody else holds, and who holds it.

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::files::words;
use common::holder::Holder;
use common::run::{Tool, ours_path, program_in};
use common::{Report, Sandbox, for_all};

/// Every command, on images that may be held.
const LINES: &[&str] = &[
    "amend --lock-timeout 20 -o lazy_refcounts=on disk",
    "bench --lock-timeout 20 -c 1 -f qcow2 disk",
    "bitmap --lock-timeout=20 --add disk bits",
    "check --lock-timeout 20 disk",
    "commit --lock-timeout 20 -q over",
    "compare --lock-timeout 20 small disk",
    "digest --lock-timeout 20 disk",
    "convert --lock-timeout 20 -O raw disk out",
    "convert --lock-timeout 20 -f raw -O qcow2 small disk",
    "convert --lock-timeout 20 -n -f raw -O qcow2 small disk",
    "create --lock-timeout 20 -q -f qcow2 disk 2M",
    "dd --lock-timeout 20 -O raw if=disk of=out bs=64k count=1",
    "dd --lock-timeout 20 -f raw -O qcow2 if=small of=disk bs=64k count=1",
    "info disk --lock-timeout 20.5",
    "info --backing-chain over --lock-timeout 20",
    "map --lock-timeout 20 over",
    "measure --lock-timeout 20 -O raw disk",
    "rebase --lock-timeout 20 -b small -F raw over",
    "resize -q --lock-timeout 20 disk 4M",
    "snapshot -c new --lock-timeout 1e1 disk",
    "snapshot -c new --lock-timeout 20 disk",
    "snapshot -l --lock-timeout 20 disk",
    "snapshot --lock-timeout 20 -a old disk",
    "snapshot --lock-timeout 20 -d old disk",
];

fn scene() -> Sandbox {
    let sandbox = Sandbox::new();
    let script = "qemu-img create -q -f raw small 2M && qemu-img create -q -f qcow2 disk 2M
        qemu-img snapshot -c old disk && qemu-img create -q -f qcow2 -b disk -F qcow2 over";
    sandbox.script(Tool::Reference, script).expect_ok("making the images");
    sandbox
}

const QUESTION: &str = "Is another process using the image [";

#[test]
fn every_command_waits_until_the_holder_is_gone() {
    for_all("waiting", LINES, |line, report| {
        let sandbox = scene();
        let held = Holder::start(&sandbox, "qemu-io -f qcow2 disk");
        let start = Instant::now();
        let (outcome, held_for) = std::thread::scope(|scope| {
            let run = scope.spawn(|| sandbox.run(Tool::Ours, line));
            std::thread::sleep(Duration::from_millis(250));
            drop(held);
            let held_for = start.elapsed();
            (run.join().expect("the run"), held_for)
        });
        let mut found = Vec::new();
        // Two of them: a wrong number is refused at once, and nothing else is.
        if line.contains("1e1") {
            if outcome.code != 1 || !outcome.stderr.contains("Invalid lock timeout '1e1'") {
                found.push(outcome.to_string());
            }
        } else if !(outcome.ok() && outcome.stderr.is_empty() || line.starts_with("compare") && outcome.code < 2) {
            found.push(outcome.to_string());
        } else if start.elapsed() < held_for {
            found.push("did not wait".to_owned());
        }
        report.note(line, found);
    });
}

#[test]
fn the_time_ends_and_the_holder_is_named() {
    let holders =
        ["qemu-io -f qcow2 disk", "qemu-nbd -k SOCKET -f qcow2 disk", "bench -c 100000000 -d 1 -w -S 0 -f qcow2 disk"];
    for_all("names", &holders, |holder, report| {
        let sandbox = scene();
        let held = match holder.strip_prefix("bench") {
            Some(_) => Holder::start_tool(&sandbox, Tool::Ours, holder, &["disk"]),
            None => Holder::start(&sandbox, holder),
        };
        let program =
            if holder.starts_with("bench") { "qemu-img" } else { holder.split(' ').next().unwrap_or_default() };
        for (line, limit) in [("snapshot -c new disk", 0), ("snapshot -c new --lock-timeout 0.6 disk", 600)] {
            let start = Instant::now();
            let outcome = sandbox.run(Tool::Ours, line);
            let took = start.elapsed();
            let wanted = format!(
                "qemu-img: Could not open 'disk': Failed to get \"write\" lock\n{QUESTION}disk]?\n\
                 Hint: The image is held by {program} (process {}).\n",
                held.pid()
            );
            let mut found = Vec::new();
            if outcome.code != 1 || outcome.stderr != wanted {
                found.push(outcome.to_string());
            }
            if took < Duration::from_millis(limit) || took > Duration::from_millis(limit + 5000) {
                found.push(format!("took {took:?}"));
            }
            report.note(&format!("{holder} :: {line}"), found);
        }
    });
}

/// Waiting for oneself would last for ever.
#[test]
fn nobody_waits_for_himself() {
    let sandbox = scene();
    let start = Instant::now();
    let outcome = sandbox.run(Tool::Ours, "convert --lock-timeout 30 -n -O qcow2 disk disk");
    assert!(start.elapsed() < Duration::from_secs(10), "it has waited");
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.ends_with("Hint: The image is held by this command itself.\n"), "{outcome}");
}

/// Numbers that are none.
#[test]
fn wrong_times_are_refused() {
    let sandbox = scene();
    let mut report = Report::new("times");
    for time in ["''", "-1", "x", "1s", "1e3", "inf", "NaN", "0x1", "+1", ".", "99999999999999999999999999"] {
        let outcome = sandbox.run(Tool::Ours, &format!("info --lock-timeout {time} disk"));
        let good = outcome.code == 1 && outcome.stderr.contains("Invalid lock timeout");
        report.note(time, if good { Vec::new() } else { vec![outcome.to_string()] });
    }
    for time in ["0", "0.0", ".5", "5.", "86400", "9999999999999"] {
        let outcome = sandbox.run(Tool::Ours, &format!("info --lock-timeout {time} disk"));
        report.note(time, if outcome.ok() { Vec::new() } else { vec![outcome.to_string()] });
    }
    report.finish();
}

/// A signal ends the waiting, and what was waited for stays as it is.
#[test]
fn a_signal_ends_the_waiting() {
    use std::os::unix::process::ExitStatusExt;
    let lines = ["snapshot -c new --lock-timeout 60 disk", "convert --lock-timeout 60 -O raw disk out"];
    for_all("signals", &lines, |line, report| {
        let sandbox = scene();
        let _held = Holder::start(&sandbox, "qemu-io -f qcow2 disk");
        let mut command = Command::new(ours_path());
        command.args(words(line)).current_dir(sandbox.path()).stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("ours starts");
        std::thread::sleep(Duration::from_millis(200));
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it waits");
        let start = Instant::now();
        let status = child.wait().expect("it ends");
        let good =
            status.signal() == Some(15) && start.elapsed() < Duration::from_secs(3) && !sandbox.file("out").exists();
        report.note(line, if good { Vec::new() } else { vec![format!("{status} after {:?}", start.elapsed())] });
    });
}

/// Who waits is not in anybody's way: others that get along with the holder come and go meanwhile.
#[test]
fn waiting_disturbs_nobody() {
    let sandbox = scene();
    let held = Holder::start(&sandbox, "qemu-io -r -f qcow2 disk");
    let outcome = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| sandbox.run(Tool::Ours, "snapshot -c new --lock-timeout 60 disk"));
        std::thread::sleep(Duration::from_millis(100));
        for round in 0..100 {
            let args = ["-r", "-f", "qcow2", "-c", "quit", "disk"];
            let reader = program_in(sandbox.path(), "qemu-io", &args);
            assert!(reader.ok() && reader.stderr.is_empty(), "round {round}: {reader}");
        }
        drop(held);
        waiting.join().expect("the run")
    });
    outcome.expect_ok("waiting");
}

/// Several who wait for the same image all get their turn.
#[test]
fn all_who_wait_get_their_turn() {
    let sandbox = scene();
    let held = Holder::start(&sandbox, "qemu-io -f qcow2 disk");
    let names: Vec<_> = (0..8).map(|number| format!("s{number}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let sandbox = &sandbox;
            scope.spawn(move || {
                let line = format!("snapshot -c {name} --lock-timeout 50 disk");
                sandbox.run(Tool::Ours, &line).expect_ok(&line);
            });
        }
        std::thread::sleep(Duration::from_millis(300));
        drop(held);
    });
    let list = sandbox.reference("snapshot -l disk").stdout;
    assert!(names.iter().all(|name| list.contains(name.as_str())), "{list}");
    sandbox.reference("check disk").expect_ok("check");
}
