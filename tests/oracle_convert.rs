//! `convert` of every image kind to many targets: output, exit code, files left behind, content, health, description
//! and storage taken must be what the reference leaves.

mod common;

use common::kinds::{self, Kind, Open, SECRET};
use common::oracle::{self, Target, Twins};
use common::{Report, for_all, require_wording, taken};

use Target::{Locked, Qcow2, Raw};

/// Options before the operands and how the target `out` is opened: run on every kind.
const EVERYWHERE: &[(&str, Target)] = &[
    ("-O raw", Raw),
    ("-O qcow2", Qcow2),
    ("-c -O qcow2", Qcow2),
    ("-O qcow2 -o compat=0.10,cluster_size=4k", Qcow2),
    ("-c -O qcow2 -o compression_type=zstd,cluster_size=128k", Qcow2),
    ("-O qcow2 -o extended_l2=on,cluster_size=128k", Qcow2),
    ("-O qcow2 -o encrypt.format=aes,encrypt.key-secret=s", Locked),
];

/// Run on a few kinds that differ in what the source offers.
const OPTIONS: &[(&str, Target)] = &[
    ("-O raw -S 0", Raw),
    ("-O raw -S 64k", Raw),
    ("-O raw -S 512", Raw),
    ("-O raw -t none -T none", Raw),
    ("-O raw -t writeback -T none -T writeback", Raw),
    ("-O raw -t unsafe -T unsafe", Raw),
    ("-O raw -t directsync", Raw),
    ("-O raw -m 4 -W", Raw),
    ("-O raw -m 16", Raw),
    ("-O raw -C", Raw),
    ("-O raw -q", Raw),
    ("-O raw -U", Raw),
    ("-O raw -r 1G", Raw),
    ("-O raw --salvage", Raw),
    ("-O raw -o preallocation=off", Raw),
    ("-O raw -o preallocation=falloc", Raw),
    ("-O raw -o preallocation=full", Raw),
    ("-O raw -o size=20M", Raw),
    ("-Oraw -S4k -m1", Raw),
    ("-O qcow2 -S 0", Qcow2),
    ("-O qcow2 -S 512", Qcow2),
    ("-O qcow2 -S 1M", Qcow2),
    ("-O qcow2 -m 8 -W", Qcow2),
    ("-c -m 2 -W -O qcow2", Qcow2),
    ("-c -S 0 -O qcow2", Qcow2),
    ("-O qcow2 -o cluster_size=512", Qcow2),
    ("-O qcow2 -o cluster_size=2M", Qcow2),
    ("-c -O qcow2 -o cluster_size=512", Qcow2),
    ("-c -O qcow2 -o cluster_size=2M", Qcow2),
    ("-c -O qcow2 -o extended_l2=on,cluster_size=64k", Qcow2),
    ("-c -O qcow2 -o compat=0.10", Qcow2),
    ("-O qcow2 -o compat=v3,refcount_bits=1", Qcow2),
    ("-O qcow2 -o refcount_bits=64,cluster_size=1k", Qcow2),
    ("-O qcow2 -o lazy_refcounts=on", Qcow2),
    ("-O qcow2 -o nocow=on", Qcow2),
    ("-O qcow2 -o preallocation=metadata", Qcow2),
    ("-O qcow2 -o preallocation=falloc", Qcow2),
    ("-O qcow2 -o preallocation=full", Qcow2),
    ("-O qcow2 -o preallocation=metadata,extended_l2=on", Qcow2),
    ("-O qcow2 -o size=12M", Qcow2),
    ("-O qcow2 -o size=1M", Qcow2),
    ("-O qcow2 -o data_file=out.data", Qcow2),
    ("-O qcow2 -o data_file=out.data,data_file_raw=on", Qcow2),
    ("-O qcow2 -o data_file=out.data,cluster_size=4k,preallocation=metadata", Qcow2),
    ("-c -O qcow2 -o data_file=out.data", Qcow2),
    ("-O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", Locked),
    ("-O qcow2 -o encryption=on,encrypt.key-secret=s", Locked),
    ("-c -O qcow2 -o encrypt.format=aes,encrypt.key-secret=s", Locked),
    ("-O qcow2 -o encrypt.format=aes,encrypt.key-secret=s,preallocation=metadata", Locked),
    ("-O qcow2 -o encrypt.format=aes,encrypt.key-secret=s,extended_l2=on,cluster_size=32k", Locked),
    ("-O qcow2 -o compression_type=zstd", Qcow2),
    ("-O qcow2 -o compression_type=zstd,compat=0.10", Qcow2),
    ("-O qcow2 -o compat=0.10,extended_l2=on", Qcow2),
    ("-O qcow2 -o data_file_raw=on", Qcow2),
    ("-O qcow2 -o cluster_size=3k", Qcow2),
    ("-O qcow2 -o refcount_bits=3", Qcow2),
    ("--bitmaps -O qcow2", Qcow2),
    ("--bitmaps -c -O qcow2 -o cluster_size=4k", Qcow2),
    ("--bitmaps --skip-broken-bitmaps -O qcow2", Qcow2),
    ("--bitmaps -O raw", Raw),
    ("--skip-broken-bitmaps -O qcow2", Qcow2),
    ("-l second -O raw", Raw),
    ("-l snapshot.name=first -O qcow2", Qcow2),
    ("-l snapshot.id=3 -c -O qcow2", Qcow2),
    ("-l snapshot.id=1,snapshot.name=first -O raw", Raw),
    ("-l nothing -O raw", Raw),
    ("-n -O raw", Raw),
    ("-n -O qcow2", Qcow2),
    ("--target-is-zero -O raw", Raw),
];

