//! Conversions of images that cannot be read in places, with `--salvage` and without: exit code, messages and content are
//! the reference's.
//!
//! Left out of the comparison: how often a warning about block status is repeated (the reference asks twice), in which
//! order several threads warn, and with `-c`, where the reference tries fewer sectors, the warnings.

mod common;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::run::{Outcome, Tool};
use common::{Sandbox, for_all, require_wording};

const CLUSTER: u64 = 65536;

/// How an image of 1 MiB is damaged.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// The compressed bytes of a cluster are no compressed bytes.
    Compressed,
    /// A cluster lies where no cluster can be.
    Unaligned,
    /// So does an L2 table.
    Table,
    /// A cluster lies far behind the end of the file: it reads as zeros.
    Beyond,
    /// The file has been cut off.
    CutOff,
    /// The backing file has been cut off.
    ShortBacking,
}

const DAMAGES: [Damage; 6] =
    [Damage::Compressed, Damage::Unaligned, Damage::Table, Damage::Beyond, Damage::CutOff, Damage::ShortBacking];

const OPTIONS: &[&str] = &[
    "-O raw",
    "--salvage -O raw",
    "--salvage -q -O raw",
    "--salvage -m 8 -W -O raw",
    "--salvage -S 0 -O raw",
    "--salvage -n -O raw",
    "--salvage -O qcow2",
    "--salvage -m 1 -c -O qcow2",
    "--salvage -r 1G -O qcow2 -o cluster_size=4k",
    "--salvage -C -O raw",
];

/// Number at an offset of a file, as qcow2 has them.
fn read_u64(path: &Path, at: u64) -> u64 {
    let mut bytes = [0; 8];
    OpenOptions::new().read(true).open(path).expect("image").read_exact_at(&mut bytes, at).expect("a number");
    u64::from_be_bytes(bytes)
}

fn poke(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).expect("image").write_all_at(bytes, at).expect("damage");
}

impl Damage {
    /// Makes the image `disk`.
    fn make(self, sandbox: &Sandbox) {
        let how = match self {
            Damage::Compressed => "qemu-img convert -c -f raw -O qcow2 disk.raw disk",
            Damage::ShortBacking => "qemu-img create -q -f qcow2 -b disk.raw -F raw disk; truncate -s 300k disk.raw",
            _ => "qemu-img convert -f raw -O qcow2 disk.raw disk",
        };
        let script = format!(
            "set -e; truncate -s 1M disk.raw; \
             qemu-io -f raw -c 'write -P 1 0 256k' -c 'write -P 2 512k 128k' disk.raw >/dev/null; {how}"
        );
        sandbox.script(Tool::Reference, &script).expect_ok("making the image");
        let disk = sandbox.file("disk");
        let offset = 0x00ff_ffff_ffff_fe00;
        let l1 = read_u64(&disk, 40);
        let l2 = if matches!(self, Damage::ShortBacking) { 0 } else { read_u64(&disk, l1) & offset };
        match self {
            Damage::Compressed => {
                // For clusters of 64 KiB, the offset has 54 bits.
                let host = read_u64(&disk, l2 + 8) & ((1 << 54) - 1);
                poke(&disk, host, &[0xff; 5]);
            }
            Damage::Unaligned => poke(&disk, l2 + 8, &(1 << 63 | (5 * CLUSTER + 512)).to_be_bytes()),
            Damage::Table => poke(&disk, l1, &(1 << 63 | (l2 + 512)).to_be_bytes()),
            Damage::Beyond => poke(&disk, l2 + 8, &(1u64 << 63 | 1 << 30).to_be_bytes()),
            Damage::CutOff => {
                OpenOptions::new().write(true).open(&disk).expect("image").set_len(400 << 10).expect("cut off");
            }
            Damage::ShortBacking => {}
        }
    }

    /// Whether reading really fails.
    fn fails(self) -> bool {
        matches!(self, Damage::Compressed | Damage::Unaligned | Damage::Table)
    }
}

/// One run by one tool: what it said, and the content of the target.
fn run(sandbox: &Sandbox, tool: Tool, options: &str) -> (Outcome, String) {
    sandbox.script(tool, "rm -f out; head -c 1M /dev/zero | tr '\\0' x > existing").expect_ok("cleaning up");
    if options.contains("-n") {
        std::fs::rename(sandbox.file("existing"), sandbox.file("out")).expect("a target");
    }
    let outcome = sandbox.run(tool, &format!("convert -f qcow2 {options} disk out"));
    let content = if outcome.ok() {
        let format = if options.contains("qcow2") { "qcow2" } else { "raw" };
        let read = format!("qemu-img convert -f {format} -O raw out content && md5sum < content");
        sandbox.script(Tool::Reference, &read).expect_ok("reading the target").stdout
    } else {
        String::new()
    };
    (outcome, content)
}

#[test]
fn salvaging_is_the_same() {
    require_wording();
    let cases: Vec<_> = DAMAGES.iter().flat_map(|damage| OPTIONS.iter().map(move |line| (*damage, *line))).collect();
    for_all("salvage", &cases, |(damage, options), report| {
        let sandbox = Sandbox::new();
        damage.make(&sandbox);
        let (reference, expected) = run(&sandbox, Tool::Reference, options);
        let (ours, content) = run(&sandbox, Tool::Ours, options);
        let mut differences = Vec::new();
        let lines = |outcome: &Outcome| -> BTreeSet<String> {
            let all = outcome.stderr.lines().map(ToOwned::to_owned);
            if options.contains("-c ") { all.filter(|line| !line.contains("warning")).collect() } else { all.collect() }
        };
        if lines(&ours) != lines(&reference) || ours.code != reference.code {
            differences.push(format!("ours: {ours}\nreference: {reference}"));
        }
        if content != expected {
            differences.push("the content differs".into());
        }
        let salvages = options.contains("--salvage");
        if damage.fails() && ours.ok() != (salvages && !options.contains("-C")) {
            differences.push(format!("unexpected: {ours}"));
        }
        let warned = ours.stderr.contains("warning: error while reading");
        if damage.fails() && ours.ok() && warned == options.contains("-q") {
            differences.push(format!("warnings, or none: {ours}"));
        }
        report.note(&format!("{damage:?}: {options}"), differences);
    });
}

/// Sectors around the unreadable ones are saved, the rest is zeros.
#[test]
fn what_can_be_read_is_saved() {
    let sandbox = Sandbox::new();
    Damage::Compressed.make(&sandbox);
    sandbox.run(Tool::Ours, "convert --salvage -f qcow2 -O raw disk out").expect_ok("salvaging");
    let (saved, whole) =
        (std::fs::read(sandbox.file("out")).unwrap(), std::fs::read(sandbox.file("disk.raw")).unwrap());
    let (start, end) = (CLUSTER as usize, 2 * CLUSTER as usize);
    assert_eq!(saved.len(), whole.len());
    assert!(saved[..start] == whole[..start] && saved[end..] == whole[end..], "what could be read was not saved");
    assert!(saved[start..end].iter().all(|byte| *byte == 0), "what could not be read is not zero");
}
