//! Real faults: files that must not grow (`ulimit -f`), full file systems, file systems without holes and reservations,
//! read-only ones, devices that are too small, things that are no files, sources that are cut off meanwhile. Each is an error
//! with exit code 1 that says why; an image that was there is what it was or what it was to become, and a target that the
//! run created is gone.
//!
//! Mounting needs root; without it the cases on other file systems say so and are skipped.

mod common;
#[path = "../src/storage/testing.rs"]
mod mounts;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::files::{copy_sparse, words};
use common::looks::{CHANGES, IMAGES, differences, look};
use common::run::{Outcome, Tool, ours_path, run_in, script_in};
use common::{Report, Sandbox, collect, for_all};
use mounts::{LoopDevice, Mount};

/// Makes new files; the target is `out`.
const TARGETS: [&str; 10] = [
    "convert -f raw -O raw noise out",
    "convert -f raw -O raw -S 0 noise out",
    "convert -f raw -O qcow2 noise out",
    "convert -c -f raw -O qcow2 noise out",
    "convert -W -m 4 -f raw -O qcow2 noise out",
    "convert -f raw -O qcow2 -t none -T none -o data_file=data noise out",
    "convert -f raw -O raw -t writethrough noise out",
    "create -q -f qcow2 -o preallocation=full out 7M",
    "create -q -f raw -o preallocation=full out 7M",
    "dd -f raw -O qcow2 bs=64k if=noise of=out",
];

fn images() -> Sandbox {
    let images = Sandbox::new();
    images.script(Tool::Reference, IMAGES).expect_ok("preparing the images");
    images
}

/// What is wrong with how a run ended that had to fail for one of these reasons, if it failed.
fn bad_end(outcome: &Outcome, causes: &[&str]) -> Option<String> {
    let named = |line: &str| line.starts_with("qemu-img: ") && causes.iter().any(|cause| line.contains(cause));
    let said = outcome.stderr.lines().any(named);
    // A repair reports what it found.
    let report = outcome.stderr.starts_with("ERROR ");
    let good = match outcome.code {
        0 => outcome.stderr.is_empty() || report,
        1 => said,
        _ => false,
    };
    (!good).then(|| outcome.to_string())
}

/// What is left of a target.
fn leftovers(dir: &Path, outcome: &Outcome) -> Option<String> {
    let there = dir.join("out").exists() || dir.join("data").exists();
    (there && !outcome.ok()).then(|| format!("something is left of the target: {:?}", common::files::names(dir)))
}

/// Every so manieth value of a list: all with `SHARE=1`.
fn some<T: Copy>(all: &[T]) -> Vec<T> {
    let step = if common::share_taken() > 1 { 3 } else { 1 };
    all.iter().copied().step_by(step).collect()
}

/// How `ulimit -f` counts: in KiB.
fn limits(from: u64, to: u64, steps: u64) -> impl Iterator<Item = u64> {
    (0..=steps).map(move |step| from + (to - from) * step / steps)
}

#[test]
fn files_that_must_not_grow() {
    let images = images();
    let mut report = Report::new("ulimit -f");
    report.absorb(collect(&CHANGES, |change, report| {
        let before = look(images.path(), change).expect("readable");
        let finished = Sandbox::copy_of(images.path());
        finished.run(Tool::Ours, change.line).expect_ok(change.line);
        let after = look(finished.path(), change).expect("readable");
        let size = |sandbox: &Sandbox, name: &str| fs::metadata(sandbox.file(name)).map_or(0, |info| info.len() / 1024);
        let names = if change.image == "top" { ["top", "base"] } else { [change.image, change.image] };
        let smallest = names.iter().map(|name| size(&images, name)).min().unwrap_or(0);
        let largest = names.iter().map(|name| size(&finished, name).max(size(&images, name))).max().unwrap_or(0);
        let all: Vec<_> = limits(smallest.saturating_sub(8), largest + 400, 6).collect();
        for limit in some(&all) {
            let sandbox = Sandbox::copy_of(images.path());
            let outcome = sandbox.script(Tool::Ours, &format!("ulimit -f {limit}; qemu-img {}", change.line));
            let mut found = differences(sandbox.path(), change, &[&before, &after]);
            found.extend(bad_end(&outcome, &["File too large"]));
            report.note(&format!("{} with {limit} KiB", change.line), found);
        }
    }));
    report.absorb(collect(&TARGETS, |line, report| {
        for limit in some(&[0, 1, 100, 200, 320, 1000, 5000, 6144, 6500, 9000]) {
            let sandbox = Sandbox::new();
            copy_sparse(&images.file("noise"), &sandbox.file("noise")).expect("the source");
            let outcome = sandbox.script(Tool::Ours, &format!("ulimit -f {limit}; qemu-img {line}"));
            let mut found: Vec<_> =
                bad_end(&outcome, &["File too large", "too large for file format"]).into_iter().collect();
            found.extend(leftovers(sandbox.path(), &outcome));
            if (limit == 9000) != outcome.ok() && (limit == 9000 || limit < 6144) {
                found.push(format!("unexpected: {outcome}"));
            }
            report.note(&format!("{line} with {limit} KiB"), found);
        }
    }));
    report.finish();
}

