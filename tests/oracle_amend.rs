//! `amend` of every image kind by sequences of options, and command lines right and wrong: messages, exit codes, content,
//! health and description. Key slots of LUKS in sequences of their own.

mod common;

use common::Sandbox;
use common::kinds::{self, Kind, Open};
use common::oracle::{Target, Twins, differences, same_target};
use common::run::{TIMEOUT, Tool};
use common::{Report, for_all, require_wording, taken};

/// Each is tried on a fresh copy of every kind, one option list after the other.
const SEQUENCES: &[&[&str]] = &[
    &["refcount_bits=64", "refcount_bits=1", "refcount_bits=8", "refcount_bits=16"],
    &["compat=0.10", "compat=1.1,lazy_refcounts=on", "lazy_refcounts=off"],
    &["size=12M", "size=1234432", "size=0", "size=3"],
    &["compat=v3,refcount_bits=32", "compat=v2", "compat=v2,refcount_bits=16", "compat=v3"],
    &["data_file_raw=off", "data_file_raw=on", "lazy_refcounts=on,size=10M"],
];

fn target(kind: &Kind) -> Target {
    match kind.open {
        Open::Raw => Target::Raw,
        Open::Locked => Target::Locked,
        Open::Qcow2 | Open::Broken => Target::Qcow2,
    }
}

fn check(kind: &Kind, report: &mut Report) {
    for sequence in SEQUENCES {
        let name = sequence.join("; ");
        let width = name.contains("refcount_bits");
        if is_slow(kind, &name) || !width && !taken(&kind.name, &name) {
            continue;
        }
        let twins = Twins::of(kind);
        let mut found = Vec::new();
        for options in *sequence {
            let line = format!("amend -o {options} {}", kind.operand());
            let ours = twins.ours.run(Tool::Ours, &line);
            let reference = twins.reference.run(Tool::Reference, &line);
            if reference.code == TIMEOUT || is_different(kind, options) {
                break;
            }
            found.extend(differences(&line, &ours, &reference, &|text| text.to_owned()));
            if kind.open != Open::Broken {
                found.extend(compare(&twins, kind));
            }
            if !found.is_empty() {
                break;
            }
        }
        report.note(&format!("{}: {name}", kind.name), found);
    }
}

/// Whether to leave out changes of the refcount width, for which the reference takes seconds (with small clusters,
/// minutes), and where it visits every cluster of a disk that shrinks. `SHARE=1` waits for it.
fn is_slow(kind: &Kind, sequence: &str) -> bool {
    const FEW: [&str; 2] = ["plain", "snapshots"];
    let widens = sequence.contains("refcount_bits") && !FEW.contains(&&*kind.name);
    let shrinks = sequence.contains("size=") && kind.name == "huge-empty";
    common::share_taken() > 1 && (widens || shrinks)
}

/// Where ours differs on purpose; see docs/compatibility.md.
fn is_different(kind: &Kind, options: &str) -> bool {
    let downgrades = options.contains("compat=0.10") || options.contains("compat=v2");
    let bitmaps = kind.name.contains("bitmap");
    // Zstandard clusters cannot be read any more, zeros become noise, bitmaps become leaks.
    downgrades && (kind.name.contains("zstd") || kind.open == Open::Locked || bitmaps)
}

fn compare(twins: &Twins, kind: &Kind) -> Vec<String> {
    let mut found = same_target(twins, "disk", target(kind));
    if kind.name == "bitmaps-stale" {
        // It has leaks from the start.
        found.retain(|text| !text.starts_with("check disk"));
    }
    found
}

#[test]
fn every_kind_is_amended_as_by_the_reference() {
    require_wording();
    for_all("amend", &kinds::all(), check);
}

