//! `commit`: images of many kinds into backing files of many kinds, through chains, and right and wrong command lines. The
//! base must show what the top showed, the top must be empty, and both tools must leave the same.

mod common;

use std::sync::OnceLock;

use common::kinds::SECRET;
use common::oracle::{self, Target, Twins};
use common::run::{Tool, program_in};
use common::{Report, Sandbox, for_all, require_wording};

/// What the top is created with.
const TOPS: &[(&str, Target)] = &[
    ("", Target::Qcow2),
    ("-o cluster_size=512", Target::Qcow2),
    ("-o cluster_size=2M", Target::Qcow2),
    ("-o compat=0.10,cluster_size=4k", Target::Qcow2),
    ("-o extended_l2=on,cluster_size=64k", Target::Qcow2),
    ("-o compression_type=zstd,refcount_bits=1", Target::Qcow2),
    ("-o data_file=top.data", Target::Qcow2),
    ("-o encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret=s", Target::Locked),
];

/// The backing files: name, format, and how it is checked afterwards.
const BASES: &[(&str, &str, Target)] = &[
    ("raw", "raw", Target::Raw),
    ("shortraw", "raw", Target::Raw),
    ("longraw", "raw", Target::Raw),
    ("plain", "qcow2", Target::Qcow2),
    ("short", "qcow2", Target::Qcow2),
    ("long", "qcow2", Target::Qcow2),
    ("shortonlong", "qcow2", Target::Qcow2),
    ("small", "qcow2", Target::Qcow2),
    ("big", "qcow2", Target::Qcow2),
    ("old", "qcow2", Target::Qcow2),
    ("oldonold", "qcow2", Target::Qcow2),
    ("sub", "qcow2", Target::Qcow2),
    ("packed", "qcow2", Target::Qcow2),
    ("snapped", "qcow2", Target::Qcow2),
    ("split", "qcow2", Target::Qcow2),
    ("marked", "qcow2", Target::Qcow2),
];

const FILES: &str = r#"
io() { local img=$1; shift; local a=(); for c in "$@"; do a+=(-c "$c"); done; qemu-io -f ${f:-qcow2} "${a[@]}" $img >/dev/null; }
Q=qemu-img
fill() { io $1 'write -P 1 0 300k' 'write -P 2 1M 700k' 'write -P 3 1900k 70k'; }
mk() { $Q create -q -f qcow2 "$@"; fill $1; }
for i in raw:3M shortraw:2M longraw:4M; do $Q create -q -f raw ${i%:*} ${i#*:}; f=raw fill ${i%:*}; done
mk plain 3M; mk short 2M; mk long 4M
$Q create -q -f qcow2 -b long -F qcow2 shortonlong 2M; io shortonlong 'write -P 4 512k 70k'
mk small -o cluster_size=512 3M; mk big -o cluster_size=2M 3M; mk old -o compat=0.10 3M
$Q create -q -f qcow2 -b old -F qcow2 -o compat=0.10 oldonold; io oldonold 'write -P 4 512k 70k'
mk sub -o extended_l2=on,cluster_size=128k 3M
$Q convert -c -f qcow2 -O qcow2 plain packed
mk snapped 3M; $Q snapshot -c one snapped; io snapped 'write -P 8 100k 1M'
mk split -o data_file=split.data 3M
mk marked 3M; $Q bitmap --add marked bits
$Q create -q -f qcow2 -b plain -F qcow2 mid; io mid 'write -P 5 700k 500k' 'write -z 1200k 64k'
$Q create -q -f qcow2 -b mid -F qcow2 high 2M; io high 'write -P 6 100k 100k'
"#;

fn files() -> &'static Sandbox {
    static FILES_MADE: OnceLock<Sandbox> = OnceLock::new();
    FILES_MADE.get_or_init(|| {
        let sandbox = Sandbox::new();
        sandbox.script(Tool::Reference, &format!("set -e\n{FILES}")).expect_ok("the backing files");
        sandbox
    })
}

fn opts(target: Target) -> &'static str {
    match target {
        Target::Locked => "driver=qcow2,encrypt.key-secret=s,file.filename=top",
        _ => "driver=qcow2,file.filename=top",
    }
}

/// A folder with `top` of 3 MiB on a backing file: data, zeros stored and not, a discarded part.
fn make(options: &str, target: Target, backing: &str, format: &str) -> Twins {
    let first = Sandbox::copy_of(files().path());
    let line = format!("create -q {SECRET} -f qcow2 {options} -b {backing} -F {format} top 3M");
    first.reference(&line).expect_ok("top");
    let mut words = common::files::words(&format!("{SECRET} --image-opts {}", opts(target)));
    for write in [
        "write -P 11 100k 50k",
        "write -P 12 1300k 3k",
        "write -P 0 2600k 70k",
        "write -z 256k 64k",
        "write -z 1100k 5k",
        "write -P 13 3145216 512",
    ] {
        words.extend(["-c".into(), write.into()]);
    }
    program_in(first.path(), "qemu-io", &words).expect_ok("writing to top");
    let line = format!("convert {SECRET} --image-opts {} -O raw before", opts(target));
    first.reference(&line).expect_ok("reading");
    Twins { ours: Sandbox::copy_of(first.path()), reference: Sandbox::copy_of(first.path()) }
}

