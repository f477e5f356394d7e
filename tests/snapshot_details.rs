//! What `snapshot` says about snapshots beyond the original: `-l --output=json`, `--details`, `--diff`, and the line for
//! people who look at a terminal. That numbers and ranges are right on all kinds of image: `snapshot_model.rs`.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;

use common::Sandbox;
use common::kinds::SECRET;
use common::run::{Outcome, Tool, ours_path, program_in};
use serde_json::{Value, json};

fn ours(sandbox: &Sandbox, line: &str) -> Outcome {
    sandbox.run(Tool::Ours, line)
}

fn stdout(sandbox: &Sandbox, line: &str) -> String {
    let done = ours(sandbox, line).expect_ok(line);
    assert_eq!(done.stderr, "", "{line}");
    done.stdout
}

fn as_json(sandbox: &Sandbox, line: &str) -> Value {
    serde_json::from_str(&stdout(sandbox, line)).expect("JSON")
}

/// Overwrites bytes of the image.
fn poke(sandbox: &Sandbox, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(sandbox.file("disk")).expect("the image");
    file.write_all_at(bytes, at).expect("the image");
}

/// A disk of 1 MiB with the snapshots `one` and `two`, and a write after each.
fn disk(options: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let io = |command| {
        program_in(sandbox.path(), "qemu-io", &["-f", "qcow2", "-c", command, "disk"]).expect_ok(command);
    };
    stdout(&sandbox, &format!("create -q -f qcow2 {options} disk 1M"));
    io("write -P 1 0 256k");
    stdout(&sandbox, "snapshot -c one disk");
    io("write -P 2 64k 100k");
    stdout(&sandbox, "snapshot -c two disk");
    io("write -z 192k 64k");
    sandbox
}

#[test]
fn the_list_as_json_is_the_one_of_info() {
    let sandbox = Sandbox::new();
    stdout(&sandbox, "create -q -f qcow2 disk 1M");
    assert_eq!(as_json(&sandbox, "snapshot -l --output=json disk"), json!([]));
    stdout(&sandbox, "snapshot -c one disk");
    stdout(&sandbox, "snapshot -c two disk");
    let list = as_json(&sandbox, "snapshot -l --output=json disk");
    assert_eq!(list, as_json(&sandbox, "info --output=json disk")["snapshots"]);
    assert_eq!(list[1]["name"], "two");
    assert_eq!(stdout(&sandbox, "snapshot -l --output=human disk"), stdout(&sandbox, "snapshot -l disk"));
    let wrong = ours(&sandbox, "snapshot -c three --output=json disk");
    assert_eq!((wrong.code, as_json(&sandbox, "snapshot -l --output=json disk")), (1, list));
}

#[test]
fn details_in_both_forms() {
    let sandbox = disk("");
    let mut details = as_json(&sandbox, "snapshot -l --details --output=json disk");
    let list = as_json(&sandbox, "snapshot -l --output=json disk");
    // Both have an L1 and an L2 table of their own, and four clusters, two of which were written to in between; the last one
    // reads as zeros now, but keeps its place.
    let wanted = [(6, 4, 2), (6, 2, 4)];
    for (index, (referenced, exclusive, shared)) in wanted.into_iter().enumerate() {
        let found = details[index].as_object_mut().expect("an object");
        let mut take = |key: &str| found.shift_remove(key).and_then(|value| value.as_u64()).expect("a number");
        assert_eq!(take("virtual-size"), 1 << 20);
        let clusters = ["referenced-size", "exclusive-size", "shared-size"].map(|key| take(key) / 65536);
        assert_eq!((take("compressed-size"), take("compressed-clusters")), (0, 0));
        assert_eq!(clusters, [referenced, exclusive, shared], "{index}");
    }
    assert_eq!(details, list);
    let text = stdout(&sandbox, "snapshot -l --details disk");
    let lines: Vec<&str> = text.lines().collect();
    let columns = lines[1].split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(columns, "ID TAG DATE VIRTUAL_SIZE REFERENCED EXCLUSIVE SHARED COMPRESSED");
    assert!(lines[2].starts_with("1       one              "), "{text}");
    assert!(lines[2].ends_with("        1 MiB    384 KiB    256 KiB    128 KiB          -"), "{text}");
    assert_eq!(lines.len(), 5);
    // As without it where there is nothing to tell.
    stdout(&sandbox, "create -q -f qcow2 empty 1M");
    stdout(&sandbox, "create -q -f raw raw 1M");
    for file in ["-f qcow2 empty", "-f raw raw"] {
        assert_eq!(stdout(&sandbox, &format!("snapshot -l --details {file}")), "");
        assert_eq!(as_json(&sandbox, &format!("snapshot --details --output=json {file}")), json!([]));
    }
}