/// Lines on one image: `disk` is qcow2, `plain` raw, `old` version 2.
const LINES: &[&str] = &[
    "amend",
    "amend disk",
    "amend -o compat=1.1",
    "amend -o compat=1.1 disk disk",
    "amend -o compat=1.1 missing",
    "amend -o ''  disk",
    "amend -o , disk",
    "amend -o help",
    "amend -o help disk",
    "amend -o '?' disk",
    "amend -o help -f qcow2",
    "amend -o help -f raw",
    "amend -o help -f nothing",
    "amend -o help plain",
    "amend -o size=1M,help disk",
    "amend -o size=2M -f raw plain",
    "amend -o size=2M plain",
    "amend -o compat=2.0 disk",
    "amend -o compat= disk",
    "amend -o cluster_size=4k disk",
    "amend -o cluster_size=help disk",
    "amend -o size=1M,cluster_size=4k disk",
    "amend -o cluster_size=4k,bogus=1 disk",
    "amend -o bogus=1,cluster_size=4k disk",
    "amend -o size=x,cluster_size=4k disk",
    "amend -o cluster_size=4k,encrypt.keyslot=1 disk",
    "amend -o cluster_size=64k disk",
    "amend -o preallocation=full disk",
    "amend -o encryption=on disk",
    "amend -o encrypt.format=luks disk",
    "amend -o compression_type=zstd disk",
    "amend -o extended_l2=on disk",
    "amend -o nothing=1 disk",
    "amend -o nocow=on disk",
    "amend -o refcount_bits=0 disk",
    "amend -o refcount_bits=3 disk",
    "amend -o refcount_bits=128 disk",
    "amend -o refcount_bits=x disk",
    "amend -o refcount_bits=-1 disk",
    "amend -o refcount_bits=1 disk",
    "amend -o refcount_bits=8 old",
    "amend -o refcount_bits=8,compat=0.10 disk",
    "amend -o refcount_bits=8,compat=1.1 old",
    "amend -o lazy_refcounts=on old",
    "amend -o lazy_refcounts=x disk",
    "amend -o lazy_refcounts disk",
    "amend -o lazy_refcounts=on,compat=0.10 disk",
    "amend -o size=1 disk",
    "amend -o size=x disk",
    "amend -o size=-1 disk",
    "amend -o size=20M -o size=30M disk",
    "amend -o size=20M old",
    "amend -o data_file=x disk",
    "amend -o data_file= disk",
    "amend -o data_file_raw=on disk",
    "amend -o data_file_raw=off disk",
    "amend -o backing_file=plain disk",
    "amend -o backing_file=plain,backing_fmt=raw disk",
    "amend -o backing_file= disk",
    "amend -o backing_fmt=raw disk",
    "amend -o backing_file=plain over",
    "amend -o backing_file=plain,backing_fmt=raw over",
    "amend -o backing_fmt=raw over",
    "amend -o backing_file= over",
    "amend -o compat=0.10 over",
    "amend -o data_file=other external",
    "amend -o data_file= external",
    "amend -o compat=0.10 external",
    "amend -o encrypt.state=active disk",
    "amend -o encrypt.new-secret=s disk",
    "amend -t none -o compat=1.1 disk",
    "amend -t nothing -o compat=1.1 disk",
    "amend -q -p -o compat=1.1 disk",
    "amend --force -o compat=1.1 disk",
    "amend -U -o compat=1.1 disk",
    "amend --o compat=1.1 disk",
    "amend --f raw disk",
    "amend -o compat=0.10 --image-opts driver=qcow2,file.filename=disk",
    "amend -o compat=0.10 --image-opts -f qcow2 driver=qcow2,file.filename=disk",
    "amend --object secret -o compat=1.1 disk",
    // A header that does not fit into its cluster.
    "amend -o data_file=dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd\
     dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd\
     dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd\
     dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd\
     dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd small",
    "amend -o id=x disk",
];

const SCENE: &str = "Q=qemu-img\n$Q create -q -f qcow2 disk 10M; qemu-io -c 'write -P 3 0 3M' disk >/dev/null\n\
    $Q snapshot -c one disk; $Q snapshot -c two disk; qemu-io -c 'write -P 4 1M 1M' -c 'write -z 2M 1M' disk >/dev/null\n\
    $Q create -q -f qcow2 -o compat=0.10 old 10M; $Q snapshot -c one old\n\
    $Q create -q plain 5M; qemu-io -f raw -c 'write -P 9 0 5M' plain >/dev/null\n\
    $Q create -q -f qcow2 -b plain -F raw over; qemu-io -c 'write -z 1M 1M' over >/dev/null\n\
    $Q snapshot -c one over; qemu-io -c 'write -z -u 3M 200k' over >/dev/null\n\
    $Q create -q -f qcow2 -o data_file=data external 5M; cp data other\n\
    $Q create -q -f qcow2 -o cluster_size=512,data_file=less small 1M";

