//! Every pair of somebody who holds an image and somebody who comes: holders are ours, the reference's tool, `qemu-io`
//! and `qemu-nbd`, on every file of a chain, for reading and for writing; comers are every command of ours and of the
//! reference's, and `qemu-io` and `qemu-nbd` again. Whoever holds and whoever comes: the outcome depends only on what the
//! two do, and the refusals are the reference's, word for word.
//!
//! `scripts/test` takes one pair in eight, `SHARE=1` all of them.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::holder::Holder;
use common::run::{BOTH, Outcome, Tool, program_in};
use common::{Sandbox, for_all, oracle, require_wording, taken};

/// Programs of the reference's that hold a file.
const PROGRAMS: &[&str] = &[
    "qemu-io -f qcow2 disk",
    "qemu-io -r -f qcow2 disk",
    "qemu-io -r -U -f qcow2 disk",
    "qemu-io -f qcow2 over",
    "qemu-io -r -f qcow2 over",
    "qemu-io -f qcow2 split",
    "qemu-io -r -f qcow2 split",
    "qemu-io -f raw data",
    "qemu-io -r -f raw data",
    "qemu-io -f raw base",
    "qemu-io -r -f raw base",
    "qemu-io -r -U -f raw base",
    "qemu-nbd -k SOCKET -f qcow2 disk",
    "qemu-nbd -r -k SOCKET -f qcow2 disk",
    "qemu-nbd -k SOCKET -f qcow2 split",
    "qemu-nbd -r -k SOCKET -f qcow2 over",
    "qemu-nbd -k SOCKET -f raw base",
    "qemu-nbd -r -k SOCKET -f raw data",
];

/// Commands of either tool that take long, and the files that they lock.
const COMMANDS: &[(&str, &[&str])] = &[
    ("bench -c 100000000 -d 1 -f qcow2 disk", &["disk"]),
    ("bench -c 100000000 -d 1 -U -f qcow2 disk", &["disk"]),
    ("bench -c 100000000 -d 1 -w -S 0 -f qcow2 disk", &["disk"]),
    ("bench -c 100000000 -d 1 -f qcow2 over", &["over", "disk"]),
    ("bench -c 100000000 -d 1 -w -S 0 -f qcow2 over", &["over", "disk"]),
    ("bench -c 100000000 -d 1 -f qcow2 split", &["split", "data"]),
    ("bench -c 100000000 -d 1 -w -S 0 -f qcow2 split", &["split", "data"]),
    ("bench -c 100000000 -d 1 -f raw base", &["base"]),
    ("bench -c 100000000 -d 1 -w -S 0 -f raw base", &["base"]),
    ("convert -n -r 16k -f qcow2 -O qcow2 split disk", &["split", "data", "disk"]),
    ("convert -n -r 16k -f qcow2 -O raw over base", &["over", "disk", "base"]),
    ("convert -n -r 16k -f raw -O qcow2 base split", &["base", "split", "data"]),
    ("convert -U -n -r 16k -f qcow2 -O raw over base", &["over", "disk", "base"]),
    ("commit -r 16k -f qcow2 over", &["over", "disk"]),
];

