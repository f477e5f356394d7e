//! `dd`: ranges, block sizes, formats, and right and wrong operands. The new image must be the same as the reference's.

mod common;

use common::oracle::{self, Target, Twins};
use common::{for_all, require_wording};

use Target::{Qcow2, Raw};

/// Lines, and what `out` is where they make one. `disk` is a qcow2 image of 1 MiB, `odd` a file of 1000 bytes.
const LINES: &[(&str, Target)] = &[
    ("dd", Raw),
    ("dd if=disk", Raw),
    ("dd of=out", Raw),
    ("dd if=disk of=out", Raw),
    ("dd of=out if=disk bs=64k", Raw),
    ("dd if=disk of=out -O qcow2", Qcow2),
    ("dd if=disk of=out -O qcow2 bs=64k count=3", Qcow2),
    ("dd if=disk of=out -O qcow2 bs=64k skip=3", Qcow2),
    ("dd if=disk of=out -O qcow2 bs=64k skip=3 count=7", Qcow2),
    ("dd if=disk of=out -O qcow2 bs=1M count=0", Qcow2),
    ("dd if=disk of=out bs=1 count=0", Raw),
    ("dd if=disk of=out bs=100 count=3", Raw),
    ("dd if=disk of=out bs=700 count=1 -O qcow2", Qcow2),
    ("dd if=disk of=out bs=700 skip=1", Raw),
    ("dd if=disk of=out bs=700 skip=1 count=2", Raw),
    ("dd if=disk of=out bs=700 skip=2 count=2", Raw),
    ("dd if=disk of=out bs=700 skip=3 count=2", Raw),
    ("dd if=disk of=out bs=1k skip=3000", Raw),
    ("dd if=disk of=out bs=1k skip=3000 count=3", Raw),
    ("dd if=disk of=out bs=1k skip=2 count=3", Raw),
    ("dd if=disk of=out skip=2048", Raw),
    ("dd if=disk of=out skip=2049", Raw),
    ("dd if=disk of=out skip=9223372036854775807 bs=1M", Raw),
    ("dd if=disk of=out skip=9223372036854775807 count=1 bs=1M", Raw),
    ("dd if=disk of=out count=9223372036854775807 bs=1M", Raw),
    ("dd if=disk of=out count=17592186044416 bs=1M", Raw),
    ("dd if=disk of=out bs=1.5k", Raw),
    ("dd if=disk of=out bs=1.5k count=5 skip=1", Raw),
    ("dd if=disk of=out bs=0", Raw),
    ("dd if=disk of=out bs=-1", Raw),
    ("dd if=disk of=out bs=x", Raw),
    ("dd if=disk of=out bs=", Raw),
    ("dd if=disk of=out bs=512x", Raw),
    ("dd if=disk of=out bs=2G", Raw),
    ("dd if=disk of=out bs=4G", Raw),
    ("dd if=disk of=out bs=2147483647", Raw),
    ("dd if=disk of=out count=x", Raw),
    ("dd if=disk of=out count=1k", Raw),
    ("dd if=disk of=out count=", Raw),
    ("dd if=disk of=out count=-1", Raw),
    ("dd if=disk of=out count=99999999999999999999", Raw),
    ("dd if=disk of=out skip=x", Raw),
    ("dd if=disk of=out skip=-1", Raw),
    ("dd if=disk of=out skip=0x10 count=010", Raw),
    ("dd if=disk of=out skip=8 count=0x20", Raw),
    ("dd if=disk of=out conv=notrunc", Raw),
    ("dd if=disk of=out seek=1", Raw),
    ("dd if=disk of=out status=none", Raw),
    ("dd if=disk of=out word", Raw),
    ("dd if=disk of=out =word", Raw),
    ("dd if=disk of=out bs", Raw),
    ("dd if disk of out", Raw),
    ("dd bs=x foo=1", Raw),
    ("dd foo=1 bs=x", Raw),
    ("dd if= of=out", Raw),
    ("dd if=disk of=", Raw),
    ("dd if=gone of=out", Raw),
    ("dd if=gone of=out -O nothing", Raw),
    ("dd if=disk of=gone/out", Raw),
    ("dd if=disk of=out -O nothing", Raw),
    ("dd if=disk of=out -O file", Raw),
    ("dd if=disk of=out -O host_device", Raw),
    ("dd if=disk of=out -f nothing", Raw),
    ("dd if=disk of=out -f raw", Raw),
    ("dd if=odd of=out -f raw", Raw),
    ("dd if=odd of=out", Raw),
    ("dd if=odd of=out -f raw bs=700", Raw),
    ("dd if=odd of=out -f raw bs=700 count=1", Raw),
    ("dd if=odd of=out -f raw bs=700 skip=1", Raw),
    ("dd if=odd of=out -f raw bs=700 skip=1 -O qcow2", Qcow2),
    ("dd if=odd of=out -f raw bs=1 skip=999 count=1000", Raw),
    ("dd if=odd of=out -f raw count=1 count=2", Raw),
    ("dd if=disk if=odd of=out -f raw", Raw),
    ("dd if=over of=out bs=64k", Raw),
    ("dd if=over of=out -O qcow2 bs=3k skip=11", Qcow2),
    ("dd if=over of=disk", Raw),
    ("dd if=disk of=disk", Raw),
    ("dd if=disk of=./disk", Raw),
    ("dd -f raw --image-opts if=driver=raw,file.filename=odd of=out", Raw),
    ("dd --image-opts if=driver=raw,file.filename=odd of=out", Raw),
    ("dd --image-opts if=driver=raw,offset=512,file.filename=odd of=out", Raw),
    ("dd if=file:disk of=file:out", Raw),
    ("dd 'if=json:{\"file.filename\":\"disk\",\"driver\":\"qcow2\"}' of=out", Raw),
    ("dd if=disk of=json:{}", Raw),
    ("dd if=disk of=nothing:out", Raw),
    ("dd if=disk of=existing", Raw),
    ("dd if=disk of=sub", Raw),
    ("dd -p if=disk of=out", Raw),
    ("dd -n if=disk of=out", Raw),
    ("dd -q if=disk of=out", Raw),
    ("dd -U if=disk of=out", Raw),
    ("dd if=disk of=out --force-share --format qcow2 --output-format raw", Raw),
    ("dd if=disk of=out --output raw", Raw),
    ("dd --o=raw if=disk of=out", Raw),
    ("dd --object secret,id=s,data=x if=disk of=out", Raw),
    (
        "dd --object secret,id=s,data=x --image-opts if=driver=qcow2,encrypt.key-secret=s,file.filename=locked of=out bs=1k skip=9",
        Raw,
    ),
    ("dd if=locked of=out", Raw),
    ("dd -- if=disk of=out", Raw),
    ("dd if=broken of=out", Raw),
];

