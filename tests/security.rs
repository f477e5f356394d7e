//! What strangers' images must not be able to do, and what becomes of secrets. The table in `docs/security.md` says which test
//! is for which published vulnerability.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::Sandbox;
use common::files::words;
use common::run::{Outcome, Tool, ours_path, program_in};

/// Runs ours in a sandbox.
fn ours(sandbox: &Sandbox, line: &str) -> Outcome {
    program_in(sandbox.path(), ours_path(), &words(line))
}

/// A sandbox with `secret`, a file that no image may give away, after a script of the reference's.
fn with_secret(script: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.file("secret"), b"top secret!\n".repeat(5504)).expect("secret");
    sandbox.script(Tool::Reference, script).expect_ok("the images");
    sandbox
}

/// Images that refer to another file: their names, and what makes them.
const REFERRING: &[(&str, &str)] = &[
    ("backing file", "qemu-img create -q -f qcow2 -u -b secret -F raw disk 64k"),
    (
        "backing file without a format",
        "qemu-img create -q -f qcow2 -u -b secret -F raw disk 64k; printf '\\021' | dd of=disk bs=1 seek=112 conv=notrunc status=none",
    ),
    (
        "backing file in json",
        "qemu-img create -q -f qcow2 -u -b 'json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"secret\"}}' -F raw disk 64k",
    ),
    ("backing file by a protocol", "qemu-img create -q -f qcow2 -u -b file:secret -F raw disk 64k"),
    ("backing file in a network", "qemu-img create -q -f qcow2 -u -b nbd://localhost:1/x -F raw disk 64k"),
    (
        "data file",
        "cp secret data; qemu-img create -q -f qcow2 -o data_file=data,data_file_raw=on disk 64k; cp secret data",
    ),
];

const OPENING: &[&str] = &[
    "convert --untrusted -f qcow2 -O raw disk out",
    "convert --untrusted -f qcow2 -O qcow2 disk out",
    "convert --untrusted --image-opts -O raw driver=qcow2,file.filename=disk out",
    "dd --untrusted -f qcow2 -O raw if=disk of=out",
    "compare --untrusted -f qcow2 -F raw disk secret",
    "map --untrusted -f qcow2 disk",
    "check --untrusted -f qcow2 disk",
    "measure --untrusted -f qcow2 -O raw disk",
    "commit --untrusted -f qcow2 disk",
    "resize --untrusted -f qcow2 disk 1M",
    "snapshot --untrusted -f qcow2 -c one disk",
    "bench --untrusted -f qcow2 -c 1 disk",
    "amend --untrusted -f qcow2 -o compat=1.1 disk",
    "rebase --untrusted -f qcow2 -b '' disk",
    "info --untrusted -f qcow2 --backing-chain disk",
    "create --untrusted -f qcow2 -b disk -F qcow2 out",
];

#[test]
fn untrusted_images_lead_to_no_other_file() {
    for (name, script) in REFERRING {
        let sandbox = with_secret(script);
        let before = std::fs::read(sandbox.file("disk")).expect("disk");
        for line in OPENING {
            // Opening a chain's images one by one shows no data file; `create` and `info` look at metadata alone.
            let metadata = line.starts_with("info") || line.starts_with("create");
            if *name == "data file" && metadata {
                continue;
            }
            let outcome = ours(&sandbox, line);
            let expected = if line.starts_with("compare") { 2 } else { 1 };
            assert_eq!(outcome.code, expected, "{name}: `{line}`: {outcome}");
            assert!(outcome.stderr.contains("--untrusted"), "{name}: `{line}`: {outcome}");
            assert!(outcome.stderr.contains("refers to the "), "{name}: `{line}`: {outcome}");
            assert!(!sandbox.file("out").exists(), "{name}: `{line}` left a target");
        }
        assert!(std::fs::read(sandbox.file("disk")).expect("disk") == before, "{name}: the image was changed");
        // Its description is allowed, and needs nothing but itself.
        std::fs::remove_file(sandbox.file("secret")).expect("remove");
        let _ = std::fs::remove_file(sandbox.file("data"));
        let outcome = ours(&sandbox, "info --untrusted --output=json disk").expect_ok(name);
        let key = if *name == "data file" { "\"data-file\": \"data\"" } else { "\"backing-filename\": " };
        assert!(outcome.stdout.contains(key), "{name}: {outcome}");
    }
}

