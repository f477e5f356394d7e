//! `convert -c -o compression_level=...`: what is written reads back, in the reference too; harder levels give smaller
//! files; what cannot be is refused before anything is touched.

mod common;

use std::fs;

use common::run::{Outcome, Tool};
use common::{Random, Sandbox};

fn ours(sandbox: &Sandbox, line: &str) -> Outcome {
    sandbox.run(Tool::Ours, line)
}

/// A disk that compresses, the better the harder one tries: words in random order, and a hole.
fn write_source(sandbox: &Sandbox) {
    let mut random = Random::new(11);
    let words: Vec<String> = (0..700).map(|_| format!("w{:x} ", random.below(1 << 20))).collect();
    let mut text = String::new();
    while text.len() < 8 << 20 {
        text.push_str(&words[random.below(700) as usize]);
    }
    text.truncate(8 << 20);
    let mut bytes = text.into_bytes();
    bytes.resize(9 << 20, 0);
    fs::write(sandbox.file("source"), bytes).expect("source");
}

#[test]
fn harder_levels_give_smaller_files_that_everybody_reads() {
    for kind in ["zlib", "zstd"] {
        let sandbox = Sandbox::new();
        write_source(&sandbox);
        let content = |level: &str| {
            let level = if level.is_empty() { String::new() } else { format!(",compression_level={level}") };
            let line = format!("convert -f raw -O qcow2 -c -o compression_type={kind}{level} source out");
            ours(&sandbox, &line).expect_ok(&line);
            sandbox.reference("compare -f raw -F qcow2 source out").expect_ok(&line);
            sandbox.reference("check -f qcow2 out").expect_ok(&line);
            fs::read(sandbox.file("out")).expect("target")
        };
        let [fast, default, best] = ["fast", "default", "best"].map(content);
        assert!(
            best.len() < default.len() && best.len() < fast.len() && fast != default,
            "{kind}: the best is not the smallest"
        );
        assert!(fast == content("1"), "{kind}: fast is the first level");
        assert!(default == content(""), "{kind}: the default is what there is without the option");
        assert!(best == content(if kind == "zlib" { "12" } else { "22" }), "{kind}: best is the last level");
    }
}

#[test]
fn an_existing_target_takes_a_level_too() {
    let sandbox = Sandbox::new();
    write_source(&sandbox);
    let content = |level: &str| {
        ours(&sandbox, "create -q -f qcow2 out 9M").expect_ok("a target");
        let line = format!("convert -n -f raw -O qcow2 -c -o compression_level={level} source out");
        ours(&sandbox, &line).expect_ok(&line);
        sandbox.reference("compare -f raw -F qcow2 source out").expect_ok(&line);
        fs::read(sandbox.file("out")).expect("target")
    };
    let (best, fast) = (content("best"), content("fast"));
    assert!(best != fast && best.len() <= fast.len());
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_touched() {
    let cases = [
        ("convert -O qcow2 -c -o compression_level=13", "zlib has levels 1 to 12"),
        ("convert -O qcow2 -c -o compression_level=0", "zlib has levels 1 to 12"),
        ("convert -O qcow2 -c -o compression_type=zstd,compression_level=23", "zstd has levels 1 to 22"),
        ("convert -O qcow2 -c -o compression_level=most", "'fast', 'default', 'best' or a number, not 'most'"),
        ("convert -O qcow2 -o compression_level=fast", "no effect without -c"),
        ("convert -O raw -c -o compression_level=fast", "Compression not supported for this file format"),
        ("convert -n -O qcow2 -c -o compression_level=13", "zlib has levels 1 to 12"),
        ("convert -n -O qcow2 -c -o compression_level=fast,compat=v3", "-o has no effect when skipping image creation"),
    ];
    for (line, message) in cases {
        let sandbox = Sandbox::new();
        write_source(&sandbox);
        ours(&sandbox, "create -q -f qcow2 out 9M").expect_ok("a target");
        let before = fs::read(sandbox.file("out")).expect("target");
        let done = ours(&sandbox, &format!("{line} -f raw source out"));
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{line}: {done}");
        assert!(done.stderr.contains(message), "{line}: {done}");
        assert!(before == fs::read(sandbox.file("out")).expect("target"), "{line}: the target was touched");
    }
    let sandbox = Sandbox::new();
    for line in ["create -f qcow2 -o compression_level=1 out 1M", "measure -O qcow2 --size 1M -o compression_level=1"] {
        let done = ours(&sandbox, line);
        assert_eq!(done.code, 1, "{done}");
        assert!(done.stderr.contains("Invalid parameter 'compression_level'\n"), "{done}");
        assert!(done.stderr.contains("it goes with 'convert -c'"), "{done}");
        assert!(!sandbox.file("out").exists());
    }
}