/// Leaves only so many KiB on a file system.
fn fill(dir: &Path, left: u64) {
    let script = format!(
        "free=$(df --output=avail -k . | tail -1); [ $free -le {left} ] || head -c $(( (free - {left}) * 1024 )) /dev/zero > filler"
    );
    script_in(dir, Tool::Reference, &script).expect_ok("filling the file system");
}

#[test]
fn full_file_systems() {
    let Some(mount) = Mount::tmpfs(64 << 20) else { return };
    let images = images();
    let mut report = Report::new("full file systems");
    let clear = || {
        for entry in fs::read_dir(mount.path()).expect("the mounted folder") {
            fs::remove_file(entry.expect("an entry").path()).expect("a file");
        }
    };
    for change in &CHANGES {
        let before = look(images.path(), change).expect("readable");
        let finished = Sandbox::copy_of(images.path());
        finished.run(Tool::Ours, change.line).expect_ok(change.line);
        let after = look(finished.path(), change).expect("readable");
        for left in some(&[16, 0, 4000, 200]) {
            clear();
            for name in common::files::names(images.path()) {
                copy_sparse(&images.file(&name), &mount.path().join(&name)).expect("a copy");
            }
            fill(mount.path(), left);
            let outcome = run_in(mount.path(), Tool::Ours, &words(change.line));
            // Repairs and reading need no more room from here on.
            fs::remove_file(mount.path().join("filler")).expect("the filler");
            let mut found = differences(mount.path(), change, &[&before, &after]);
            found.extend(bad_end(&outcome, &["No space left on device"]));
            report.note(&format!("{} with {left} KiB left", change.line), found);
        }
    }
    for line in TARGETS {
        if line.contains("-t none") {
            // Not on this file system.
            continue;
        }
        for left in some(&[0, 8, 300, 3000, 6144]) {
            clear();
            copy_sparse(&images.file("noise"), &mount.path().join("noise")).expect("the source");
            fill(mount.path(), left);
            let outcome = run_in(mount.path(), Tool::Ours, &words(line));
            let mut found: Vec<_> = bad_end(&outcome, &["No space left on device"]).into_iter().collect();
            found.extend(leftovers(mount.path(), &outcome));
            report.note(&format!("{line} with {left} KiB left"), found);
        }
    }
    report.finish();
}

