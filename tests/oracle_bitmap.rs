//! `bitmap`: output, exit code, and what is in the image afterwards: its description and health by the reference, and
//! the bitmaps as they lie in the file.

mod common;

use common::kinds::{self, Kind, Open};
use common::oracle::{self, Target, Twins};
use common::run::Tool;
use common::{Report, Sandbox, bitmaps, for_all, require_wording, taken};

/// Sequences for every kind of image. `@` stands for what names it; `io ` begins a command of the reference's qemu-io.
const SEQUENCES: &[&[&str]] = &[
    &[
        "bitmap --add @ new",
        "bitmap --add -g 512 @ fine",
        "io write -P 7 1M 300k",
        "bitmap --add --disable -g 2M @ coarse",
        "io write -P 8 3M 64k",
        "bitmap --merge fine @ coarse",
        "bitmap --merge coarse --disable @ new",
        "io write -P 9 5M 64k",
        "bitmap --clear --enable @ coarse",
        "io write -z 6M 128k",
        "bitmap --remove @ fine",
    ],
    &[
        "bitmap --disable @ b0",
        "bitmap --merge b0 @ b1",
        "bitmap --merge b1 --enable @ b0",
        "bitmap --clear @ b1",
        "bitmap --add @ b0",
        "bitmap --remove @ b0",
        "bitmap --remove @ b1",
        "bitmap --add @ b1",
    ],
];

/// Command lines on a small set of images (see [`SCENE`]): `a` has the bitmaps `on`, `off` and `fine`, `b` is of the same
/// size with `on`, `large` is larger with `on`, `v2` is of version 2, `r` is raw, `used` has `on` marked as in use, `huge`
/// has a disk of 1 PiB.
const LINES: &[&str] = &[
    "",
    "a",
    "a x",
    "-g 64k",
    "-g x",
    "--add",
    "--add a",
    "--add a b c",
    "--add nowhere x",
    "--add . x",
    "--add '' x",
    "--add a ''",
    "--add a x",
    "--add a on",
    "--add a 'with blank,comma'",
    "--add a NAME1022",
    "--add a NAME1023",
    "--add a NAME1024",
    "--add a NAME2000",
    "--add v2 x",
    "--add v2 NAME1024",
    "--add -g 100 v2 x",
    "--add r x",
    "--add -f raw r x",
    "--add -f raw r ''",
    "--add -f raw -g 1000 r x",
    "--add -f qcow2 r x",
    "--add -f nothing a x",
    "--add used on",
    "--add huge x",
    "--add -g 128k huge x",
    "--add -g 256k huge x",
    "--add -g 128k huge on",
    "--add -g 0 a x",
    "--remove -g 0 a nothing",
    "--add -g 1 a x",
    "--add -g 256 a x",
    "--add -g 512 a x",
    "--add -g 1000 a x",
    "--add -g 1.5k a x",
    "--add -g 64K a x",
    "--add -g 2G a x",
    "--add -g 4G a x",
    "--add -g 6G a x",
    "--add -g 4294967808 a x",
    "--add -g 8E a x",
    "--add -g -1 a x",
    "--add -g '' a x",
    "--add -g 1k1 a x",
    "--add -g ' 64k' a x",
    "--add -g 1k -g 2k a x",
    "--add -g 100 a on",
    "--add --granularity=4k a x",
    "--add --image-opts driver=qcow2,file.filename=a x",
    "--add --image-opts -f qcow2 driver=qcow2,file.filename=a x",
    "--add --image-opts driver=qcow2,file.filename=v2,node-name=n x",
    "--add --image-opts driver=raw,file.filename=r,node-name=n x",
    "--add --object secret,id=s,data=x a x",
    "--add --object nothing,id=s a x",
    "--add=1 a x",
    "--bogus a x",
    "-q --add a x",
    "-U --add a x",
    "--merge",
    "--s x",
    "--m on a off",
    "--e a off",
    "--d a on",
    "a --add x",
    "a x --add",
    "--remove a on",
    "--remove a x",
    "--remove a ''",
    "--remove r x",
    "--remove v2 x",
    "--remove used on",
    "--remove used off",
    "--clear a on",
    "--clear a x",
    "--clear used on",
    "--clear used off",
    "--enable a off",
    "--enable a x",
    "--enable used on",
    "--enable used off",
    "--disable a on",
    "--disable a x",
    "--disable used on",
    "--merge on a off",
    "--merge on a on",
    "--merge on a x",
    "--merge x a on",
    "--merge x a x",
    "--merge '' a on",
    "--merge fine a on",
    "--merge on a fine",
    "--merge on --merge fine a off",
    "--merge on used off",
    "--merge off used on",
    "--merge on -b b a off",
    "--merge on -b b a fine",
    "--merge fine -b b a on",
    "--merge on -b large a on",
    "--merge x -b large a on",
    "--merge on -b r a on",
    "--merge on -b b -F raw a on",
    "--merge on -b b -F qcow2 a on",
    "--merge on -b used a on",
    "--merge off -b used a on",
    "--merge on -b a a on",
    "--merge on -b nowhere a on",
    "--merge on -b nowhere nowhere on",
    "--merge on -b nowhere -b b a off",
    "--merge on -b driver=qcow2,file.filename=b a on",
    "--merge on -b b --image-opts driver=qcow2,file.filename=a off",
    "--add --merge on -b b a x",
    "--add --merge on --disable --merge fine a x",
    "--add --disable --merge x --clear a y",
    "--add --remove a x",
    "--remove --add a on",
    "--remove --add --merge fine a on",
    "--remove --enable a on",
    "--clear --merge fine a on",
    "--merge fine --clear a on",
    "--disable --enable a off",
    "--enable --disable a off",
    "-b b --add a x",
    "-F raw --add a x",
    "-F raw -b b --add a x",
    "-F raw -b b -g 1k --remove a on",
    "-g 1k --remove a on",
    "-g 1k -F raw --remove a",
    "-F raw --remove",
];

