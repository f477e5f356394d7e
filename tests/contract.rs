//! Rules that every call keeps, whatever it does: small footprint, silence, plain environments, closed and full
//! descriptors, file modes, JSON layout. Each script runs with either tool; outputs are compared.

mod common;

use common::oracle::{Twins, differences, without_dates};
use common::run::{Outcome, Tool};
use common::{Report, Sandbox, for_all, require_wording};

/// Images that the scripts below use.
const SETUP: &str = r#"
qemu-img create -q -f qcow2 base.qcow2 8M
qemu-io -f qcow2 -c 'write -P 7 1M 300k' base.qcow2 >/dev/null
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 disk 8M
qemu-io -f qcow2 -c 'write -P 9 2M 300k' disk >/dev/null
qemu-img snapshot -c one disk
qemu-img create -q -f qcow2 -o cluster_size=2M,extended_l2=on large 64T
qemu-img snapshot -c one large
qemu-img create -q -f qcow2 -o cluster_size=512,preallocation=metadata small 24M
qemu-img snapshot -c one small
qemu-img create -q -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 --object secret,id=s,data=x luks 8M
cp base.qcow2 c0
for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  qemu-img create -q -f qcow2 -u -b c$((n-1)) -F qcow2 -o cluster_size=2M c$n 8M
done
mkdir locked; cp disk locked/disk
"#;

/// Until the left side of a pipe has said how it ended: a shell need not wait for it.
const WAIT: &str = "for _ in $(seq 200); do [ -s code ] && break; sleep .05; done";

/// Scripts whose output and exit code must be the reference's. `$?` is printed to where it can be seen.
const SAME: &[(&str, &str)] = &[
    // As glance, Incus and nova call it; and twice as tight.
    ("info in 1 GiB", "prlimit --cpu=2 --as=1073741824 qemu-img info --output=json disk"),
    ("info in 200 MB", "prlimit --cpu=2 --as=200000000 qemu-img info --output=json disk"),
    ("info of a large image", "prlimit --cpu=2 --as=1073741824 qemu-img info large"),
    ("info of many tables", "prlimit --cpu=2 --as=1073741824 qemu-img info small"),
    ("info of a locked image", "prlimit --cpu=2 --as=200000000 qemu-img info luks | grep -v -e uuid -e iters"),
    ("info of a chain", "prlimit --cpu=2 --as=4294967296 qemu-img info --backing-chain --output=json c20"),
    ("snapshot -l in 1 GiB", "prlimit --cpu=2 --as=1073741824 qemu-img snapshot -l disk"),
    ("snapshot -l of a large image", "prlimit --cpu=2 --as=1073741824 qemu-img snapshot -l large"),
    ("snapshot -l of many tables", "prlimit --cpu=2 --as=200000000 qemu-img snapshot -l small"),
    // Many images at once are many open files, but no more than one for each.
    ("a chain and few descriptors", "prlimit --nofile=40 qemu-img info c20"),
    ("info, nothing in the environment", "env -i \"$(command -v qemu-img)\" info disk"),
    ("snapshot, nothing in the environment", "env -i \"$(command -v qemu-img)\" snapshot -l disk | cut -c1-40"),
    ("a terminal that is none", "TERM=nothing HOME=/nowhere LC_ALL=xx_XX.nothing qemu-img info disk"),
    ("standard input closed", "qemu-img info disk <&-; echo $?"),
    ("standard output closed", "qemu-img info disk >&-; echo $?"),
    ("standard error closed", "qemu-img info nowhere 2>&-; echo $?"),
    ("standard error full", "qemu-img info nowhere 2>/dev/full; echo $?"),
    (
        "all closed, converting",
        "qemu-img convert -p -O qcow2 disk out <&- >&- 2>&-; echo $?; qemu-img info --output=json out >/dev/null; echo $?",
    ),
    ("all closed, an error", "qemu-img convert -O qcow2 nowhere out <&- >&- 2>&-; echo $?; ls out"),
    (
        "all closed, a snapshot",
        "qemu-img snapshot -c two disk <&- >&- 2>&-; echo $?; qemu-img snapshot -l disk | cut -c1-20",
    ),
    ("a closed pipe, info", "{ sleep .2; qemu-img info disk; echo $? >code; } | true; WAIT; cat code"),
    ("a closed pipe, help", "{ sleep .2; qemu-img --help; echo $? >code; } | true; WAIT; cat code"),
    (
        "a closed pipe, progress",
        "{ sleep .2; qemu-img convert -p -O raw disk out; echo $? >code; } | true; WAIT; cat code; stat -c %s out",
    ),
    ("full, progress", "qemu-img convert -p -O raw disk out >/dev/full; echo $?; stat -c %s out"),
    (
        "umask 000",
        "umask 000; qemu-img convert -O qcow2 disk out; qemu-img convert -O raw disk raw; stat -c %a out raw",
    ),
    (
        "umask 022",
        "umask 022; qemu-img convert -O qcow2 disk out; qemu-img convert -O raw disk raw; stat -c %a out raw",
    ),
    ("umask 077", "umask 077; qemu-img convert -O qcow2 -o data_file=d disk out; stat -c %a out d"),
    ("umask 777", "umask 777; qemu-img convert -O raw disk out; echo $?; stat -c %a out"),
    ("a mode that is there stays", "touch out; chmod 606 out; qemu-img convert -O qcow2 disk out; stat -c %a out"),
    ("a snapshot keeps mode and time order", "chmod 604 disk; qemu-img snapshot -c two disk; stat -c %a disk"),
    (
        "silence, converting",
        "for o in '-O raw' '-O qcow2' '-O qcow2 -c' '-O qcow2 -B base.qcow2 -F qcow2'; do qemu-img convert $o disk out; done 2>&1",
    ),
    (
        "silence, snapshots",
        "{ qemu-img snapshot -c two disk; qemu-img snapshot -a one disk; qemu-img snapshot -d two disk; } 2>&1",
    ),
    ("JSON as awk reads it", "qemu-img info --output=json disk | awk '/^\\s{0,4}\"virtual-size\"/ { print $2 }'"),
    (
        "human as awk reads it",
        "qemu-img info disk | grep '^file format:' | awk '{print $3}'; qemu-img info disk | grep 'backing file:' | cut -d: -f2",
    ),
    (
        "indentation",
        "qemu-img info --output=json disk | sed 's/[^ ].*//' | sort | uniq -c; qemu-img info --backing-chain --output=json c20 | sed 's/[^ ].*//' | sort | uniq -c",
    ),
    (
        "getopt",
        "qemu-img info disk --outp json | head -2; qemu-img info -Ufqcow2 disk | head -1; qemu-img info -- disk -f 2>&1; qemu-img snapshot disk -l | head -1",
    ),
    (
        "the last one wins",
        "qemu-img convert -t none -t writeback -T none -T none -O raw -O qcow2 -f raw -f qcow2 disk out; qemu-img info -f raw -f qcow2 out | head -2",
    ),
    (
        "-o adds up",
        "qemu-img convert -O qcow2 -o cluster_size=4k -o lazy_refcounts disk out; qemu-img info out | grep -e cluster_size -e lazy",
    ),
    ("options between operands", "qemu-img convert disk -O qcow2 -o compat=0.10 out; qemu-img info out | grep compat"),
    ("an unknown command", "qemu-img nothing; echo $?"),
    (
        "a folder without permission to write",
        "chmod 555 locked; qemu-img info locked/disk | head -1; qemu-img snapshot -l locked/disk | head -1; chmod 755 locked",
    ),
];

