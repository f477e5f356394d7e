//! What is refused, or fails at the first file, leaves every file that was there as it was: targets, sources, and whatever a new
//! image would need.

mod common;

use common::Sandbox;
use common::files::{hash_file, words};
use common::holder::Holder;
use common::run::{Tool, ours_path, program_in};

/// An image with a name more, one above it, a raw disk with a name more, and one that is used meanwhile.
const FILES: &str = "qemu-img create -q -f qcow2 disk 1M; qemu-io -f qcow2 -c 'write -P 1 0 1M' disk >/dev/null
    qemu-img create -q -f qcow2 -b disk -F qcow2 over; cp disk there; cp disk held
    head -c 65536 /dev/urandom >raw; ln disk hard; ln raw hardraw; ln -s disk link";

/// All of them would destroy something.
const REFUSED: &[&str] = &[
    // The data file is the backing file, or one below it.
    "create -q -f qcow2 -o data_file=disk -b disk -F qcow2 new",
    "create -q -f qcow2 -o data_file=hard -b over -F qcow2 new",
    "create -q -u -f qcow2 -o data_file=link -b disk -F qcow2 new 1M",
    // The data file is the image.
    "create -q -f qcow2 -o data_file=disk disk 1M",
    "create -q -f qcow2 -o data_file=hard disk 1M",
    "create -q -f qcow2 -o data_file=./link disk 1M",
    // The data file cannot be made.
    "create -q -f qcow2 -o data_file=nowhere/data there 1M",
    "create -q -f qcow2 -o data_file=. there 1M",
    "create -q -f qcow2 -o data_file=held there 1M",
    "convert -f raw -O qcow2 -o data_file=nowhere/data raw there",
    "convert -f raw -O qcow2 -o data_file=held raw there",
    "dd -f raw -O qcow2 if=raw of=nowhere/there",
    // The image is its own backing file.
    "create -q -f qcow2 -b ./disk -F qcow2 disk 1M",
    "create -q -u -f qcow2 -b ./disk -F qcow2 disk 1M",
    "create -q -u -f qcow2 -b hard -F qcow2 disk 1M",
    // The target is the source, which is not locked.
    "convert --image-opts -O raw driver=raw,file.filename=raw,file.locking=off raw",
    "convert --image-opts -O raw driver=raw,file.filename=raw,file.locking=off hardraw",
    "convert --image-opts -O qcow2 -o data_file=hardraw driver=raw,file.filename=raw,file.locking=off new",
    "convert -U -f raw -O raw raw hardraw",
];

#[test]
fn what_is_refused_costs_no_file() {
    let sandbox = Sandbox::new();
    sandbox.script(Tool::Reference, FILES).expect_ok("the files");
    let names = ["disk", "over", "there", "held", "raw"];
    let all = || names.map(|name| hash_file(&sandbox.file(name)));
    let before = all();
    let held = Holder::start(&sandbox, "qemu-io -f qcow2 held");
    for line in REFUSED {
        let outcome = program_in(sandbox.path(), ours_path(), &words(line));
        assert_eq!(outcome.code, 1, "`{line}`: {outcome}");
        assert!(all() == before, "`{line}` has changed a file");
        assert!(!sandbox.file("new").exists(), "`{line}` has left a target");
    }
    drop(held);
}

/// A disk above one that others use, too, can grow: only its own file changes.
#[test]
fn an_overlay_grows_while_its_backing_file_is_used() {
    let sandbox = Sandbox::new();
    sandbox.script(Tool::Reference, FILES).expect_ok("the files");
    let held = Holder::start(&sandbox, "qemu-io -r -f qcow2 disk");
    let outcome = program_in(sandbox.path(), ours_path(), &words("resize -q over 3M"));
    drop(held);
    outcome.expect_ok("resize");
}
