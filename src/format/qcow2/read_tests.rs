//! Reading images that the reference made, compared with what the reference reads out of them.

use std::path::Path;

use crate::format::qcow2::testing::expect;
use crate::image::{ImageSpec, OpenContext, OpenFlags, open_chain};

/// Writes of all sizes over zeros, data, compressed clusters and holes.
const WRITES: &[&str] = &[
    "write -P 1 0 100k",
    "write -P 2 300k 7",
    "write -z 64k 64k",
    "write -z -u 1M 256k",
    "write -P 3 1500k 300k",
    "write -P 4 3000k 513",
    "discard 1600k 64k",
];

fn compare(dir: &Path, options: &str, compressed: bool) {
    let case = format!("options {options:?}, compressed {compressed}");
    let image = dir.join("i.qcow2");
    for name in ["i.qcow2", "o.raw", "d.raw"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
    // Names of data files are taken as they stand, relative to the current folder: an absolute one suits any.
    let options = options.replace("d.raw", dir.join("d.raw").to_str().expect("a plain path"));
    let option = format!("cluster_size=65536,{options}");
    expect(dir, "qemu-img", &["create", "-q", "-f", "qcow2", "-o", option.trim_end_matches(','), "i.qcow2", "5M"]);
    if compressed {
        expect(dir, "qemu-io", &["-c", "write -c -P 9 0 2M", "-c", "write -c -P 7 4M 1M", "i.qcow2"]);
    }
    for write in WRITES {
        expect(dir, "qemu-io", &["-c", write, "i.qcow2"]);
    }
    expect(dir, "qemu-img", &["convert", "-O", "raw", "i.qcow2", "o.raw"]);
    let expected = std::fs::read(dir.join("o.raw")).expect("the reference wrote it");
    let name = image.to_str().expect("a plain path");
    let chain = open_chain(&ImageSpec::name(name, None), OpenFlags::READ, &OpenContext::default());
    let chain = chain.unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(chain.size(), expected.len() as u64, "{case}");
    let mut all = vec![1; expected.len()];
    chain.read(0, &mut all).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert!(all == expected, "{case}: contents differ");
    let mut part = vec![1; 70_001];
    chain.read(299_999, &mut part).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert!(part == expected[299_999..][..70_001], "{case}: an odd range differs");
}

#[test]
fn reads_what_the_reference_wrote() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (options, compressed) in [
        ("", false),
        ("", true),
        ("compat=0.10", true),
        ("cluster_size=512", false),
        ("cluster_size=4096", true),
        ("cluster_size=2M", true),
        ("extended_l2=on", false),
        ("extended_l2=on", true),
        ("extended_l2=on,cluster_size=16k", true),
        ("preallocation=metadata", false),
        ("preallocation=full,extended_l2=on", false),
        ("data_file=d.raw", false),
        ("data_file=d.raw,data_file_raw=on", false),
    ] {
        compare(dir.path(), options, compressed);
    }
}
