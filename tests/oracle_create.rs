//! `create`: output, exit code, the files left behind, and what the reference says about the new images (`info`,
//! `check`, content and the space they take).

mod common;

use common::oracle::{self, Target, Twins};
use common::{Report, for_all, require_wording};

use Target::{Locked, Qcow2, Raw};

const SECRET: &str = "--object secret,id=s,data=hunter2";
const LUKS: &str = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";

/// Option lists of qcow2, each tried with several sizes.
const LISTS: &[&str] = &[
    "",
    "-o compat=0.10",
    "-o compat=v3,lazy_refcounts=on",
    "-o compat=0.10,lazy_refcounts=on",
    "-o compat=1.2",
    "-o cluster_size=512",
    "-o cluster_size=1k,refcount_bits=1",
    "-o cluster_size=2M,refcount_bits=64",
    "-o cluster_size=4M",
    "-o cluster_size=256",
    "-o refcount_bits=3",
    "-o refcount_bits=128",
    "-o refcount_bits=-1",
    "-o compat=0.10,refcount_bits=8",
    "-o extended_l2=on",
    "-o extended_l2=on,cluster_size=8k",
    "-o extended_l2=on,compat=0.10",
    "-o compression_type=zstd",
    "-o compression_type=zstd,compat=v2",
    "-o compression_type=lzma",
    "-o preallocation=off",
    "-o preallocation=metadata",
    "-o preallocation=metadata,cluster_size=4k",
    "-o preallocation=falloc",
    "-o preallocation=full",
    "-o preallocation=some",
    "-o preallocation=metadata,extended_l2=on",
    "-o data_file=out.data",
    "-o data_file=out.data,data_file_raw=on",
    "-o data_file_raw=on",
    "-o data_file=file:out.data",
    "-o data_file=file:file:out.data",
    "-o data_file=json:{}",
    "-o data_file=out.data,preallocation=falloc",
    "-o data_file=out.data,preallocation=full,data_file_raw=on",
    "-o data_file=out.data,compat=0.10",
    "-o data_file=no/out.data",
    "-o nocow=on",
    "-o extent_size_hint=1M",
    "-o nocow=perhaps",
    "-o lazy_refcounts",
    "-o nolazy_refcounts",
    "-o nothing=1",
    "-o cluster_size=4k -o refcount_bits=8",
    "-o cluster_size=4k -o cluster_size=8k",
    "-o 'cluster_size=4k,,refcount_bits=8'",
    "-o ''",
    "-o ,",
    "-o help",
    "-o cluster_size=4k,help",
    "-q",
    "-u",
    "-F qcow2",
    "-b ''",
    "-b out -F qcow2",
    "-b ./out -F qcow2",
];

const SIZES: &[&str] = &["", "0", "1", "513", "1M", "5G"];

/// Encrypted ones.
const ENCRYPTED: &[&str] = &[
    "-o encryption=on,encrypt.key-secret=s",
    "-o encryption=on",
    "-o encryption=on,encrypt.key-secret=t",
    "-o encrypt.format=aes,encrypt.key-secret=s",
    "-o encrypt.format=aes,encrypt.key-secret=s,preallocation=metadata",
    "-o encrypt.format=other,encrypt.key-secret=s",
    "-o encrypt.key-secret=s",
    "-o encryption=on,encrypt.format=luks,encrypt.key-secret=s",
    "-o LUKS",
    // What is written in advance reads as noise through a key of its own, so only the same key compares.
    "-o encrypt.format=aes,encrypt.key-secret=s,preallocation=full",
    "-o LUKS,cluster_size=4k,extended_l2=off",
    "-o LUKS,encrypt.cipher-alg=serpent-256",
    "-o LUKS,encrypt.cipher-alg=none",
    "-o LUKS,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256",
    "-o LUKS,encrypt.iter-time=0",
    "-o LUKS,data_file=out.data",
    "-o encrypt.format=luks",
];

