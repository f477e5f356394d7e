//! `convert` onto block devices with every option: output, exit code and content are the reference's.
//!
//! Needs loop devices (and root). Where there are none these tests fail, and `scripts/test` reports them as not run.

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use common::run::Tool;
use common::{Report, Sandbox, require_wording};

const MIB: u64 = 1 << 20;

/// A file in a sandbox as a block device; detached when dropped.
struct Loop {
    name: String,
}

impl Loop {
    fn of(sandbox: &Sandbox, file: &str, len: u64, options: &str) -> Loop {
        let script = format!("truncate -s {len} {file} && losetup {options} -f --show {file}");
        let outcome = sandbox.script(Tool::Reference, &script);
        assert!(outcome.ok(), "not run: these tests need loop devices, and here are none for us: {outcome}");
        Loop { name: outcome.stdout.trim().to_owned() }
    }

    /// Old contents: a letter all over.
    fn soil(&self, len: u64) {
        let device = OpenOptions::new().write(true).open(&self.name).expect("the device");
        device.write_all_at(&vec![b'x'; len as usize], 0).expect("writing to the device");
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["-d", &self.name]).status();
    }
}

const SECRET: &str = "--object secret,id=s,data=hunter2";

/// The source is 1 MiB with data in two places; the target, @, has 4 MiB of old contents.
const CASES: &[&str] = &[
    "-O raw disk @",
    "-O file disk @",
    "-O host_device disk @",
    "-O raw disk host_device:@",
    "-O raw disk file:@",
    "-O raw -S 0 disk @",
    "-O raw -S 64k disk @",
    "-O raw -t none -T none disk @",
    "-O raw -t directsync disk @",
    "-O raw -t writethrough disk @",
    "-O raw -o preallocation=off disk @",
    "-O raw -o preallocation=falloc disk @",
    "-O raw -o preallocation=full disk @",
    "-O raw -o nocow=on disk @",
    "-O raw -o size=8M disk @",
    "-O raw -o help disk @",
    "-O host_device -o help disk @",
    "-O raw -C disk @",
    "-O raw -W -m 4 disk @",
    "-O raw -r 1G disk @",
    "-O raw -U disk @",
    "-O raw -q disk @",
    "-O raw --salvage disk @",
    "-n -O raw disk @",
    "-n -S 0 -O raw disk @",
    "-n -O host_device disk @",
    "-n -O file disk @",
    "-n --target-is-zero -O raw disk @",
    "-n -O qcow2 disk @",
    "-O raw disk disk @",
    "-O raw large @",
    "-O qcow2 large @",
    "-c -O qcow2 large @",
    "-O qcow2 disk @",
    "-O qcow2 -S 0 disk @",
    "-O qcow2 -t none disk @",
    "-O qcow2 -W -m 4 disk @",
    "-c -O qcow2 disk @",
    "-c -O qcow2 -o compression_type=zstd disk @",
    "-O qcow2 -o compat=0.10 disk @",
    "-O qcow2 -o cluster_size=512 disk @",
    "-O qcow2 -o extended_l2=on disk @",
    "-O qcow2 -o lazy_refcounts=on disk @",
    "-O qcow2 -o refcount_bits=1 disk @",
    "-O qcow2 -o preallocation=metadata disk @",
    "-O qcow2 -o preallocation=falloc disk @",
    "-O qcow2 -o preallocation=full disk @",
    "-O qcow2 -o nocow=on disk @",
    "-O qcow2 -o extent_size_hint=1M disk @",
    "-O qcow2 -o encrypt.format=aes,encrypt.key-secret=s disk @",
    "-O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 disk @",
    "-O qcow2 -o data_file=@ disk out",
    "-O qcow2 -o data_file=@,data_file_raw=on disk out",
    "-O qcow2 -o data_file=@,preallocation=full disk out",
    "-O raw @ @",
    "-O raw @ out",
    "-O qcow2 @ out",
];

/// What the target reads as: for raw the whole device, so that nothing is touched behind the end of the source.
fn content(sandbox: &Sandbox, device: &Loop, line: &str) -> String {
    let target = if line.ends_with("out") { "out" } else { &device.name };
    let (driver, key) = match line {
        _ if line.contains("key-secret") => ("qcow2", ",encrypt.key-secret=s"),
        _ if line.contains("qcow2") => ("qcow2", ""),
        _ => ("raw", ""),
    };
    let image = format!("driver={driver},file.filename={target}{key}");
    let mut script = format!("qemu-img convert -O raw {SECRET} --image-opts {image} all && md5sum < all");
    if driver == "qcow2" {
        script = format!("qemu-img check -q {SECRET} --image-opts {image}; echo health $?; {script}");
    }
    let outcome = sandbox.script(Tool::Reference, &script);
    format!("{outcome}")
}