#[test]
fn differences_in_both_forms() {
    let sandbox = disk("");
    assert_eq!(
        stdout(&sandbox, "snapshot --diff one disk"),
        "Offset          Length          Before          After\n\
         0x10000         0x20000         data            data\n\
         0x30000         0x10000         data            zero\n"
    );
    let row = |start: u64, len: u64, before: &str, after: &str| {
        format!("{{ \"start\": {start}, \"length\": {len}, \"before\": \"{before}\", \"after\": \"{after}\"}}")
    };
    assert_eq!(
        stdout(&sandbox, "snapshot --diff one --output=json disk"),
        format!("[{},\n{}]\n", row(65536, 131_072, "data", "data"), row(196_608, 65536, "data", "zero"))
    );
    // By name or ID, the older or the younger one first, the file always last.
    let between = format!("[{}]\n", row(65536, 131_072, "data", "data"));
    for line in
        ["--diff one two disk --output=json", "--diff=2 --output=json 1 disk", "two --diff 1 --output=json disk"]
    {
        assert_eq!(stdout(&sandbox, &format!("snapshot {line}")), between, "{line}");
    }
    assert_eq!(stdout(&sandbox, "snapshot --diff one one disk --output=json"), "[]\n");
    for (line, message) in [
        (
            "--diff three disk",
            "qemu-img: Could not compare snapshot 'three' with the present state: snapshot not found: 'three'\n",
        ),
        (
            "--diff one three disk",
            "qemu-img: Could not compare snapshot 'one' with snapshot 'three': snapshot not found: 'three'\n",
        ),
        ("--diff one two three disk", "qemu-img: Expecting one image file name\n"),
        ("--diff one", "qemu-img: Expecting one image file name\n"),
        ("--diff one -l disk", "qemu-img: '--diff' can be given once, and not with '-l', '-a', '-c', '-d'\n"),
        ("--diff one --details disk", "qemu-img: --details goes with -l only\n"),
        ("-d one --details disk", "qemu-img: --details goes with -l only\n"),
        ("-d one --output=json disk", "qemu-img: --output goes with -l and --diff only\n"),
        ("one disk", "qemu-img: Expecting one image file name\n"),
    ] {
        let done = ours(&sandbox, &format!("snapshot {line}"));
        assert_eq!((done.code, &*done.stdout), (1, ""), "{line}: {done}");
        assert!(done.stderr.starts_with(message), "{line}: {done}");
    }
    stdout(&sandbox, "create -q -f raw raw 1M");
    let raw = ours(&sandbox, "snapshot -f raw --diff one raw");
    assert!(raw.stderr.ends_with(": Block driver does not support snapshots\n"), "{raw}");
}