/// Operands and options in other arrangements, with other formats, and on backing files.
const LINES: &[(&str, Target)] = &[
    ("create", Raw),
    ("create -f qcow2", Raw),
    ("create out", Raw),
    ("create out 1M", Raw),
    ("create out 513", Raw),
    ("create out 0", Raw),
    ("create out 1.5M", Raw),
    ("create out 1m", Raw),
    ("create out 0x100000", Raw),
    ("create out 1e6", Raw),
    ("create out ''", Raw),
    ("create out ' 1M'", Raw),
    ("create out 1M 2M", Raw),
    ("create out -1", Raw),
    ("create -- out -1", Raw),
    ("create out 1Q", Raw),
    ("create out 9E", Raw),
    ("create out 1MB", Raw),
    ("create -f raw -o size=2M out", Raw),
    ("create -f raw -o size=2M out 1M", Raw),
    ("create -f raw -o size=-1 out", Raw),
    ("create -f raw -o size=x out", Raw),
    ("create -f raw -o preallocation=off out 1M", Raw),
    ("create -f raw -o preallocation=falloc out 1M", Raw),
    ("create -f raw -o preallocation=full out 1M", Raw),
    ("create -f raw -o preallocation=metadata out 1M", Raw),
    ("create -f raw -o nocow=on,extent_size_hint=64k out 1M", Raw),
    ("create -f raw -o cluster_size=4k out 1M", Raw),
    ("create -f raw -b base -F raw out 1M", Raw),
    ("create -f raw -F raw out 1M", Raw),
    ("create -f raw -b '' out 1M", Raw),
    ("create -f raw out 1E", Raw),
    ("create -f file out 1M", Raw),
    ("create -f file -o preallocation=full out 1M", Raw),
    ("create -f file -o help", Raw),
    ("create -f host_device out 1M", Raw),
    ("create -f host_device -o nocow=on out 1M", Raw),
    ("create -f raw host_device:out 1M", Raw),
    ("create -f raw -o help", Raw),
    ("create -f raw -o help out", Raw),
    ("create -f qcow2 -o '?' out", Qcow2),
    ("create -f nothing out 1M", Raw),
    ("create -f nothing -o help", Raw),
    ("create -f nothing -o a=b out 1M", Raw),
    ("create -f qcow2 nowhere/out 1M", Raw),
    ("create -f raw nowhere/out 1M", Raw),
    ("create -f qcow2 . 1M", Raw),
    ("create -f raw . 1M", Raw),
    ("create -f qcow2 /dev/null 1M", Raw),
    ("create -f raw /dev/null 1M", Raw),
    ("create -f raw /dev/null 0", Raw),
    ("create -f qcow2 file:out 1M", Qcow2),
    ("create -f qcow2 zz:out 1M", Raw),
    ("create -f qcow2 json:out 1M", Raw),
    ("create -f qcow2 'a,b' 1M", Raw),
    ("create out -f qcow2 1M -o cluster_size=4k", Qcow2),
    ("create -fqcow2 -qu out 1M", Qcow2),
    ("create --format=qcow2 --options cluster_size=4k --quiet out 1M", Qcow2),
    ("create --form qcow2 out 1M", Qcow2),
    ("create --back base out", Raw),
    ("create -x out 1M", Raw),
    ("create -f", Raw),
    ("create --object nothing out 1M", Raw),
    ("create -f qcow2 out 2E", Raw),
    ("create -f qcow2 -o cluster_size=2M out 2E", Raw),
    ("create -f qcow2 -o cluster_size=512 out 1T", Raw),
    ("create -f qcow2 -b base -F qcow2 out", Qcow2),
    ("create -f qcow2 -b base -F qcow2 out 20M", Qcow2),
    ("create -f qcow2 -b base -F qcow2 out 1M", Qcow2),
    ("create -f qcow2 -b base out", Raw),
    ("create -f qcow2 -b base out 1M", Raw),
    ("create -f qcow2 -b disk.raw out", Raw),
    ("create -f qcow2 -b disk.raw -F raw out", Qcow2),
    ("create -f qcow2 -b disk.raw -F qcow2 out", Raw),
    ("create -f qcow2 -b base -F raw out", Qcow2),
    ("create -f qcow2 -b base -F nothing out", Raw),
    ("create -f qcow2 -b base -F nothing -u out 1M", Raw),
    ("create -f qcow2 -b base -F file out", Qcow2),
    ("create -f qcow2 -b nowhere -F qcow2 out", Raw),
    ("create -f qcow2 -b nowhere -F qcow2 out 1M", Raw),
    ("create -f qcow2 -b nowhere out 1M", Raw),
    ("create -f qcow2 -u -b nowhere -F qcow2 out 1M", Raw),
    ("create -f qcow2 -u -b nowhere -F qcow2 out", Raw),
    ("create -f qcow2 -u -b nowhere out 1M", Raw),
    ("create -f qcow2 -b over -F qcow2 out", Qcow2),
    ("create -f qcow2 -b broken -F qcow2 out", Raw),
    ("create -f qcow2 -o backing_file=base,backing_fmt=qcow2 out", Qcow2),
    ("create -f qcow2 -o backing_file=base -F qcow2 out", Qcow2),
    ("create -f qcow2 -o backing_file=nowhere -b base -F qcow2 out", Qcow2),
    ("create -f qcow2 -o backing_file=base,backing_fmt=qcow2,size=3M out", Qcow2),
    ("create -f qcow2 -o backing_file=base,backing_fmt=qcow2,size=3M out 4M", Raw),
    ("create -f qcow2 -b base -F qcow2 -o preallocation=metadata out", Raw),
    ("create -f qcow2 -b base -F qcow2 -o preallocation=metadata,extended_l2=on out", Qcow2),
    ("create -f qcow2 -b base -F qcow2 -o data_file=out.data,data_file_raw=on out", Raw),
    ("create -f qcow2 -b base -F qcow2 -o compat=0.10 out", Qcow2),
    ("create -f qcow2 -b sub/inner -F qcow2 out", Qcow2),
    ("create -f qcow2 -b base -F qcow2 sub/out", Raw),
    ("create -f qcow2 -b inner -F qcow2 sub/out", Raw),
    ("create -f qcow2 -b json:{} -F qcow2 out", Raw),
    (
        "create -f qcow2 -b 'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"base\"}}' -F qcow2 out",
        Qcow2,
    ),
    ("create -f qcow2 -b 'json:{\"driver\":\"qcow2\",\"file.filename\":\"base\"}' out", Raw),
    ("create -f qcow2 -b locked -F qcow2 out", Raw),
    ("create -f qcow2 -b file:base -F qcow2 out", Qcow2),
    ("create -f qcow2 existing 1M", Raw),
    ("create -f raw existing 1M", Raw),
    ("create -f qcow2 link 1M", Raw),
    ("create -f qcow2 readonly 1M", Raw),
];

