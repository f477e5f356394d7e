//! What ours adds below a message: what to do next. The messages themselves are the reference's, which other tests see to.

mod common;
#[path = "../src/storage/testing.rs"]
#[allow(dead_code, reason = "loop devices are for the unit tests")]
mod mounts;

use common::run::{Outcome, Tool, without_advice};
use common::{Report, Sandbox};
use mounts::Mount;

/// The lines of advice of a call that fails.
fn advice(outcome: &Outcome) -> Vec<&str> {
    outcome.stderr.lines().filter_map(|line| line.strip_prefix("Hint: ")).collect()
}

/// What a call says that failed on a full disk, besides which request to the file called `name` it was.
fn advice_on_room<'a>(outcome: &'a Outcome, name: &str) -> Vec<&'a str> {
    let mut said = advice(outcome);
    let which = format!(" of '{name}' failed.");
    let request = said.iter().position(|line| line.contains(" bytes at offset ") && line.ends_with(&which));
    said.remove(request.unwrap_or_else(|| panic!("not which request failed: {outcome}")));
    said
}

const SCENE: &str = "truncate -s 1M raw; qemu-img create -q -f qcow2 image 1M; mkdir dir; \
                     qemu-img create -q -f qcow2 dir/base 1M; qemu-img create -q -f qcow2 -b base -F qcow2 dir/over; \
                     mv dir/base elsewhere; mkfifo fifo; printf 'KDMV%01020d' 0 > disk.vmdk";

/// Lines that fail, and what is said about them; `@` is the folder.
const CASES: &[(&str, &[&str])] = &[
    // Words that nearly are one.
    ("covnert raw out", &["Did you mean 'convert'?"]),
    ("inof image", &["Did you mean 'info'?"]),
    ("launch image", &[]),
    ("info --outptu=json image", &["Did you mean '--output'?"]),
    ("convert --verfy raw out", &["Did you mean '--verify'?"]),
    ("convert --target-is-zeros raw out", &["Did you mean '--target-is-zero'?"]),
    ("convert --image-optz raw out", &["Did you mean '--image-opts'?"]),
    ("convert --nonsense raw out", &[]),
    ("convert --targe raw out", &[]),
    ("info -Y image", &[]),
    ("create -f qcow2 -o clustersize=64k new 1M", &["Did you mean 'cluster_size'?"]),
    ("create -f qcow2 -o backing_format=raw new 1M", &["Did you mean 'backing_fmt'?"]),
    ("create -f qcow2 -o lazy_refcount=on new 1M", &["Did you mean 'lazy_refcounts'?"]),
    ("convert -O qcow2 -o compresion_type=zstd image out", &["Did you mean 'compression_type'?"]),
    ("convert -c -O qcow2 -o compressionlevel=3 image out", &["Did you mean 'compression_level'?"]),
    ("convert -O raw -o compressionlevel=3 image out", &[]),
    ("amend -o compta=1.1 image", &["Did you mean 'compat'?"]),
    ("info --image-opts drvier=qcow2,file.filename=image", &["Did you mean 'driver'?"]),
    ("info --image-opts driver=qcow2,lazy-refcount=on,file.filename=image", &["Did you mean 'lazy-refcounts'?"]),
    ("info --image-opts driver=qcow2,nonsense=on,file.filename=image", &[]),
    ("create -f qcow new 1M", &[]),
    ("create -f qcow3 new 1M", &["Did you mean 'qcow2'?"]),
    ("info -f qcov2 image", &["Did you mean 'qcow2'?"]),
    // The wrong format.
    (
        "info -f qcow2 raw",
        &[
            "'raw' does not begin like an image in qcow2 format, nor in any other. If it is a raw disk, its format is 'raw'.",
        ],
    ),
    (
        "info -f qcow2 disk.vmdk",
        &["'disk.vmdk' begins like an image in another format. Images in vmdk format are not supported yet."],
    ),
    (
        "convert -f qcow2 -O raw raw out",
        &[
            "'raw' does not begin like an image in qcow2 format, nor in any other. If it is a raw disk, its format is 'raw'.",
        ],
    ),
    ("info -f qcow2 missing", &[]),
    // A backing file that is not there.
    (
        "convert -O raw dir/over out",
        &[
            "'dir/over' has the backing file 'base', which was looked for at '@/dir/base'. If it is somewhere else now, 'qemu-img rebase -u -b FILE -F FORMAT' writes its new name into the image.",
        ],
    ),
    (
        "map dir/over",
        &[
            "'dir/over' has the backing file 'base', which was looked for at '@/dir/base'. If it is somewhere else now, 'qemu-img rebase -u -b FILE -F FORMAT' writes its new name into the image.",
        ],
    ),
    (
        "create -q -f qcow2 -b elsewhere -F qcow2 dir/new",
        &[
            "'elsewhere' was looked for at '@/dir/elsewhere': names of backing files are relative to the folder of the image that has them, here 'dir/new'.",
        ],
    ),
    (
        "info --backing-chain dir/over",
        &[
            "'dir/over' has the backing file 'base', which was looked for at '@/dir/base'. If it is somewhere else now, 'qemu-img rebase -u -b FILE -F FORMAT' writes its new name into the image.",
        ],
    ),
    ("create -q -f qcow2 -b nowhere -F qcow2 new", &["'nowhere' was looked for at '@/nowhere'."]),
    ("create -q -f qcow2 -b /nowhere/base -F qcow2 new", &[]),
    ("convert -O raw missing out", &[]),
    ("convert -f raw -O raw raw fifo", &["Nobody reads 'fifo'; start the reader before the writer."]),
];