#[test]
fn the_environment_can_ask_for_it() {
    let sandbox = with_secret(REFERRING[0].1);
    for (value, refused) in [("1", true), ("yes", true), ("", false), ("0", false)] {
        let output = Command::new(ours_path())
            .args(["map", "-f", "qcow2", "disk"])
            .current_dir(sandbox.path())
            .env("QEMU_IMG_UNTRUSTED", value)
            .output()
            .expect("starts");
        assert_eq!(output.status.success(), !refused, "QEMU_IMG_UNTRUSTED={value}");
    }
}

#[test]
fn what_the_user_names_is_opened() {
    let sandbox =
        with_secret("qemu-img create -q -f qcow2 sound 64k; qemu-img create -q -f qcow2 -u -b secret -F raw disk 64k");
    for line in [
        "create --untrusted -q -f qcow2 -b secret -F raw over 64k",
        "convert --untrusted -f qcow2 -O qcow2 -B secret -F raw sound out",
        "convert --untrusted -f qcow2 -O qcow2 -o data_file=d --verify sound out2",
        "convert --untrusted --image-opts -O raw driver=qcow2,file.filename=disk,backing.driver=raw,backing.file.filename=secret out3",
        "bitmap --untrusted --add -f qcow2 disk b",
        "rebase --untrusted -u -f qcow2 -b '' disk",
        "check --untrusted -f qcow2 disk",
    ] {
        ours(&sandbox, line).expect_ok(line);
    }
}

/// A guest that owns a raw disk can write any header into it.
#[test]
fn untrusted_formats_are_not_guessed() {
    let sandbox = with_secret("qemu-img create -q -f qcow2 disk 64k; cp secret plain");
    for line in [
        "convert --untrusted -O raw disk out",
        "map --untrusted disk",
        "check --untrusted disk",
        "compare --untrusted disk plain",
        "resize --untrusted plain 1M",
        "commit --untrusted plain",
        "snapshot --untrusted -c x disk",
        "convert --untrusted -f raw -O qcow2 -B disk plain out",
    ] {
        let outcome = ours(&sandbox, line);
        assert!(outcome.code != 0, "`{line}` guessed");
        assert!(outcome.stderr.contains("has to be named") || line.contains("-B"), "`{line}`: {outcome}");
    }
    ours(&sandbox, "convert --untrusted -O raw plain copy").expect_ok("reading what no format claims");
    assert!(std::fs::read(sandbox.file("copy")).unwrap() == std::fs::read(sandbox.file("plain")).unwrap());
    ours(&sandbox, "info --untrusted disk").expect_ok("a description");
}

/// Header fields that claim much: name, offset, bytes.
#[test]
fn untrusted_images_have_tighter_limits() {
    let claims: &[(&str, usize, &[u8])] = &[
        ("L1 table", 36, &(1_u32 << 20).to_be_bytes()),
        ("refcount table", 56, &(100_u32).to_be_bytes()),
        ("snapshots", 60, &(2000_u32).to_be_bytes()),
    ];
    for (what, at, bytes) in claims {
        let sandbox = with_secret("qemu-img create -q -f qcow2 disk 64k");
        let mut image = std::fs::read(sandbox.file("disk")).expect("disk");
        image[*at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(sandbox.file("disk"), image).expect("disk");
        let outcome = ours(&sandbox, "info --untrusted -f qcow2 disk");
        assert!(outcome.code == 1 && outcome.stderr.contains(what), "{what}: {outcome}");
    }
}

/// Files below a folder whose names end like this.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn unsafe_code_is_in_one_folder_and_has_its_reasons() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut blocks = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).expect("source");
        let lines: Vec<_> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let starts_block = code.contains("unsafe {") || code.contains("unsafe impl");
            if code.contains("unsafe_code") {
                assert!(file.ends_with("sys/mod.rs"), "{}: allows unsafe code", file.display());
            }
            if !starts_block {
                continue;
            }
            assert!(file.starts_with(root.join("sys")), "{}:{}: unsafe", file.display(), number + 1);
            let reason = lines[number.saturating_sub(8)..number].iter().any(|line| line.contains("SAFETY:"));
            assert!(reason, "{}:{}: unsafe without its reason", file.display(), number + 1);
            blocks += 1;
        }
    }
    assert!(blocks > 5, "found only {blocks} unsafe blocks: is this test looking at the right place?");
}
