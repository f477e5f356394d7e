//! Images that another program holds open: exit codes and messages of each command against each kind of holder, and the
//! other way round, what other programs are told while a conversion holds its source and its target.

mod common;

use common::files::hash_file;
use common::holder::Holder;
use common::oracle;
use common::run::{BOTH, Outcome, Tool, program_in};
use common::{Report, Sandbox, for_all, require_wording};

const HOLDERS: &[&str] = &[
    "qemu-io -f qcow2 disk",
    "qemu-io -r -f qcow2 disk",
    "qemu-io -r -U -f qcow2 disk",
    "qemu-nbd -k SOCKET -f qcow2 disk",
    "qemu-nbd -r -k SOCKET -f qcow2 disk",
    "qemu-nbd -e 3 -k SOCKET -f qcow2 disk",
    "qemu-io -f raw disk",
    "qemu-io -r -f raw disk",
    "qemu-io -r -U -f raw disk",
    "qemu-io -f raw base",
    "qemu-io -r -f raw base",
    "qemu-nbd -k SOCKET -f raw base",
    "qemu-nbd -r -k SOCKET -f raw base",
    "qemu-io -f qcow2 over",
    "qemu-io -r -f qcow2 over",
];

/// What is tried while the image is held, in this order.
const LINES: &[&str] = &[
    "info disk",
    "info -U disk",
    "info -f raw disk",
    "info -f raw base",
    "info -U base",
    "info --backing-chain over",
    "info -U --backing-chain over",
    "info --image-opts driver=qcow2,file.driver=file,file.filename=disk,force-share=on",
    "info --image-opts driver=qcow2,file.driver=file,file.filename=disk,file.locking=off",
    "snapshot -l disk",
    "snapshot -l -U disk",
    "snapshot disk",
    "snapshot -l --image-opts driver=raw,file.filename=base",
    "snapshot -l base",
    "snapshot -l -U base",
    "snapshot -c new disk",
    "snapshot -q -c quiet disk",
    "snapshot -U -c new disk",
    "snapshot -a old disk",
    "snapshot -d old disk",
    "snapshot -c new over",
    "snapshot -l over",
    "snapshot -l -U over",
    "convert -O raw disk out1",
    "convert -U -O raw disk out2",
    "convert -O qcow2 disk out3",
    "convert -l old -O qcow2 disk out4",
    "convert -f raw -O qcow2 base out5",
    "convert -U -f raw -O qcow2 base out6",
    "convert -O raw over out7",
    "convert -U -O raw over out8",
    "convert -f raw -O qcow2 small disk",
    "convert -U -f raw -O qcow2 small disk",
    "convert -n -f raw -O qcow2 small disk",
    "convert -f raw -O raw small base",
    "convert -n -f raw -O raw small base",
    "convert -O qcow2 -B disk -F qcow2 over out9",
    "convert -f raw -O qcow2 base small out10",
    "create -f qcow2 -b disk -F qcow2 out11",
    "create -f raw out12 1M",
    "create -f raw base 2M",
    "create -f qcow2 disk 2M",
];

fn scene() -> Sandbox {
    let sandbox = Sandbox::new();
    let script = "qemu-img create -q -f raw base 2M && qemu-img create -q -f raw small 1M
        qemu-img create -q -f qcow2 disk 2M && qemu-io -f qcow2 -c 'write -P 1 0 300k' disk >/dev/null
        qemu-img snapshot -c old disk && qemu-io -f qcow2 -c 'write -P 2 100k 300k' disk >/dev/null
        qemu-io -f raw -c 'write -P 3 0 1M' base >/dev/null && qemu-io -f raw -c 'write -P 4 0 1M' small >/dev/null
        qemu-img create -q -f qcow2 -b disk -F qcow2 over";
    sandbox.script(Tool::Reference, script).expect_ok("making the images");
    sandbox
}

/// Disk sizes depend on what the file system has already put in its place.
fn settled(text: &str) -> String {
    let lines = oracle::without_dates(text);
    lines.lines().filter(|line| !line.trim_start().starts_with("disk size:")).collect::<Vec<_>>().join("\n")
}

/// Everything that one tool says while `holder` is there.
fn against(tool: Tool, holder: &str) -> (Vec<Outcome>, Sandbox) {
    let sandbox = scene();
    let held = Holder::start(&sandbox, holder);
    let outcomes = lines(holder).map(|line| sandbox.run(tool, line)).collect();
    drop(held);
    (outcomes, sandbox)
}