#[test]
fn lines_right_and_wrong() {
    require_wording();
    for_all("lines", LINES, |line, report| {
        let twins = Twins::empty();
        for (_, folder) in twins.each() {
            folder.script(Tool::Reference, SCENE).expect_ok("the scene");
        }
        let (reference, mut found) = twins.run(line);
        // The data file has no name then, and the snapshots of `disk` lose their data in the reference.
        let incomparable = ["data_file= external", "compat=0.10 --image-opts"].iter().any(|part| line.contains(part));
        for name in ["disk", "old", "over", "external"].iter().filter(|_| reference.ok() && !incomparable) {
            found.extend(same_target(&twins, name, Target::Qcow2));
            for apply in ["one", "two"] {
                let outcome = format!("snapshot -a {apply} {name}");
                let codes = twins.each().map(|(_, folder)| folder.reference(&outcome).code);
                if codes == [0, 0] {
                    found.extend(same_target(&twins, name, Target::Qcow2));
                } else if codes[0] != codes[1] {
                    found.push(format!("`{outcome}`: {codes:?}"));
                }
            }
        }
        report.note(line, found);
    });
}

const SECRETS: &str = "--object secret,id=s,data=hunter2 --object secret,id=t,data=second --object \
    secret,id=u,data=third --object secret,id=w,data=wrong";

/// Key slots: one option list after the other, some with `--force`; `@x` opens with the secret x from there on.
const KEYS: &[&[&str]] = &[
    &[
        "encrypt.new-secret=t",
        "encrypt.state=active",
        "encrypt.state=passive",
        "encrypt.state=active,encrypt.new-secret=none",
        "encrypt.state=active,encrypt.new-secret=t,encrypt.old-secret=s",
        "encrypt.state=active,encrypt.new-secret=t,encrypt.iter-time=10",
        "@t",
        "encrypt.state=active,encrypt.new-secret=u,encrypt.keyslot=5,encrypt.iter-time=10",
        "encrypt.state=active,encrypt.new-secret=u,encrypt.keyslot=5,encrypt.iter-time=10",
        "encrypt.state=active,encrypt.new-secret=u,encrypt.keyslot=8",
        "encrypt.state=active,encrypt.new-secret=u,encrypt.keyslot=-1",
        "encrypt.state=active,encrypt.new-secret=u,encrypt.keyslot=x",
        "encrypt.state=inactive,encrypt.old-secret=s",
        "@s",
        "size=11M",
        "@u",
        "encrypt.state=inactive,encrypt.keyslot=1",
        "encrypt.state=inactive,encrypt.keyslot=1",
        "encrypt.state=inactive,encrypt.keyslot=5,encrypt.old-secret=w",
        "encrypt.state=inactive,encrypt.keyslot=5",
        "encrypt.state=inactive,encrypt.old-secret=u",
        "encrypt.state=inactive,encrypt.old-secret=w",
        "encrypt.state=inactive",
        "encrypt.state=inactive,encrypt.old-secret=none",
        "encrypt.state=inactive,encrypt.new-secret=s,encrypt.keyslot=0",
        "encrypt.state=inactive,encrypt.iter-time=5,encrypt.keyslot=0",
    ],
    &[
        "--force encrypt.state=active,encrypt.new-secret=t,encrypt.keyslot=0,encrypt.iter-time=10",
        "size=11M",
        "@t",
        "size=11M",
        "--force encrypt.state=inactive,encrypt.keyslot=0",
        "size=12M",
    ],
    &["--force encrypt.state=inactive,encrypt.old-secret=s", "size=12M"],
];

fn operand(secret: &str) -> String {
    format!("{SECRETS} --image-opts driver=qcow2,encrypt.key-secret={secret},file.filename=disk")
}