/// What an image of ours shows must be what the top showed before; what is longer is zeros or was there before.
fn shows_the_same(sandbox: &Sandbox, opts: &str) -> Vec<String> {
    let line = format!("convert {SECRET} --image-opts {opts} -O raw after");
    let read = sandbox.reference(&line);
    if !read.ok() {
        return vec![format!("{line}: {read}")];
    }
    let [before, after] = ["before", "after"].map(|name| std::fs::read(sandbox.file(name)).expect("content"));
    let same = after.len() >= before.len() && after[..before.len()] == before[..];
    if same { Vec::new() } else { vec![format!("{opts} shows something else than before")] }
}

/// How long the top is, ours and the reference's.
fn lengths(twins: &Twins) -> [u64; 2] {
    [&twins.ours, &twins.reference].map(|sandbox| std::fs::metadata(sandbox.file("top")).expect("top").len())
}

/// The emptied top must not be longer than the reference's.
fn longer(twins: &Twins) -> Option<String> {
    let [ours, reference] = lengths(twins);
    (ours > reference).then(|| format!("the emptied top has {ours} bytes, and {reference} in the reference"))
}

fn one(top: (&str, Target), base: (&str, &str, Target), flags: &str, report: &mut Report) {
    let ((options, target), (name, format, base_target)) = (top, base);
    let twins = make(options, target, name, format);
    let line = format!("commit {flags} {SECRET} --image-opts {}", opts(target));
    let (outcome, mut differences) = twins.run(&line);
    differences.extend(twins.same_names(false));
    if outcome.ok() {
        differences.extend(oracle::same_target(&twins, "top", target));
        differences.extend(oracle::same_target(&twins, name, base_target));
        differences.extend(longer(&twins));
        differences.extend(shows_the_same(&twins.ours, opts(target)));
        differences.extend(shows_the_same(&twins.ours, &format!("driver={format},file.filename={name}")));
    }
    report.note(&format!("{options} into {name} {flags}"), differences);
}

#[test]
fn every_kind_into_every_kind() {
    require_wording();
    let all = common::share_taken() == 1;
    let mut cases = Vec::new();
    for (row, top) in TOPS.iter().enumerate() {
        let wanted = |column: usize| all || row == 0 || column == 3 || (row + column).is_multiple_of(4);
        cases.extend(BASES.iter().enumerate().filter(|(column, _)| wanted(*column)).map(|(_, base)| (*top, *base)));
    }
    for_all("commit", &cases, |(top, base), report| one(*top, *base, "", report));
}

#[test]
fn tops_with_snapshots_and_bitmaps() {
    require_wording();
    for_all(
        "commit, tops",
        &["snapshot -c one top", "bitmap --add top bits", "snapshot -c one top;bitmap --add top bits"],
        {
            |extra, report| {
                let twins = make("", Target::Qcow2, "plain", "qcow2");
                for (_, sandbox) in twins.each() {
                    for line in extra.split(';') {
                        sandbox.reference(line).expect_ok(line);
                    }
                }
                let (_, mut differences) = twins.run("commit -f qcow2 top");
                differences.extend(oracle::unhealthy(&twins.ours, "top", Target::Qcow2));
                differences.extend(oracle::same_target(&twins, "plain", Target::Qcow2));
                differences.extend(shows_the_same(&twins.ours, opts(Target::Qcow2)));
                if extra.contains("snapshot") {
                    for (_, sandbox) in twins.each() {
                        let line = "convert -l one -f qcow2 -O raw top snapshot.raw";
                        sandbox.reference(line).expect_ok(line);
                    }
                    differences.extend(oracle::same_target(&twins, "snapshot.raw", Target::Raw));
                }
                report.note(extra, differences);
            }
        },
    );
}