/// A holder that lets others write, so that a conversion notices only late that it cannot have the file for itself.
const TOLERANT: &str = "qemu-io -f raw disk";
/// What the reference then refuses, too, but not before it has deleted the file.
const DELETES: [&str; 3] =
    ["convert -f raw -O qcow2 small disk", "convert -U -f raw -O qcow2 small disk", "create -f qcow2 disk 2M"];

fn lines(holder: &str) -> impl Iterator<Item = &'static str> {
    LINES.iter().copied().filter(move |line| holder != TOLERANT || !DELETES.contains(line))
}

#[test]
fn a_held_target_is_refused_before_it_is_touched() {
    require_wording();
    for line in DELETES {
        let [ours, reference] = BOTH.map(|tool| {
            let sandbox = scene();
            let before = hash_file(&sandbox.file("disk"));
            let _held = Holder::start(&sandbox, TOLERANT);
            let outcome = sandbox.run(tool, line);
            if tool == Tool::Ours {
                assert_eq!(hash_file(&sandbox.file("disk")), before, "{line} has changed an image in use");
            }
            outcome
        });
        assert_eq!(ours.code, 1);
        assert_eq!(oracle::differences(line, &ours, &reference, &settled), [""; 0]);
    }
}

#[test]
fn a_held_image_is_refused_alike() {
    require_wording();
    for_all("locks", HOLDERS, |holder, report| {
        let [(ours, left), (reference, right)] = BOTH.map(|tool| against(tool, holder));
        for ((line, ours), reference) in lines(holder).zip(&ours).zip(&reference) {
            report.note(&format!("{holder} :: {line}"), oracle::differences(line, ours, reference, &settled));
        }
        // What was refused has changed nothing, what was allowed has done the same.
        let mut found = Vec::new();
        for (name, format) in [("disk", "qcow2"), ("base", "raw")] {
            let line = format!("compare -f {format} -F {format} {name} {}", right.file(name).display());
            let same = left.reference(&line);
            if !same.ok() {
                found.push(same.to_string());
            }
        }
        report.note(&format!("{holder}: content"), found);
    });
}

/// Programs that come while `convert -r` is still copying `disk` to `out`; by the exit code and the lock that is named.
const COMERS: &[(&str, &[&str])] = &[
    ("qemu-img", &["info", "disk"]),
    ("qemu-img", &["info", "out"]),
    ("qemu-img", &["info", "-U", "out"]),
    ("qemu-img", &["snapshot", "-c", "x", "disk"]),
    ("qemu-img", &["snapshot", "-c", "x", "out"]),
    ("qemu-io", &["-f", "qcow2", "-c", "read 0 512", "disk"]),
    ("qemu-io", &["-r", "-f", "qcow2", "-c", "read 0 512", "disk"]),
    ("qemu-io", &["-f", "qcow2", "-c", "read 0 512", "out"]),
    ("qemu-io", &["-r", "-f", "qcow2", "-c", "read 0 512", "out"]),
    ("qemu-io", &["-r", "-U", "-f", "qcow2", "-c", "read 0 512", "out"]),
];

#[test]
fn a_conversion_holds_its_images_alike() {
    require_wording();
    let [ours, reference] = BOTH.map(|tool| {
        let sandbox = scene();
        sandbox.reference("create -q -f qcow2 out 2M").expect_ok("the target");
        let line = "convert -n -r 64k -f qcow2 -O qcow2 disk out";
        let mut held = Holder::start_tool(&sandbox, tool, line, &["disk", "out"]);
        let outcomes: Vec<_> = COMERS.iter().map(|(program, args)| program_in(sandbox.path(), program, args)).collect();
        assert!(held.is_there(), "the conversion has already ended");
        outcomes
    });
    let mut report = Report::new("locks of a conversion");
    for (((program, args), ours), reference) in COMERS.iter().zip(&ours).zip(&reference) {
        let same = (ours.code, &ours.stderr) == (reference.code, &reference.stderr);
        let text = format!("while ours converts: {ours}\nwhile the reference does: {reference}");
        report.note(&format!("{program} {args:?}"), if same { Vec::new() } else { vec![text] });
    }
    report.finish();
}