#[test]
fn what_to_do_next_is_said_below_the_message() {
    let sandbox = Sandbox::new();
    sandbox.script(Tool::Reference, SCENE).expect_ok("the scene");
    let folder = sandbox.path().canonicalize().expect("the folder");
    let mut report = Report::new("advice");
    for (line, expected) in CASES {
        let outcome = sandbox.run(Tool::Ours, line);
        let expected: Vec<_> =
            expected.iter().map(|text| text.replace('@', folder.to_str().expect("its name"))).collect();
        let message = without_advice(&outcome.stderr);
        // Below everything else, and nothing but that.
        let last = outcome.stderr.starts_with(&message);
        let good = outcome.code == 1 && last && message.starts_with("qemu-img") && advice(&outcome) == expected;
        report.note(line, if good { Vec::new() } else { vec![outcome.to_string()] });
    }
    report.finish();
}

#[test]
fn a_full_disk_is_told_with_what_was_needed() {
    let sandbox = Sandbox::new();
    let Some(small) = Mount::tmpfs(8 << 20) else { return };
    sandbox.script(Tool::Reference, "head -c 16M /dev/urandom > disk; truncate -s 64M disk").expect_ok("the disk");
    let target = small.path().join("out");
    let name = target.to_str().expect("its name");
    let measured = |line: &str| {
        let text = sandbox.reference(&format!("measure {line} -f raw disk")).expect_ok(line).stdout;
        let number =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).expect("a size").trim().to_owned();
        (number("required size:"), number("fully allocated size:"))
    };
    let (required, all) = measured("-O qcow2");
    let cases = [
        ("-O qcow2 disk @", required.clone()),
        ("-c -O qcow2 disk @", required),
        ("-O qcow2 -o preallocation=full disk @", all),
        ("-O raw disk @", (16 << 20).to_string()),
    ];
    for (line, bytes) in cases {
        let outcome = sandbox.run(Tool::Ours, &format!("convert -f raw {}", line.replace('@', name)));
        let said = advice_on_room(&outcome, name);
        assert!(outcome.code == 1 && outcome.stderr.contains("No space left on device"), "{line}: {outcome}");
        assert!(said.len() == 1 && said[0].starts_with(&format!("'{name}' needs up to ")), "{line}: {outcome}");
        assert!(said[0].contains(&format!("({bytes} bytes)")), "{line}: {bytes}: {outcome}");
        assert!(said[0].ends_with("; there is room for 8 MiB (8388608 bytes)."), "{line}: {outcome}");
        assert!(!target.exists(), "{line}");
    }
}

/// Bytes that are free there.
fn free(small: &Mount) -> u64 {
    let info = nix::sys::statvfs::statvfs(small.path()).expect("its state");
    info.blocks_available() * info.fragment_size()
}

#[test]
fn commands_besides_convert_tell_what_a_full_disk_lacks() {
    let sandbox = Sandbox::new();
    let Some(small) = Mount::tmpfs(8 << 20) else { return };
    sandbox.script(Tool::Reference, "head -c 16M /dev/urandom > disk").expect_ok("the disk");
    let target = small.path().join("out");
    let name = target.to_str().expect("its name");
    let fully_allocated = "16.3 MiB (17104896 bytes)"; // what the reference's `measure` says
    let cases = [
        ("create -q -f raw -o preallocation=falloc @ 16M", "16 MiB (16777216 bytes)"),
        ("create -q -f raw -o preallocation=full @ 16M", "16 MiB (16777216 bytes)"),
        ("create -q -f qcow2 -o preallocation=full @ 16M", fully_allocated),
        ("dd -f raw -O raw if=disk of=@", "16 MiB (16777216 bytes)"),
        ("dd -f raw -O qcow2 if=disk of=@", fully_allocated),
    ];
    for (line, needed) in cases {
        let outcome = sandbox.run(Tool::Ours, &line.replace('@', name));
        let said = format!("'{name}' needs up to {needed}; there is room for 8 MiB (8388608 bytes).");
        assert_eq!((outcome.code, advice_on_room(&outcome, name)), (1, vec![said.as_str()]), "{line}: {outcome}");
        assert!(!target.exists(), "{line}");
    }
    for format in ["raw", "qcow2"] {
        for mode in ["falloc", "full"] {
            sandbox.reference(&format!("create -q -f {format} {name} 1M")).expect_ok("the image");
            let (before, room) = (std::fs::read(&target).expect("the image"), free(&small));
            let outcome = sandbox.run(Tool::Ours, &format!("resize -f {format} --preallocation={mode} {name} 17M"));
            let said = advice_on_room(&outcome, name);
            let growth = format!("What is new of '{name}' takes 16 MiB (16777216 bytes); there is room for ");
            assert!(outcome.code == 1 && said.len() == 1 && said[0].starts_with(&growth), "{format} {mode}: {outcome}");
            assert!(said[0].contains(&format!("({room} bytes)")), "{format} {mode}: {room}: {outcome}");
            // The disk is as full as it was, and the image is what it was.
            assert_eq!(free(&small), room, "{format} {mode}");
            assert_eq!(std::fs::read(&target).expect("the image").len(), before.len(), "{format} {mode}");
            std::fs::remove_file(&target).expect("the image");
        }
    }
}