/// Tops whose refcount structures lie all over the file: what is left is as small as in the reference, also where that
/// leaves the structures behind.
#[test]
fn large_tops() {
    require_wording();
    let kinds = [
        ("cluster_size=512,refcount_bits=64", true),
        ("cluster_size=4k", true),
        ("cluster_size=1k,lazy_refcounts=on", true),
        ("compat=0.10,cluster_size=1k", false),
        ("cluster_size=64k", true),
    ];
    for_all("commit, large tops", &kinds, |(options, fast), report| {
        let first = Sandbox::new();
        let line = format!("create -q -f qcow2 -o {options} -b base -F raw top 64M");
        first.reference("create -q -f raw base 64M").expect_ok("base");
        first.reference(&line).expect_ok("top");
        let writes = ["-f", "qcow2", "-c", "write -P 1 0 30M", "-c", "write -P 2 50M 9M", "top"];
        program_in(first.path(), "qemu-io", &writes.map(String::from)).expect_ok("writing to top");
        let twins = Twins { ours: Sandbox::copy_of(first.path()), reference: first };
        let (_, mut differences) = twins.run("commit -f qcow2 top");
        differences.extend(oracle::same_target(&twins, "top", Target::Qcow2));
        differences.extend(oracle::same_target(&twins, "base", Target::Raw));
        let [ours, reference] = lengths(&twins);
        // A gap of one cluster can stay.
        if ours > 1 << 20 || *fast != (reference <= 1 << 20) || ours > reference + 512 {
            differences.push(format!("the emptied top has {ours} bytes, and {reference} in the reference"));
        }
        report.note(options, differences);
    });
}

/// `top` lies on `mid`, that on `plain`; `sub/leaf` lies on `../mid`.
const LINES: &[&str] = &[
    "commit",
    "commit top extra",
    "commit plain",
    "commit -f raw raw",
    "commit raw",
    "commit gone",
    "commit -p gone",
    "commit -p plain",
    "commit top",
    "commit -q top",
    "commit -d top",
    "commit -q -p top",
    "commit -b mid top",
    "commit -b ./mid top",
    "commit -b plain top",
    "commit -b plain -d top",
    "commit -b gone top",
    "commit -b gone --image-opts driver=qcow2,file.filename=top",
    "commit -b top top",
    "commit -b '' top",
    "commit -b file:mid top",
    "commit -p -b gone top",
    "commit -b mid sub/leaf",
    "commit -b ../mid sub/leaf",
    "commit -b sub/../mid sub/leaf",
    "commit -b plain sub/leaf",
    "commit -r 0 top",
    "commit -r 100M top",
    "commit -r 1x top",
    "commit -r -1 top",
    "commit -p -r x gone",
    "commit -t none top",
    "commit -t unsafe top",
    "commit -t writethrough top",
    "commit -t nothing top",
    "commit -p -t nothing gone",
    "commit -f qcow2 top",
    "commit -f nothing top",
    "commit -U top",
    "commit --base plain --drop --rate 1G --cache none --format qcow2 --quiet --progress top",
    "commit --image-opts driver=qcow2,file.filename=top",
    "commit --image-opts -f qcow2 driver=qcow2,file.filename=top",
    "commit --image-opts driver=qcow2,file.filename=top,backing.driver=qcow2,backing.file.filename=plain",
    "commit --image-opts driver=qcow2,file.filename=top,backing.driver=qcow2,backing.file.filename=plain -b plain",
    "commit -b mid high",
    "commit -b plain high",
    "commit high",
    "commit lost",
    "commit onfull",
    "commit -- top",
    "commit -- -d top",
];

const SCENE: &str = r#"
$Q create -q -f qcow2 -b mid -F qcow2 top; io top 'write -P 11 100k 50k' 'write -P 12 1300k 3k'
$Q create -q -f qcow2 -u -b nowhere -F qcow2 lost 3M
$Q create -q -f qcow2 -o compat=0.10 full 1M; $Q snapshot -c one full
$Q create -q -f qcow2 -b full -F qcow2 onfull 3M
mkdir -p sub; $Q create -q -f qcow2 -b ../mid -F qcow2 sub/leaf; io sub/leaf 'write -P 14 1M 64k'
"#;

#[test]
fn command_lines() {
    require_wording();
    let scene = Sandbox::copy_of(files().path());
    let functions = FILES.lines().take(3).collect::<Vec<_>>().join("\n");
    scene
        .script(Tool::Reference, &format!("set -e\nrmdir sub 2>/dev/null || rm -f sub\n{functions}\n{SCENE}"))
        .expect_ok("the scene");
    for_all("commit, lines", LINES, |line, report| {
        let twins = Twins { ours: Sandbox::copy_of(scene.path()), reference: Sandbox::copy_of(scene.path()) };
        let (outcome, mut differences) = twins.run(line);
        differences.extend(twins.same_names(false));
        for name in ["top", "mid", "plain", "high", "sub/leaf", "full"] {
            // A failed step leaves nothing to be compared but the images themselves.
            if outcome.ok() {
                differences.extend(oracle::same_target(&twins, name, Target::Qcow2));
            }
            differences.extend(oracle::unhealthy(&twins.ours, name, Target::Qcow2));
        }
        report.note(line, differences);
    });
}