#[test]
fn convert_onto_devices_is_the_same() {
    require_wording();
    let sandbox = Sandbox::new();
    let prepare = "truncate -s 1M disk; qemu-io -f raw -c 'write -P 1 64k 100k' -c 'write -P 2 900k 4k' disk; \
                   head -c 6M /dev/urandom > large";
    sandbox.script(Tool::Reference, prepare).expect_ok("preparing the source");
    let device = Loop::of(&sandbox, "back", 4 * MIB, "");
    let mut report = Report::new("convert onto devices");
    for case in CASES {
        let secret = if case.contains("key-secret") { SECRET } else { "" };
        let line = format!("convert {secret} -f raw {}", case.replace('@', &device.name));
        let [ours, reference] = [Tool::Ours, Tool::Reference].map(|tool| {
            let _ = std::fs::remove_file(sandbox.file("out"));
            device.soil(4 * MIB);
            let outcome = sandbox.run(tool, &line);
            let left = if outcome.ok() { content(&sandbox, &device, case) } else { String::new() };
            (outcome, left)
        });
        let mut differences = Vec::new();
        if ours != reference {
            let (left, expected) = (ours.1, reference.1);
            differences.push(format!("ours: {}\n{left}\nreference: {}\n{expected}", ours.0, reference.0));
        }
        report.note(case, differences);
    }
    report.finish();
}

#[test]
fn a_device_that_cannot_be_written_is_refused() {
    require_wording();
    let sandbox = Sandbox::new();
    sandbox.script(Tool::Reference, "truncate -s 1M disk").expect_ok("preparing the source");
    let device = Loop::of(&sandbox, "back", 4 * MIB, "-r");
    let mut report = Report::new("read-only devices");
    for line in ["convert -f raw -O raw disk @", "convert -n -f raw -O raw disk @", "convert -f raw -O qcow2 @ out"] {
        let line = line.replace('@', &device.name);
        let [ours, reference] = [Tool::Ours, Tool::Reference].map(|tool| sandbox.run(tool, &line));
        let same = ours == reference;
        report.note(&line, if same { vec![] } else { vec![format!("ours: {ours}\nreference: {reference}")] });
    }
    report.finish();
}

/// Where the source is zero, a device is told so; no zeros are written to it.
#[test]
fn no_zeros_are_written_to_a_device_that_has_a_call_for_them() {
    let sandbox = Sandbox::new();
    let source = "truncate -s 64M disk; qemu-io -f raw -c 'write -P 1 1M 64k' -c 'write -P 2 20M 1M' disk; \
                  qemu-img convert -f raw -O qcow2 disk disk.qcow2";
    sandbox.script(Tool::Reference, source).expect_ok("the source");
    let device = Loop::of(&sandbox, "back", 80 * MIB, "");
    let mut report = Report::new("zeros on devices");
    let lines =
        ["-f raw disk", "-f qcow2 disk.qcow2", "-n -f raw disk", "-t none -f raw disk", "-W -m 4 -f qcow2 disk.qcow2"];
    for line in lines {
        device.soil(80 * MIB);
        let ours = Tool::Ours.path();
        let trace = format!(
            "strace -f -o trace -e trace=pwrite64,pwritev,pwritev2,write {} convert -O raw {line} {}",
            ours.display(),
            device.name
        );
        sandbox.script(Tool::Reference, &trace).expect_ok(line);
        let written: u64 = std::fs::read_to_string(sandbox.file("trace"))
            .expect("what was traced")
            .lines()
            .filter(|call| call.contains("pwrite"))
            .filter_map(|call| call.rsplit("= ").next()?.parse::<u64>().ok())
            .sum();
        let mut found = Vec::new();
        // Creating an image on a device begins with clearing its first sector, as in the reference.
        let cleared = if line.contains("-n") { 0 } else { 512 };
        if written != MIB + (64 << 10) + cleared {
            found.push(format!("{written} bytes were written"));
        }
        let content = std::fs::read(&device.name).expect("the device");
        let disk = std::fs::read(sandbox.file("disk")).expect("the disk");
        if content[..disk.len()] != disk || content[disk.len()..].iter().any(|byte| *byte != b'x') {
            found.push("the device does not have what it should".to_owned());
        }
        report.note(line, found);
    }
    report.finish();
}

/// Two names of one device are one device: it must not be read and overwritten at the same time. Locks do not see that.
#[test]
fn a_device_by_another_name_is_the_same_device() {
    let sandbox = Sandbox::new();
    let device = Loop::of(&sandbox, "back", 4 * MIB, "");
    device.soil(4 * MIB);
    let node = format!("mknod same b $(stat -c '%Hr %Lr' {})", device.name);
    sandbox.script(Tool::Reference, &node).expect_ok("another name for the device");
    let outcome = sandbox.run(Tool::Ours, &format!("convert -f raw -O qcow2 same {}", device.name));
    assert!(outcome.code == 1 && outcome.stderr.contains("Failed to get \"write\" lock"), "{outcome}");
    // Through the device: what was written to it need not be in the file behind it yet.
    assert!(std::fs::read(&device.name).unwrap() == vec![b'x'; 4 << 20], "the device was changed");
}