#[test]
fn key_slots_are_filled_and_erased() {
    require_wording();
    let kinds = ["luks", "luks-aes-256-cbc-essiv-sha256", "luks-twofish-128-cbc-plain-sha224"].map(kinds::named);
    for_all("keys", &kinds, |kind, report| {
        for lists in KEYS {
            let twins = Twins::of(kind);
            let mut secret = "s";
            for list in *lists {
                if let Some(other) = list.strip_prefix('@') {
                    secret = other;
                    continue;
                }
                let (force, list) = match list.strip_prefix("--force ") {
                    Some(list) => ("--force", list),
                    None => ("", *list),
                };
                let line = format!("amend {force} -o {list} {}", operand(secret));
                let (_, mut found) = twins.run(&line);
                found.extend(same_slots(&twins));
                found.extend(both_open(&twins));
                report.note(&format!("{}: {line}", kind.name), found);
            }
        }
    });
}

/// `info` on both, without what is random.
fn same_slots(twins: &Twins) -> Vec<String> {
    let line = "info --output=json -f qcow2 disk";
    let [ours, reference] = [&twins.ours, &twins.reference].map(|folder| folder.reference(line));
    differences(line, &ours, &reference, &common::oracle::without_layout)
}

/// A cluster that reads as zeros and holds data for a snapshot keeps that data when version 2 has no flag for zeros.
#[test]
fn version_2_leaves_snapshots_alone() {
    let sandbox = Sandbox::new();
    sandbox.script(Tool::Reference, SCENE).expect_ok("the scene");
    sandbox.run(Tool::Ours, "amend -o compat=0.10 disk").expect_ok("amend");
    sandbox.reference("check disk").expect_ok("check");
    let read = "qemu-io -r -c 'read -P 3 0 1M' -c 'read -P 4 1M 1M' -c 'read -P 0 2M 8M' disk && qemu-img snapshot -a one disk &&\n\
        qemu-io -r -c 'read -P 3 0 3M' -c 'read -P 0 3M 7M' disk";
    let out = sandbox.script(Tool::Reference, read).expect_ok("reading");
    assert!(!out.stdout.contains("verification failed"), "{out}");
}

/// Every secret opens both images, or neither; and what they hold is the same.
fn both_open(twins: &Twins) -> Vec<String> {
    let mut found = Vec::new();
    for secret in ["s", "t", "u", "w"] {
        let line = format!("convert -O raw {} out", operand(secret));
        let codes = twins.each().map(|(_, folder)| folder.reference(&line).code);
        if codes[0] != codes[1] {
            found.push(format!("the secret {secret} opens: {codes:?}"));
        } else if codes == [0, 0] {
            found.extend(same_target(twins, "out", Target::Raw));
        }
    }
    found
}

/// Nothing of the key material is left in a slot that was erased.
#[test]
fn erased_key_material_is_overwritten() {
    let sandbox: Sandbox = kinds::named("luks").sandbox();
    let add = format!("amend -o encrypt.state=active,encrypt.new-secret=t,encrypt.iter-time=10 {}", operand("s"));
    sandbox.run(Tool::Ours, &add).expect_ok(&add);
    let before = std::fs::read(sandbox.file("disk")).expect("the image");
    let header = before.windows(6).position(|word| word == b"LUKS\xba\xbe").expect("a LUKS header");
    let word = |at: usize| u32::from_be_bytes(before[at..at + 4].try_into().expect("four bytes")) as usize;
    // Slot 1: its fields start at 208 + 48; the offset of the material, in sectors, is the one before the last.
    let start = header + word(header + 208 + 48 + 40) * 512;
    let len = word(header + 108) * 4000;
    let erase = format!("amend -o encrypt.state=inactive,encrypt.old-secret=t {}", operand("s"));
    sandbox.run(Tool::Ours, &erase).expect_ok(&erase);
    let after = std::fs::read(sandbox.file("disk")).expect("the image");
    let same = (start..start + len).step_by(64).filter(|&at| before[at..at + 64] == after[at..at + 64]).count();
    assert_eq!(same, 0, "blocks of key material that are as before");
    assert_eq!(before[..header], after[..header]);
}
