//! `digest` and `convert --digest`: the same as `sha256sum` of a raw copy, whatever the disk lies in.

mod common;

use std::fs;

use common::run::{Outcome, Tool, program_in};
use common::{Random, Sandbox};

fn ours(sandbox: &Sandbox, line: &str) -> Outcome {
    sandbox.run(Tool::Ours, line)
}

/// The first word of what a successful call prints.
fn word(outcome: Outcome, what: &str) -> String {
    let outcome = outcome.expect_ok(what);
    assert_eq!(outcome.stderr, "", "{what}");
    outcome.stdout.split(' ').next().unwrap_or_default().to_owned()
}

/// Noise with holes in between, some of them long; it ends inside a cluster.
fn write_source(sandbox: &Sandbox, seed: u64) {
    let mut random = Random::new(seed);
    let mut bytes = vec![0; (9 << 20) + 1536];
    for _ in 0..6 {
        let (start, len) = (random.below(8 << 20) as usize, random.below(900 << 10) as usize);
        random.fill(&mut bytes[start..start + len]);
    }
    fs::write(sandbox.file("source"), bytes).expect("source");
}

fn blake3_of(sandbox: &Sandbox, name: &str) -> String {
    blake3::hash(&fs::read(sandbox.file(name)).expect("a raw disk")).to_hex().to_string()
}

fn sha256_of(sandbox: &Sandbox, name: &str) -> String {
    word(program_in(sandbox.path(), "sha256sum", &[name]), "sha256sum")
}

#[test]
fn every_way_to_copy_gives_the_digest_of_the_disk() {
    for seed in [1, 2] {
        let sandbox = Sandbox::new();
        write_source(&sandbox, seed);
        let (sha256, blake3) = (sha256_of(&sandbox, "source"), blake3_of(&sandbox, "source"));
        for options in [
            "-O raw",
            "-O raw -S 0",
            "-O raw -W",
            "-O raw -C",
            "-O qcow2",
            "-O qcow2 -m 1",
            "-O qcow2 -c",
            "-O qcow2 -o extended_l2=on,cluster_size=2M",
            "-O qcow2 -o cluster_size=512",
        ] {
            for (algorithm, wanted) in [("sha256", &sha256), ("blake3", &blake3)] {
                let line = format!("convert --digest {algorithm} -f raw {options} source out");
                let done = ours(&sandbox, &line);
                assert_eq!(done.stdout, format!("{wanted}  out\n"), "{line}: {done}");
                assert_eq!(word(ours(&sandbox, &format!("digest -a {algorithm} out")), &line), *wanted, "{line}");
            }
        }
    }
}

#[test]
fn backing_files_and_snapshots_are_what_the_guest_sees() {
    let sandbox = Sandbox::new();
    write_source(&sandbox, 3);
    ours(&sandbox, "convert -f raw -O qcow2 source base").expect_ok("a base");
    ours(&sandbox, "create -q -f qcow2 -b base -F qcow2 top 20M").expect_ok("an overlay");
    ours(&sandbox, "snapshot -c one top").expect_ok("a snapshot");
    ours(&sandbox, "bench -w -q --pattern 7 -c 9 -s 65536 -S 300000 -f qcow2 top").expect_ok("writing");
    for (snapshot, algorithm) in [("", "sha256"), ("", "blake3"), ("-l one", "sha256"), ("-l one", "blake3")] {
        ours(&sandbox, &format!("convert {snapshot} -f qcow2 -O raw top raw")).expect_ok("a raw copy");
        let wanted = if algorithm == "sha256" { sha256_of(&sandbox, "raw") } else { blake3_of(&sandbox, "raw") };
        let found = word(ours(&sandbox, &format!("digest -a {algorithm} {snapshot} top")), "digest");
        assert_eq!(found, wanted, "{algorithm} {snapshot}");
        let line = format!("convert {snapshot} --digest {algorithm} -O qcow2 -B base -F qcow2 top over");
        assert_eq!(word(ours(&sandbox, &line), &line), wanted, "{line}");
    }
}

#[test]
fn json_names_and_small_disks() {
    let sandbox = Sandbox::new();
    for (name, size) in [("none", 0), ("one", 512), ("piece", 2 << 20), ("more", (2 << 20) + 512), ("hole", 300 << 20)]
    {
        fs::File::create(sandbox.file(name)).and_then(|file| file.set_len(size)).expect("a disk");
        assert_eq!(word(ours(&sandbox, &format!("digest -f raw {name}")), name), sha256_of(&sandbox, name));
        assert_eq!(word(ours(&sandbox, &format!("digest -f raw -a blake3 {name}")), name), blake3_of(&sandbox, name));
    }
    let json = ours(&sandbox, "digest -f raw --output=json one").expect_ok("JSON").stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["filename"], "one");
    assert_eq!(json["algorithm"], "sha256");
    assert_eq!(json["digest"], sha256_of(&sandbox, "one"));
    assert_eq!(json["virtual-size"], 512);
    let wrong = ours(&sandbox, "digest -f raw -a md5 one");
    assert_eq!((wrong.code, wrong.stdout.as_str()), (1, ""), "{wrong}");
    let salvage = ours(&sandbox, "convert --salvage --digest sha256 -f raw one out");
    assert_eq!((salvage.code, sandbox.file("out").exists()), (1, false), "{salvage}");
}

#[test]
fn verification_says_who_read() {
    let sandbox = Sandbox::new();
    write_source(&sandbox, 4);
    for (options, reader) in [("-O qcow2", "qcow2-rs, an independent reader"), ("-O raw", "this program's own reader")]
    {
        let done = ours(&sandbox, &format!("convert --verify -f raw {options} source out")).expect_ok(options);
        assert_eq!((done.stdout, done.stderr), (format!("Verified: read back by {reader}\n"), String::new()));
        let done = ours(&sandbox, &format!("convert -q --verify -f raw {options} source out")).expect_ok(options);
        assert_eq!(done.stdout, "");
    }
}