/// Who comes while the file is held, in this order. All that the commands leave behind is small.
const COMERS: &[&str] = &[
    "info disk",
    "info -U disk",
    "info -f raw base",
    "info --backing-chain over",
    "info -U --backing-chain over",
    "info split",
    "info -U split",
    "check disk",
    "check -U disk",
    "check -q -r leaks disk",
    "check -q -r all over",
    "resize -q over 3M",
    "check split",
    "check -U over",
    "map disk",
    "map -U disk",
    "map over",
    "map split",
    "map -f raw base",
    "map -U -f raw data",
    "measure -O qcow2 disk",
    "measure -U -O qcow2 over",
    "measure -O raw split",
    "measure -f raw -O qcow2 base",
    "compare disk over",
    "compare -U disk over",
    "compare -f raw -F qcow2 base split",
    "compare -U -f raw -F qcow2 base split",
    "snapshot -l disk",
    "snapshot -l -U disk",
    "snapshot -l over",
    "snapshot -c new disk",
    "snapshot -a old disk",
    "snapshot -d new disk",
    "snapshot -c new over",
    "snapshot -c new split",
    "commit -q -d -f qcow2 thin",
    "commit -q -d -f qcow2 large",
    "bitmap --add disk bits",
    "bitmap --disable disk bits",
    "bitmap --add -b disk -F qcow2 over bits",
    "bitmap --merge bits -b disk -F qcow2 over bits",
    "bitmap --remove disk bits",
    "amend -o lazy_refcounts=on disk",
    "amend -o compat=1.1 over",
    "resize -q disk 3M",
    "resize -q -f raw base +64k",
    "resize -q split 3M",
    "rebase -f qcow2 -F raw -b base over",
    "rebase -f qcow2 -U -F raw -b base over",
    "rebase -f qcow2 -u -F qcow2 -b disk over",
    "commit -q -f qcow2 over",
    "commit -q -d -f qcow2 over",
    "create -q -f qcow2 -b disk -F qcow2 new1",
    "create -q -f qcow2 -u -b disk -F qcow2 new2",
    "create -q -f raw base 2M",
    "create -q -f qcow2 -o data_file=data new3 2M",
    "convert -O raw disk out1",
    "convert -U -O raw disk out2",
    "convert -O qcow2 over out3",
    "convert -l old -O raw disk out4",
    "convert -f raw -O qcow2 base out5",
    "convert -O raw split out6",
    "convert -U -O raw split out7",
    "convert -n -f raw -O qcow2 small disk",
    "convert -n -f raw -O qcow2 small over",
    "convert -n -f raw -O qcow2 small split",
    "convert -n -f raw -O raw small base",
    "convert -f raw -O raw small base",
    "convert -O qcow2 -B disk -F qcow2 over out8",
    "dd -f qcow2 -O raw if=disk of=out9 bs=64k count=1",
    "dd -U -f qcow2 -O raw if=disk of=out10 bs=64k count=1",
    "dd -f raw -O raw if=small of=base bs=64k count=1",
    "dd -f qcow2 -O qcow2 if=split of=out11 bs=64k count=1",
    "bench -c 1 -f qcow2 disk",
    "bench -c 1 -U -f qcow2 disk",
    "bench -c 1 -w -f qcow2 over",
    "bench -c 1 -w -f raw base",
    "qemu-io -f qcow2 -c quit disk",
    "qemu-io -r -f qcow2 -c quit disk",
    "qemu-io -r -U -f qcow2 -c quit disk",
    "qemu-io -f qcow2 -c quit over",
    "qemu-io -r -f qcow2 -c quit split",
    "qemu-io -f raw -c quit data",
    "qemu-io -f raw -c quit base",
    "qemu-nbd -k SOCKET -f qcow2 disk",
    "qemu-nbd -r -k SOCKET -f raw base",
];

/// Chains `over`, `disk` and `thin`, `base` and `large`, `base`; `split` with its `data`. Data in pieces: the reference's limit of the rate counts
/// requests.
fn scene() -> Sandbox {
    let sandbox = Sandbox::new();
    let script = r#"
        fill() { # FORMAT FILE BYTE
            local at commands=()
            for ((at = 0; at < 2048; at += 128)); do commands+=(-c "write -P $3 ${at}k 64k"); done
            qemu-io -f "$1" "${commands[@]}" "$2" >/dev/null
        }
        qemu-img create -q -f raw base 2M && fill raw base 1
        qemu-img create -q -f raw small 1M && qemu-io -f raw -c 'write -P 2 0 1M' small >/dev/null
        qemu-img create -q -f qcow2 disk 2M && fill qcow2 disk 3 && qemu-img snapshot -c old disk
        qemu-img create -q -f qcow2 -o data_file=data split 2M && fill qcow2 split 4
        qemu-img create -q -f qcow2 -b disk -F qcow2 over && fill qcow2 over 5
        qemu-img create -q -f qcow2 -b base -F raw thin && qemu-img create -q -f qcow2 -b base -F raw large 3M"#;
    sandbox.script(Tool::Reference, script).expect_ok("making the images");
    sandbox
}