const SCENE: &str = r#"
Q=qemu-img
$Q create -q -f qcow2 a 10M
for b in on off; do $Q bitmap --add a $b; done
$Q bitmap --add -g 512 a fine
$Q bitmap --disable a off
qemu-io -c 'write -P 1 1M 200k' a >/dev/null
$Q bitmap --disable a on
qemu-io -c 'write -P 1 10420224 65536' -c 'write -P 1 0 64k' a >/dev/null
cp a b
qemu-io -c 'write -P 1 4M 1M' b >/dev/null
$Q create -q -f qcow2 large 20M
$Q bitmap --add large on
$Q create -q -f qcow2 -o compat=0.10 v2 10M
$Q create -q -f raw r 10M
$Q create -q -f qcow2 huge 1P
$Q bitmap --add -g 1M huge on
cp a used
qemu-io -c 'write 0 64k' -c abort used >/dev/null 2>&1 || true
$Q info --output=json used | grep -q in-use
"#;

/// Node names that were made up end in random digits.
fn settled(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("#block") {
        let (before, name) = rest.split_at(at + 6);
        out.push_str(before);
        rest = name.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out + rest
}

/// Runs a line by both tools.
fn step(twins: &Twins, line: &str) -> (bool, Vec<String>) {
    let [ours, reference] = twins.each().map(|(tool, sandbox)| sandbox.run(tool, line));
    (reference.ok(), oracle::differences(line, &ours, &reference, &settled))
}

/// The bitmaps in the file are the same.
fn same_bitmaps(twins: &Twins, name: &str) -> Vec<String> {
    let [ours, reference] = twins.each().map(|(_, sandbox)| bitmaps::read(&sandbox.file(name)));
    if ours == reference {
        return Vec::new();
    }
    let brief = |list: Option<Vec<bitmaps::Stored>>| {
        list.map(|mut list| {
            list.iter_mut().for_each(|stored| stored.bits.truncate(48));
            list
        })
    };
    vec![format!("bitmaps of {name}:\n  ours      {:?}\n  reference {:?}", brief(ours), brief(reference))]
}

fn run(kind: &Kind, sequence: &[&str], report: &mut Report) {
    let twins = Twins::of(kind);
    let mut differences = Vec::new();
    for line in sequence {
        if let Some(command) = line.strip_prefix("io ") {
            for (_, sandbox) in twins.each() {
                let mut words = common::files::words(&format!("{} --image-opts {}", kinds::SECRET, kind.image_opts()));
                words.extend(["-c".into(), command.into()]);
                // A kind may be smaller than the range or not writable; both folders see the same.
                common::run::program_in(sandbox.path(), "/usr/bin/qemu-io", &words);
            }
            continue;
        }
        differences.extend(step(&twins, &line.replace('@', &kind.operand())).1);
        if kind.open != Open::Broken {
            differences.extend(same_bitmaps(&twins, "disk"));
        }
    }
    let target = match kind.open {
        Open::Raw => Target::Raw,
        Open::Locked => Target::Locked,
        _ => Target::Qcow2,
    };
    if kind.open != Open::Broken && oracle::unhealthy(&twins.reference, "disk", target).is_empty() {
        differences.extend(oracle::same_target(&twins, "disk", target));
    }
    report.note(&format!("{}: {}", kind.name, sequence[0]), differences);
}

#[test]
fn sequences_leave_the_same_bitmaps_on_every_kind() {
    require_wording();
    // On a disk without bytes the reference fails at the end, and opens no image on which it has not failed.
    let kinds: Vec<_> = kinds::all()
        .into_iter()
        .filter(|kind| kind.name != "size-zero" && (kind.name.contains("bitmap") || taken("bitmap", &kind.name)))
        .collect();
    for_all("bitmap", &kinds, |kind, report| {
        run(kind, SEQUENCES[0], report);
        if kind.name.contains("bitmap") {
            run(kind, SEQUENCES[1], report);
        }
    });
}

#[test]
fn lines_are_the_same() {
    require_wording();
    let scene = Sandbox::new();
    common::run::program_in(scene.path(), "bash", &["-ec", SCENE]).expect_ok("the scene");
    let lines: Vec<_> = LINES.iter().filter(|line| common::taken("bitmap", line)).collect();
    for_all("bitmap lines", &lines, |line, report| {
        let twins = Twins { ours: Sandbox::copy_of(scene.path()), reference: Sandbox::copy_of(scene.path()) };
        let mut line = format!("bitmap {line}");
        for len in [1022, 1023, 1024, 2000] {
            line = line.replace(&format!("NAME{len}"), &"n".repeat(len));
        }
        let mut differences = step(&twins, &line).1;
        differences.extend(twins.same_names(false));
        for name in ["a", "used", "v2"] {
            differences.extend(same_bitmaps(&twins, name));
            if line.split(' ').any(|word| word == name) {
                differences.extend(oracle::same_target(&twins, name, Target::Qcow2));
            }
        }
        // Comparing its contents would take too long.
        differences.extend(same_bitmaps(&twins, "huge"));
        differences.extend(oracle::unhealthy(&twins.ours, "huge", Target::Qcow2));
        let [ours, reference] = twins.each().map(|(_, sandbox)| common::files::hash_file(&sandbox.file("r")));
        if ours != reference {
            differences.push("the raw image differs".into());
        }
        report.note(&line, differences);
    });
}

#[test]
fn the_help_has_the_line_that_vdsm_looks_for() {
    let help = Sandbox::new().run(Tool::Ours, "--help").expect_ok("--help").stdout;
    let found = help.lines().any(|line| {
        let start = line.trim_start();
        start.len() < line.len() && start.starts_with("bitmap ") && line.contains(" filename bitmap")
    });
    assert!(found, "{help}");
}

/// What other commands do to bitmaps, on the images of [`SCENE`]; `io` writes as the guest would.
const ACROSS: &[&[&str]] = &[
    &["resize a 12M", "io a write 11M 64k", "resize a +513k", "io a write 12M 512k", "bitmap --merge on a off"],
    &["resize --shrink a 5M", "io a write 4M 64k"],
    &["resize --preallocation=metadata a +1M", "io a write 10M 100k"],
    &["resize --preallocation=falloc a +1M", "resize --preallocation=full a +1M"],
    &["amend -o lazy_refcounts=on a", "io a write 2M 64k", "amend -o lazy_refcounts=off a"],
    &["amend -o size=20M a", "io a write 15M 1M", "amend -o refcount_bits=64 a", "io a write 7M 1M"],
    &["amend -o backing_file=r,backing_fmt=raw a", "rebase -b  -u a", "io a write 2M 64k"],
    &["create -q -f qcow2 -b a -F qcow2 top", "bitmap --add top t", "io top write 3M 100k", "commit top", "info top"],
    &["create -q -f qcow2 -b b -F qcow2 top 12M", "io top write 11M 100k", "io top write -z 0 64k", "commit -d top"],
    &["create -q -f qcow2 -b r -F raw top", "bitmap --add top t", "io top write 3M 100k", "rebase -b  top"],
    &[
        "create -q -f qcow2 -b r -F raw top",
        "bitmap --add top t",
        "rebase -b a -F qcow2 top",
        "rebase -b b -F qcow2 top",
    ],
    &["convert --bitmaps -O qcow2 a out", "io out write 2M 64k", "bitmap --merge on -b a out off"],
    &["convert --bitmaps -O qcow2 used out", "convert --bitmaps --skip-broken-bitmaps -O qcow2 used out"],
    &["convert --bitmaps -c -o cluster_size=4k -O qcow2 a out", "io out write 2M 64k"],
    &["convert --bitmaps -O qcow2 -o compat=0.10 a out", "convert --bitmaps -O raw a out"],
    &["convert --bitmaps -n -O qcow2 a large", "convert --bitmaps -n -O qcow2 a b", "convert -n -O qcow2 a b"],
    &["bitmap --remove large on", "convert --bitmaps -n -O qcow2 a large"],
    &["convert -n -O qcow2 a large", "convert -n -S 0 -O qcow2 b large"],
    &["convert -n --target-is-zero -O qcow2 a large", "convert -n -f raw -O qcow2 r large"],
    &["dd -O qcow2 if=a of=out", "bitmap --add out x", "io out write 1M 64k"],
    &["snapshot -c one a", "io a write 2M 64k", "snapshot -a one a", "snapshot -d one a", "io a write 5M 64k"],
    &["io a discard 1M 64k", "io a write -z 5M 100k", "io a write -z -u 6M 100k", "check a"],
    &["io used write 1M 64k", "check -r all used", "snapshot -c one used", "resize used 12M"],
];

/// Where ours differs on purpose: space that is reserved is not written to, and a snapshot that is applied moves tables.
#[test]
fn other_commands_treat_bitmaps_alike() {
    require_wording();
    let scene = Sandbox::new();
    common::run::program_in(scene.path(), "bash", &["-ec", SCENE]).expect_ok("the scene");
    for_all("across", ACROSS, |sequence, report| {
        let twins = Twins { ours: Sandbox::copy_of(scene.path()), reference: Sandbox::copy_of(scene.path()) };
        let mut differences = Vec::new();
        for line in *sequence {
            if let Some((name, command)) = line.strip_prefix("io ").and_then(|rest| rest.split_once(' ')) {
                for (_, sandbox) in twins.each() {
                    let words = ["-f", "qcow2", "-c", command, name];
                    common::run::program_in(sandbox.path(), "/usr/bin/qemu-io", &words);
                }
                continue;
            }
            let line = line.replace("-b  ", "-b '' ");
            if line.starts_with("info") || line.starts_with("check") {
                let [ours, reference] = [&twins.ours, &twins.reference].map(|sandbox| sandbox.reference(&line));
                differences.extend(oracle::differences(&line, &ours, &reference, &|text| {
                    let text = oracle::without_layout(&settled(text));
                    text.lines().filter(|line| !line.starts_with("Image end")).collect::<Vec<_>>().join("\n")
                }));
                continue;
            }
            differences.extend(step(&twins, &line).1);
            for name in ["a", "b", "used", "large", "top", "out"].iter().filter(|name| twins.ours.file(name).exists()) {
                differences
                    .extend(same_bitmaps(&twins, name).into_iter().map(|text| format!("after `{line}`: {text}")));
            }
        }
        report.note(&sequence.join("; "), differences);
    });
}