/// The kinds [`OPTIONS`] run on.
const CHOSEN: &[&str] =
    &["raw", "plain", "over-shorter-qcow2", "snapshots", "bitmaps-granular", "zlib-overwritten", "luks"];

fn source(kind: &Kind, options: &str) -> String {
    match kind.open {
        Open::Locked => format!("{SECRET} --image-opts {options} {}", kind.image_opts()),
        Open::Raw => format!("{} -f raw {options} disk", secret_for(options)),
        _ => format!("{} -f qcow2 {options} disk", secret_for(options)),
    }
}

fn secret_for(options: &str) -> &'static str {
    if options.contains("key-secret") { SECRET } else { "" }
}

fn one(kind: &Kind, options: &str, target: Target, report: &mut Report) {
    let twins = Twins::of(kind);
    let line = format!("convert {} out", source(kind, options));
    let before = common::files::stamps(twins.ours.path());
    let (outcome, mut differences) = twins.run(&line);
    differences.extend(twins.same_names(!outcome.ok()));
    if outcome.ok() {
        differences.extend(oracle::same_target(&twins, "out", target));
    }
    let after = common::files::stamps(twins.ours.path());
    if before.iter().any(|(name, content)| after.get(name) != Some(content)) {
        differences.push("the source was changed".into());
    }
    report.note(&format!("{}: {line}", kind.name), differences);
}

/// Kinds whose whole content as a raw file would be too much to compare again and again.
fn large(kind: &Kind) -> bool {
    ["huge-empty", "sparse-tail"].contains(&&*kind.name)
}

#[test]
fn convert_of_every_kind_is_the_same() {
    common::files::stay_on_disk();
    require_wording();
    for_all("convert, every kind", &kinds::all(), |kind, report| {
        for (options, target) in EVERYWHERE {
            if !taken(&kind.name, options)
                || large(kind) && *target == Raw
                || kind.name == "huge-empty" && options.contains("4k")
            {
                continue;
            }
            one(kind, options, *target, report);
        }
    });
}

#[test]
fn convert_with_every_option_is_the_same() {
    common::files::stay_on_disk();
    require_wording();
    let mut cases = Vec::new();
    for name in CHOSEN {
        let Some(kind) = kinds::all().into_iter().find(|kind| kind.name == *name) else { continue };
        let options = OPTIONS.iter().filter(|(options, _)| taken(name, options));
        cases.extend(options.map(|(options, target)| (kind.clone(), *options, *target)));
    }
    for_all("convert, every option", &cases, |(kind, options, target), report| one(kind, options, *target, report));
}