const SCENE: &str = r#"
Q=qemu-img
$Q create -q -f qcow2 disk 1M
qemu-io -f qcow2 -c 'write -P 5 0 300k' -c 'write -P 0 300k 100k' -c 'write -P 6 900k 3k' disk >/dev/null
head -c 1000 /usr/bin/env > odd
$Q create -q -f qcow2 -b disk -F qcow2 over 1500k
qemu-io -f qcow2 -c 'write -P 7 20k 5k' -c 'write -z 128k 64k' over >/dev/null
$Q create -q -f qcow2 -u -b nowhere -F qcow2 broken 1M
$Q create -q --object secret,id=s,data=x -f qcow2 -o encryption=on,encrypt.key-secret=s locked 1M
$Q create -q -f raw existing 2M
mkdir sub
"#;

#[test]
fn command_lines() {
    require_wording();
    for_all("dd", LINES, |(line, target), report| {
        let twins = Twins::empty();
        twins.ours.script(common::run::Tool::Reference, &format!("set -e\n{SCENE}")).expect_ok("the scene");
        common::files::copy_tree(twins.ours.path(), twins.reference.path());
        let (outcome, mut differences) = twins.run(line);
        differences.extend(twins.same_names(!outcome.ok()));
        for name in ["out", "existing", "disk"] {
            if outcome.ok() {
                differences.extend(oracle::same_target(&twins, name, if name == "out" { *target } else { Raw }));
            }
        }
        report.note(line, differences);
    });
}