/// One comer: ours or the reference's tool, or another program of the reference's.
fn come(sandbox: &Sandbox, tool: Tool, line: &str) -> Outcome {
    match line.split_once(' ') {
        Some((program @ ("qemu-io" | "qemu-nbd"), args)) => {
            let sockets = tempfile::tempdir().expect("a folder for sockets");
            let args = args.replace("SOCKET", &sockets.path().join("s").to_string_lossy());
            // The server runs on where it is let in.
            let limit = if program == "qemu-nbd" { "0.4" } else { "30" };
            let args = format!("{limit} {program} {args}");
            program_in(sandbox.path(), "timeout", &args.split(' ').collect::<Vec<_>>())
        }
        _ => sandbox.run(tool, line),
    }
}

/// Whether and how a comer was refused. What it finds where it is let in while somebody writes is not about locks.
fn differences(line: &str, found: &Outcome, reference: &Outcome) -> Vec<String> {
    let refused = |outcome: &Outcome| outcome.stderr.contains("lock\n");
    if !refused(found) && !refused(reference) {
        return Vec::new();
    }
    oracle::differences(line, found, reference, &str::to_owned)
}

/// Pairs so far, for the figure in docs/testing.md.
static PAIRS: AtomicUsize = AtomicUsize::new(0);

/// What each of the comers is told while the holder is there.
fn outcomes(holder: &str, lines: &[&'static str], tool: Tool, start: impl Fn(&Sandbox) -> Holder) -> Vec<Outcome> {
    let sandbox = scene();
    let mut held = start(&sandbox);
    let outcomes = lines.iter().map(|line| come(&sandbox, tool, line)).collect();
    assert!(held.is_there(), "{holder} has ended");
    PAIRS.fetch_add(lines.len(), Ordering::Relaxed);
    outcomes
}

/// Lines for a holder.
fn lines(holder: &str) -> Vec<&'static str> {
    COMERS.iter().copied().filter(|line| taken(holder, line) && !destroys(holder, line)).collect()
}

/// What is not tried: the reference lets somebody make a raw file anew that another one writes to, and the holder then
/// ends; and where only a raw writer holds the data file of an image that is to be created, ours refuses and the
/// reference empties the file.
fn destroys(holder: &str, line: &str) -> bool {
    let (anew, data) = (
        ["create -q -f raw base", "convert -f raw -O raw small base", "dd -f raw -O raw if=small of=base"],
        "data_file=data",
    );
    (holder.ends_with("base") && anew.iter().any(|start| line.starts_with(start)))
        || (holder == "qemu-io -f raw data" && line.contains(data))
}

#[test]
fn programs_of_the_reference_hold_and_both_tools_come() {
    require_wording();
    for_all("programs that hold", PROGRAMS, |holder, report| {
        let lines = lines(holder);
        let [ours, reference] =
            BOTH.map(|tool| outcomes(holder, &lines, tool, |sandbox| Holder::start(sandbox, holder)));
        for ((line, ours), reference) in lines.iter().zip(&ours).zip(&reference) {
            report.note(&format!("{holder} :: {line}"), differences(line, ours, reference));
        }
    });
    println!("{} pairs so far", PAIRS.load(Ordering::Relaxed));
}

#[test]
fn both_tools_hold_and_both_tools_come() {
    require_wording();
    for_all("commands that hold", COMMANDS, |(holder, files), report| {
        let lines = lines(holder);
        let pair = |by: Tool, tool: Tool| {
            outcomes(holder, &lines, tool, |sandbox| Holder::start_tool(sandbox, by, holder, files))
        };
        // What the reference tells itself is what everybody must be told.
        let reference = pair(Tool::Reference, Tool::Reference);
        for (by, tool) in [(Tool::Ours, Tool::Ours), (Tool::Ours, Tool::Reference), (Tool::Reference, Tool::Ours)] {
            for ((line, found), reference) in lines.iter().zip(&pair(by, tool)).zip(&reference) {
                let differences = differences(line, found, reference);
                report.note(&format!("{} {holder} :: {} {line}", by.name(), tool.name()), differences);
            }
        }
    });
    println!("{} pairs so far", PAIRS.load(Ordering::Relaxed));
}