/// Neither the key nor the backing file is needed for what only tables tell.
#[test]
fn keys_and_backing_files_are_not_needed() {
    let sandbox = Sandbox::new();
    stdout(&sandbox, "create -q -f qcow2 -u -b nowhere -F raw disk 1M");
    stdout(&sandbox, &format!("create -q -f qcow2 {SECRET} -o encrypt.format=aes,encrypt.key-secret=s locked 1M"));
    let locked = format!("{SECRET} --image-opts driver=qcow2,file.filename=locked,encrypt.key-secret=s");
    stdout(&sandbox, &format!("snapshot -c one {locked}"));
    assert_eq!(as_json(&sandbox, "snapshot --diff one --output=json locked"), json!([]));
    assert_eq!(as_json(&sandbox, "snapshot -l --details --output=json locked")[0]["name"], "one");
    assert_eq!(as_json(&sandbox, "snapshot -l --details --output=json disk"), json!([]));
}

/// Nobody makes images that have snapshots and an external data file; the feature bit is put in.
#[test]
fn external_data_files_are_refused() {
    let sandbox = disk("");
    std::fs::write(sandbox.file("data"), vec![0; 1 << 20]).expect("a data file");
    poke(&sandbox, 79, &[4]);
    let name = "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"disk\"},\
                \"data-file\":{\"driver\":\"file\",\"filename\":\"data\"}}";
    for options in [&["-l", "--details"][..], &["--diff", "one"]] {
        let done = common::run::run_in(sandbox.path(), Tool::Ours, &[&["snapshot"], options, &[name]].concat());
        assert!(
            done.stderr.contains(": The data of this image lies in an external data file, where nothing tells"),
            "{done}"
        );
        assert_eq!((done.code, &*done.stdout), (1, ""));
    }
}

/// Snapshots with longer tables than `--untrusted` allows the disk.
#[test]
fn untrusted_snapshots_are_limited_as_the_disk_is() {
    let sandbox = disk("");
    let image = std::fs::read(sandbox.file("disk")).expect("the image");
    let table = u64::from_be_bytes(image[64..72].try_into().expect("8 bytes"));
    poke(&sandbox, table + 8, &((512_u32 << 10) + 1).to_be_bytes());
    for line in ["-l", "-l --details", "--diff one"] {
        let done = ours(&sandbox, &format!("snapshot --untrusted -f qcow2 {line} disk"));
        let text = "Bytes of the L1 table of a snapshot: 4194312, but no more than 4194304 with --untrusted\n";
        assert!(done.code == 1 && done.stderr.ends_with(text), "{line}: {done}");
    }
}

#[test]
fn an_explanation_on_terminals_only() {
    let sandbox = disk("");
    let list = stdout(&sandbox, "snapshot -l disk");
    let program = ours_path();
    let on_terminal = |options: &str| {
        // `script` gives the command a terminal; standard output goes elsewhere, so that only the other one is seen.
        let command = format!("{} snapshot {options} disk >out", program.display());
        let done = program_in(sandbox.path(), "script", &["-q", "-e", "-c", &command, "/dev/null"]);
        (done.expect_ok(options).stdout, std::fs::read_to_string(sandbox.file("out")).expect("what was printed"))
    };
    let (shown, out) = on_terminal("-l");
    assert_eq!(out, list);
    assert!(shown.starts_with("VM_SIZE is ") && shown.contains("--details") && shown.ends_with("\r\n"), "{shown:?}");
    assert_eq!(shown.lines().count(), 1, "{shown:?}");
    for options in ["-q -l", "-l --output=json", "-l --details", "--diff one"] {
        assert_eq!(on_terminal(options).0, "", "{options}");
    }
    // Machine memory that is there needs no explanation; nor does a list of nothing.
    let image = std::fs::read(sandbox.file("disk")).expect("the image");
    let table = u64::from_be_bytes(image[64..72].try_into().expect("8 bytes"));
    for entry in [table, table + 72] {
        poke(&sandbox, entry + 40, &4096_u64.to_be_bytes());
    }
    assert_eq!(on_terminal("-l").0, "");
    stdout(&sandbox, "create -q -f qcow2 disk 1M");
    assert_eq!(on_terminal("-l"), (String::new(), String::new()));
}