fn run(twins: &Twins, script: &str) -> [Outcome; 2] {
    twins.each().map(|(tool, sandbox)| sandbox.script(tool, script))
}

/// The images, made once.
fn images() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.script(Tool::Reference, SETUP).expect_ok("the images");
    sandbox
}

fn twins(images: &Sandbox) -> Twins {
    Twins { ours: Sandbox::copy_of(images.path()), reference: Sandbox::copy_of(images.path()) }
}

/// What two runs of the same tool may differ in.
fn normal(text: &str) -> String {
    let lines = text.lines().filter(|line| {
        let line = line.trim_start();
        !["\"date-", "\"actual-size\"", "disk size:"].iter().any(|start| line.starts_with(start))
    });
    without_dates(&lines.collect::<Vec<_>>().join("\n"))
}

#[test]
fn every_rule_is_kept_as_the_reference_keeps_it() {
    require_wording();
    let images = images();
    for_all("contract", SAME, |(name, script), report| {
        let script = &script.replace("WAIT", WAIT);
        let [ours, reference] = run(&twins(&images), script);
        report.note(name, differences(script, &ours, &reference, &normal));
    });
}

/// Rules of our own: the reference loses output silently, and newer help texts fail the clients' probes.
const OURS: &[(&str, &str)] = &[
    ("info, full", "! qemu-img info disk >/dev/full 2>err && grep -q 'No space left on device' err"),
    ("snapshot -l, full", "! qemu-img snapshot -l disk >/dev/full 2>err && grep -q 'No space left on device' err"),
    ("help, full", "! qemu-img --help >/dev/full 2>err && grep -q 'No space left on device' err"),
    ("libguestfs", r"qemu-img --help | grep -q '\binfo\b.*-U\b'"),
    ("CloudStack", "qemu-img --help | grep -q -e --target-is-zero"),
    (
        "version",
        "[ \"$(qemu-img --version | head -1 | grep -oE '^qemu-img version [0-9.]*')\" = 'qemu-img version 10.0.2' ]",
    ),
    // Where the reference's caches are too large for the limit.
    ("a large image in 150 MB", "prlimit --cpu=1 --as=150000000 qemu-img info large >/dev/null"),
    ("a snapshot list in 150 MB", "prlimit --cpu=1 --as=150000000 qemu-img snapshot -l large >/dev/null"),
    ("a chain in 200 MB", "prlimit --cpu=2 --as=200000000 qemu-img info --backing-chain c20 >/dev/null"),
    (
        "converting in 1 GiB",
        "prlimit --as=1073741824 qemu-img convert -O qcow2 disk out && qemu-img convert -c -O qcow2 disk out",
    ),
];

#[test]
fn rules_of_our_own() {
    let mut report = Report::new("our own rules");
    let images = images();
    for (name, script) in OURS {
        let done = images.script(Tool::Ours, script);
        report.note(name, if done.ok() { Vec::new() } else { vec![format!("{script}: {done}")] });
    }
    report.finish();
}
