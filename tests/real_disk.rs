//! A disk as machines boot from, made of at least 500 MB of this machine's own files: converted plain, compressed and
//! encrypted, snapshotted, converted back, its file system checked and its files compared.

mod common;

use std::path::Path;
use std::process::Command;

use common::Sandbox;
use common::run::{Tool, program_in};

const MEGABYTES: &str = "500";
const LUKS: &str = "-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
const AES: &str = "-o encrypt.format=aes,encrypt.key-secret=s";
const SECRET: &str = "--object secret,id=s,data=hunter2";

fn sh(dir: &Path, script: &str) {
    let out = Command::new("bash")
        .args(["-ec", script])
        .current_dir(dir)
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
        .output()
        .expect("bash");
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{script}: {}\n{stdout}{stderr}", out.status);
}

fn ours(sandbox: &Sandbox, line: &str) {
    let outcome = sandbox.script(Tool::Ours, &format!("qemu-img {line}")).expect_ok(line);
    assert!(outcome.stderr.is_empty(), "{line}: {}", outcome.stderr);
}

/// The reference finds the image sound, and its content that of the original disk.
fn holds_the_disk(sandbox: &Sandbox, name: &str) {
    let opts = if ["luks", "aes"].contains(&name) {
        format!("driver=qcow2,encrypt.key-secret=s,file.filename={name}")
    } else {
        format!("driver=qcow2,file.filename={name}")
    };
    sandbox.reference(&format!("check -q {SECRET} --image-opts {opts}")).expect_ok(name);
    sandbox.reference(&format!("compare {SECRET} --image-opts {opts} driver=raw,file.filename=disk")).expect_ok(name);
}

/// Ours reads it back as the very same bytes, holes included.
fn comes_back(sandbox: &Sandbox, source: &str) {
    ours(sandbox, &format!("convert {source} -O raw back"));
    sh(sandbox.path(), "cmp disk back");
    let (disk, back) = (sandbox.file("disk"), sandbox.file("back"));
    let (held, original) = (common::files::allocated(&back), common::files::allocated(&disk));
    assert!(held <= original + (1 << 20), "{source}: {held} bytes for a disk that takes {original}");
}

#[test]
fn a_real_disk_survives_every_way() {
    common::files::stay_on_disk();
    let sandbox = Sandbox::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/make-disk");
    sh(sandbox.path(), &format!("{} disk {MEGABYTES} tree", script.display()));

    for (name, options) in [("plain", ""), ("small", "-c"), ("luks", LUKS), ("aes", AES)] {
        ours(&sandbox, &format!("convert {SECRET} -f raw -O qcow2 {options} disk {name}"));
        holds_the_disk(&sandbox, name);
    }
    comes_back(&sandbox, "-f qcow2 small");
    comes_back(&sandbox, &format!("{SECRET} --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=luks"));
    comes_back(&sandbox, &format!("{SECRET} --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=aes"));
    for name in ["luks", "aes"] {
        std::fs::remove_file(sandbox.file(name)).expect("remove");
    }

    snapshots(&sandbox);
    files_are_intact(&sandbox);
}

/// A snapshot is taken, the disk overwritten from end to end, and the snapshot brought back.
fn snapshots(sandbox: &Sandbox) {
    ours(sandbox, "snapshot -c before plain");
    sh(sandbox.path(), "truncate -r disk empty; printf scratched | dd of=empty conv=notrunc status=none");
    ours(sandbox, "convert -n -f raw -O qcow2 empty plain");
    sandbox.reference("compare -f raw -F qcow2 empty plain").expect_ok("the overwritten disk");
    ours(sandbox, "convert -f qcow2 -l before -O raw plain back");
    sh(sandbox.path(), "cmp disk back");
    ours(sandbox, "snapshot -c after plain");
    ours(sandbox, "snapshot -a before plain");
    holds_the_disk(sandbox, "plain");
    ours(sandbox, "snapshot -d before plain");
    ours(sandbox, "snapshot -d after plain");
    holds_the_disk(sandbox, "plain");
}

/// The file system of the disk that came back is clean, and every file in it is the one that was put there.
fn files_are_intact(sandbox: &Sandbox) {
    comes_back(sandbox, "-f qcow2 plain");
    sh(sandbox.path(), "e2fsck -fn 'back?offset=1048576'");
    std::fs::create_dir(sandbox.file("out")).expect("folder");
    let dump = ["-R", "rdump / out", "back?offset=1048576"];
    let debugfs = ["/usr/sbin/debugfs", "/sbin/debugfs"].into_iter().find(|path| Path::new(path).exists());
    program_in(sandbox.path(), debugfs.expect("debugfs (package e2fsprogs)"), &dump).expect_ok("debugfs");
    // The tool does not bring back empty folders' times or owners; content, names and links must be equal.
    sh(sandbox.path(), "diff -r --no-dereference -x lost+found tree out");
}