fn scene() -> Twins {
    let twins = Twins::empty();
    for (_, sandbox) in twins.each() {
        for line in [
            "create -q -f qcow2 base 10M",
            "create -q -f raw disk.raw 3M",
            "create -q -f qcow2 -b base -F qcow2 over 5M",
            "create -q -f qcow2 -u -b gone -F qcow2 broken 5M",
            "create -q --object secret,id=s,data=x -f qcow2 -o encryption=on,encrypt.key-secret=s locked 5M",
            "create -q -f qcow2 existing 7M",
        ] {
            sandbox.reference(line).expect_ok(line);
        }
        std::fs::create_dir(sandbox.file("sub")).expect("a folder");
        sandbox.reference("create -q -f qcow2 sub/inner 2M").expect_ok("sub/inner");
        std::os::unix::fs::symlink("real", sandbox.file("link")).expect("a link");
    }
    twins
}

fn one(line: &str, target: Target, report: &mut Report) {
    let twins = scene();
    let (outcome, mut differences) = twins.run(line);
    differences.extend(twins.same_names(!outcome.ok()));
    for name in ["out", "existing"] {
        if outcome.ok() && line.contains(name) {
            let target = if name == "out" { target } else { Raw };
            differences.extend(oracle::same_target(&twins, name, target));
        }
    }
    if outcome.ok() && target == Raw {
        differences.extend(same_beginning(&twins, "out"));
    }
    report.note(line, differences);
}

/// The first block of raw images is no hole, however empty they are.
fn same_beginning(twins: &Twins, name: &str) -> Vec<String> {
    let line = format!("map -f raw --output=json {name}");
    let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    let [ours, reference] = twins.each().map(|(_, sandbox)| sandbox.reference(&line));
    oracle::differences(&line, &ours, &reference, &first)
}

#[test]
fn every_option_list_with_every_size() {
    require_wording();
    // What sizes do is the same for all lists but the first few.
    let sizes = |index: usize| if index < 4 { SIZES } else { &SIZES[3..] };
    let cases: Vec<_> = LISTS
        .iter()
        .enumerate()
        .flat_map(|(index, list)| sizes(index).iter().map(move |size| (*list, *size)))
        .collect();
    for_all("create, option lists", &cases, |(list, size), report| {
        // Space for 5 GiB is not taken.
        if *size == "5G" && (list.contains("full") || list.contains("falloc") || list.contains("4k")) {
            return;
        }
        one(&format!("create -f qcow2 {list} out {size}"), Qcow2, report);
    });
}

#[test]
fn encrypted_images() {
    require_wording();
    for_all("create, encrypted", ENCRYPTED, |list, report| {
        let list = list.replace("LUKS", LUKS);
        one(&format!("create {SECRET} -f qcow2 {list} out 5M"), Locked, report);
    });
}

#[test]
fn operands_formats_and_backing_files() {
    require_wording();
    for_all("create, lines", LINES, |(line, target), report| one(line, *target, report));
}

/// The reference compares names only, and makes an image that is its own backing file.
#[test]
fn an_image_is_never_made_over_its_own_backing_file() {
    let twins = scene();
    let before = std::fs::read(twins.ours.file("base")).expect("base");
    for line in ["./base", "sub/../base", "other-name"] {
        if line == "other-name" {
            std::fs::hard_link(twins.ours.file("base"), twins.ours.file(line)).expect("a link");
        }
        for backing in ["base", "over"] {
            let outcome =
                twins.ours.run(common::run::Tool::Ours, &format!("create -f qcow2 -b {backing} -F qcow2 {line}"));
            assert_eq!(outcome.code, 1, "{line}: {outcome}");
            assert!(outcome.stderr.contains("same filename as the backing file"), "{line}: {outcome}");
            assert_eq!(std::fs::read(twins.ours.file("base")).expect("base"), before, "{line} destroyed it");
        }
    }
}
