//! `compare`: output, exit code and the exact place of the first difference.

mod common;

use common::oracle;
use common::run::{Tool, script_in};
use common::{Report, Sandbox, for_all, kinds, require_wording, taken};
use kinds::{Kind, SECRET};

fn check(kind: &Kind, report: &mut Report) {
    let folder = kind.folder();
    let named = kind.image_opts();
    let mut lines = Vec::new();
    for other in ["../base.raw", "../small.raw"] {
        let pair = format!("{named} driver=raw,file.filename={other}");
        lines.push(format!("compare {SECRET} --image-opts {pair}"));
        lines.push(format!("compare {SECRET} -s --image-opts {pair}"));
    }
    lines.push(format!("compare {SECRET} -U --image-opts driver=raw,file.filename=../small.raw {named}"));
    lines.push("compare -q -f raw -F raw disk ../base.raw".to_owned());
    lines.push("compare disk ../base.raw".to_owned());
    lines.retain(|line| taken(&kind.name, line));
    for (line, differences) in oracle::read_only(&folder, &lines) {
        report.note(&format!("{}: {line}", kind.name), differences);
    }
}

#[test]
fn every_kind_against_the_disk_it_was_made_of() {
    require_wording();
    let kinds: Vec<_> = kinds::all().into_iter().filter(|kind| kind.name != "huge-empty").collect();
    for_all("compare, every kind", &kinds, check);
}

/// Each line is run in a folder with `a` (raw, 10 MiB), `b` (the same as qcow2), `c` (`b`, longer), `d` (`c` with a byte in
/// the part that only it has), `e` (`a` with one byte changed), `f` (a qcow2 with a cluster that cannot be read).
const LINES: &[&str] = &[
    "compare",
    "compare a",
    "compare a b c",
    "compare -x a b",
    "compare -f",
    "compare a a",
    "compare a b",
    "compare b a",
    "compare a c",
    "compare c a",
    "compare -s a c",
    "compare -s a b",
    "compare -s a a",
    "compare -q a c",
    "compare -p a a",
    "compare -p -q a a",
    "compare a d",
    "compare d a",
    "compare -p d a",
    "compare a e",
    "compare e b",
    "compare -p a e",
    "compare a f",
    "compare f a",
    "compare f f",
    "compare nowhere a",
    "compare a nowhere",
    "compare -f qcow2 a b",
    "compare -F raw a b",
    "compare -f raw -F qcow2 a b",
    "compare --a-format raw --b-format=qcow2 a b",
    "compare --left-format raw --right-format=qcow2 a b",
    "compare --l raw --r qcow2 a b",
    "compare -f nothing a b",
    "compare -F nothing a b",
    "compare -T none a b",
    "compare -T nothing a b",
    "compare --cache=writeback -U a b",
    "compare --object nothing a b",
    "compare --object secret,id=x a b",
    "compare --image-opts driver=raw,file.filename=a driver=qcow2,file.filename=b",
    "compare --image-opts -f raw a b",
    "compare --image-opts a b",
    "compare --strict --progress --quiet a b",
    "compare empty.raw empty.qcow2",
    "compare empty.raw a",
    "compare -p empty.raw empty.qcow2",
    "compare odd a",
    "compare odd odd",
    "compare . a",
];

const SCENE: &str = r#"
Q=/usr/bin/qemu-img
head -c 3M /dev/zero | tr '\0' x > a; truncate -s 10M a; printf 'yz' | dd of=a bs=1 seek=6000000 conv=notrunc status=none
$Q convert -f raw -O qcow2 a b
cp b c; $Q resize -q c 12M; cp c d
qemu-io -f qcow2 -c 'write -P 1 11000000 512' d >/dev/null
cp a e; printf q | dd of=e bs=1 seek=2999999 conv=notrunc status=none
$Q convert -c -f raw -O qcow2 a f
printf '\377\377\377\377\377\377' | dd of=f bs=1 seek=327690 conv=notrunc status=none
$Q create -q empty.raw 0; $Q create -q -f qcow2 empty.qcow2 0
head -c 5000 a > odd
"#;

#[test]
fn sizes_places_and_wrong_use() {
    require_wording();
    let sandbox = Sandbox::new();
    script_in(sandbox.path(), Tool::Reference, SCENE).expect_ok("the scene");
    let lines: Vec<_> = LINES.iter().map(|line| (*line).to_owned()).collect();
    let mut report = Report::new("compare, lines");
    for (line, differences) in oracle::read_only(sandbox.path(), &lines) {
        report.note(&line, differences);
    }
    report.finish();
}