/// Without holes and reservations (ramfs), and without reservations (ext3).
#[test]
fn file_systems_without_holes_or_reservations() {
    let ram = || {
        let dir = tempfile::tempdir().ok()?;
        let mounted = Command::new("mount").args(["-t", "ramfs", "none"]).arg(dir.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(dir)
    };
    let images = images();
    let mut report = Report::new("file systems");
    let mut all = |name: &str, dir: &Path| {
        let taken = |line: &str| common::share_taken() == 1 || line.len() % 2 == name.len() % 2;
        for change in CHANGES.iter().filter(|change| taken(change.line)) {
            let work = dir.join("work");
            fs::create_dir(&work).expect("a folder");
            for name in common::files::names(images.path()) {
                fs::copy(images.file(&name), work.join(&name)).expect("a copy");
            }
            let finished = Sandbox::copy_of(images.path());
            finished.run(Tool::Ours, change.line).expect_ok(change.line);
            let after = look(finished.path(), change).expect("readable");
            let outcome = run_in(&work, Tool::Ours, &words(change.line));
            let mut found = differences(&work, change, &[&after]);
            found.extend((!outcome.ok()).then(|| outcome.to_string()));
            report.note(&format!("{} on {name}", change.line), found);
            fs::remove_dir_all(&work).expect("the folder");
        }
        let more = [
            "convert -f qcow2 -O raw disk out",
            "create -q -f raw -o preallocation=falloc out 3M",
            "create -q -f qcow2 -o preallocation=falloc out 3M",
        ];
        for line in TARGETS.iter().chain(&more).filter(|line| !line.contains("-t none") && taken(line)) {
            let work = dir.join("work");
            fs::create_dir(&work).expect("a folder");
            for name in ["noise", "disk"] {
                fs::copy(images.file(name), work.join(name)).expect("a copy");
            }
            let outcome = run_in(&work, Tool::Ours, &words(line));
            report
                .note(&format!("{line} on {name}"), (!outcome.ok()).then(|| outcome.to_string()).into_iter().collect());
            fs::remove_dir_all(&work).expect("the folder");
        }
    };
    if let Some(dir) = ram() {
        all("ramfs", dir.path());
        let _ = Command::new("umount").arg(dir.path()).output();
    } else {
        println!("skipped: ramfs cannot be mounted");
    }
    if let Some(mount) = Mount::new("ext3", 200 << 20) {
        all("ext3", mount.path());
    }
    report.note("the images", Vec::new());
    report.finish();
}

#[test]
fn read_only_file_systems() {
    let Some(mount) = Mount::tmpfs(64 << 20) else { return };
    let images = images();
    for name in common::files::names(images.path()) {
        copy_sparse(&images.file(&name), &mount.path().join(&name)).expect("a copy");
    }
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(mount.path()).status();
    assert!(remounted.expect("mount").success(), "it can be made read only");
    let mut report = Report::new("read-only file systems");
    for line in CHANGES.iter().map(|change| change.line).chain(TARGETS) {
        let outcome = run_in(mount.path(), Tool::Ours, &words(line));
        let mut found: Vec<_> = bad_end(&outcome, &["Read-only file system"]).into_iter().collect();
        found.extend(outcome.ok().then(|| outcome.to_string()));
        report.note(line, found);
    }
    for line in ["info disk", "check -q disk", "map disk", "compare -f qcow2 -F qcow2 disk disk"] {
        let outcome = run_in(mount.path(), Tool::Ours, &words(line));
        report.note(line, (!outcome.ok()).then(|| outcome.to_string()).into_iter().collect());
    }
    report.finish();
}

/// Neither is waited for: opening a pipe would.
#[test]
fn what_is_no_image_file() {
    let lines = [
        "snapshot -c a @",
        "snapshot -a a @",
        "snapshot -d a @",
        "resize @ 1M",
        "amend -f qcow2 -o compat=1.1 @",
        "bitmap --add @ b",
        "commit @",
        "rebase -b '' @",
        "check -r all @",
        "check @",
        "info @",
        "map @",
        "compare @ @",
        "measure -O qcow2 @",
        "bench -c 1 @",
        "convert -O raw @ out",
        "convert -n -O raw noise @",
        "convert -O raw noise @",
        "convert -O qcow2 noise @",
        "create -q -f qcow2 @ 1M",
        "create -q -f raw @ 1M",
        "dd if=@ of=out",
        "dd if=noise of=@",
    ];
    let mut cases = Vec::new();
    for line in lines {
        cases.extend(["folder", "pipe", "socket", "missing/image", "noise/image"].map(|name| (line, name)));
    }
    for_all("no image files", &cases, |(line, name), report| {
        let sandbox = Sandbox::new();
        fs::write(sandbox.file("noise"), [1; 4096]).expect("a file");
        fs::create_dir(sandbox.file("folder")).expect("a folder");
        sandbox.script(Tool::Reference, "mkfifo pipe").expect_ok("a pipe");
        let _socket = std::os::unix::net::UnixListener::bind(sandbox.file("socket")).expect("a socket");
        let line = line.replace('@', name);
        let outcome = sandbox.run(Tool::Ours, &line);
        let mut found = Vec::new();
        if outcome.code != if line.starts_with("compare") { 2 } else { 1 } || !outcome.stderr.contains(name) {
            found.push(outcome.to_string());
        }
        if sandbox.file("out").exists() {
            found.push("there is a target".into());
        }
        report.note(&line, found);
    });
}

#[test]
fn devices_that_are_too_small() {
    let Some(device) = LoopDevice::new(4 << 20, 512, 0xaa, false) else { return };
    let images = images();
    let mut report = Report::new("small devices");
    for line in [
        "convert -n -f raw -O raw noise @",
        "convert -f raw -O raw noise @",
        "convert -f raw -O qcow2 noise @",
        "convert -c -f raw -O qcow2 noise @",
        "create -q -f raw @ 5M",
        "create -q -f qcow2 -o preallocation=metadata,cluster_size=512 @ 2G",
        "dd -f raw -O raw bs=64k if=noise of=@",
    ] {
        let line = line.replace('@', &device.name);
        let outcome = images.run(Tool::Ours, &line);
        let mut found = Vec::new();
        if outcome.code != 1 || !outcome.stderr.starts_with("qemu-img: ") {
            found.push(outcome.to_string());
        }
        report.note(&line, found);
    }
    // An image that fills its device: what needs more room is refused, and the image is whole.
    let disk = format!("create -q -f qcow2 -o cluster_size=4k {} 8M", device.name);
    images.reference(&disk).expect_ok("an image on the device");
    let io = |command: &str| {
        common::run::program_in(images.path(), "qemu-io", &["-f", "qcow2", "-c", command, &device.name])
    };
    io("write -P 1 0 3900k").expect_ok("writing");
    let read = |name: &str| {
        images.reference(&format!("convert -f qcow2 -O raw {} {name}", device.name)).expect_ok("reading");
        common::files::hash_file(&images.file(name))
    };
    let before = read("before");
    for line in [
        "snapshot -c a @",
        "snapshot -c b @",
        "snapshot -d a @",
        "bitmap --add @ b",
        "resize -q @ 64G",
        "amend -o refcount_bits=64 -f qcow2 @",
    ] {
        let line = line.replace('@', &device.name);
        let outcome = images.run(Tool::Ours, &line);
        let mut found: Vec<_> =
            bad_end(&outcome, &["No space left", "snapshot not found", "Can't resize"]).into_iter().collect();
        let check = images.reference(&format!("check -f qcow2 {}", device.name));
        if !matches!(check.code, 0 | 3) {
            found.push(check.to_string());
        }
        report.note(&line, found);
    }
    report.finish();
    // Its size may be another one now; the bytes are there.
    images.run(Tool::Reference, &format!("convert -f qcow2 -O raw {} after", device.name)).expect_ok("reading");
    let cut = fs::File::options().write(true).open(images.file("after")).expect("what was read");
    cut.set_len(8 << 20).expect("as long as before");
    assert_eq!(common::files::hash_file(&images.file("after")), before);
}

/// What is missing of a source is not taken for zeros.
#[test]
fn sources_that_are_cut_off_meanwhile() {
    let lines = [
        ("noise", "convert -r 4M -f raw -O raw noise out"),
        ("noise", "convert -r 4M -f raw -O qcow2 noise out"),
        ("noise", "convert -r 4M -c -f raw -O qcow2 noise out"),
        ("disk", "convert -r 4M -f qcow2 -O raw disk out"),
        ("noise", "convert -r 4M -n -f raw -O raw noise old"),
    ];
    let images = images();
    for_all("sources cut off", &lines, |(source, line), report| {
        let sandbox = Sandbox::copy_of(images.path());
        fs::write(sandbox.file("old"), vec![9; 12 << 20]).expect("a target");
        let mut command = Command::new(ours_path());
        command.args(words(line)).current_dir(sandbox.path()).stdin(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().expect("our program starts");
        std::thread::sleep(Duration::from_millis(400));
        let cut = fs::File::options().write(true).open(sandbox.file(source)).expect("the source");
        cut.set_len(5 << 20).expect("cutting it off");
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut found = Vec::new();
        let said =
            text.contains(&format!("'{source}' has become shorter while it was read")) && text.contains("at byte");
        if output.status.code() != Some(1) || !said {
            found.push(format!("{:?}: {text}", output.status));
        }
        if sandbox.file("out").exists() {
            found.push("there is a target".into());
        }
        report.note(line, found);
    });
}
