//! Zeros are not written where zeros are: conversions into images that exist (`-n`), with what they held before.

mod common;

use std::fs;

use common::files::allocated;
use common::run::Tool;
use common::{Report, Sandbox};

/// What `map --output=json` says of clusters that say of themselves that they are zero.
const ZERO_CLUSTERS: &str = "\"present\": true, \"zero\": true, \"data\": false";

/// A disk of 16 MiB with data in three places.
const SOURCE: &str = "truncate -s 16M source; qemu-io -f raw -c 'write -P 1 1M 64k' -c 'write -P 2 5M 1M' \
                      -c 'write -P 3 15M 300k' source";

fn scene() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.script(Tool::Reference, SOURCE).expect_ok("the source");
    sandbox
}

#[test]
fn an_empty_image_stays_empty_where_the_source_is_zero() {
    let sandbox = scene();
    let mut report = Report::new("zeros into empty images");
    let options = ["", "-o cluster_size=4k", "-o extended_l2=on", "-o compat=0.10", "-o refcount_bits=1"];
    for (options, convert) in options.into_iter().flat_map(|options| ["", "-c", "-W -m 4"].map(|more| (options, more)))
    {
        let mut found = Vec::new();
        sandbox.reference(&format!("create -q -f qcow2 {options} target 16M")).expect_ok("target");
        // A disk of nothing but zeros: not a byte changes.
        let before = fs::read(sandbox.file("target")).expect("target");
        sandbox.script(Tool::Reference, "truncate -s 16M nothing").expect_ok("nothing");
        sandbox.run(Tool::Ours, &format!("convert -n {convert} -f raw -O qcow2 nothing target")).expect_ok("convert");
        if fs::read(sandbox.file("target")).expect("target") != before {
            found.push("an image without data is not what it was before".to_owned());
        }
        // With data, only that.
        sandbox.run(Tool::Ours, &format!("convert -n {convert} -f raw -O qcow2 source target")).expect_ok("convert");
        sandbox.reference("compare -f raw -F qcow2 source target").expect_ok("compare");
        sandbox.reference("check target").expect_ok("check");
        let map = sandbox.reference("map --output=json target").expect_ok("map").stdout;
        if map.contains(ZERO_CLUSTERS) {
            found.push(format!("zeros were written: {map}"));
        }
        report.note(&format!("{options} {convert}"), found);
    }
    report.finish();
}

/// Nothing that was there shows where the source has zeros.
#[test]
fn what_a_target_held_is_gone() {
    let sandbox = scene();
    let mut report = Report::new("zeros over old data");
    let targets = [
        ("raw", "truncate -s 16M target; qemu-io -f raw -c 'write -P 9 0 16M' target"),
        ("qcow2", "qemu-img create -q -f qcow2 target 16M; qemu-io -c 'write -P 9 0 16M' target"),
        (
            "qcow2",
            "qemu-img create -q -f qcow2 target 16M; qemu-io -c 'write -P 9 8M 3000k' -c 'write -z 12M 1M' target",
        ),
        ("qcow2", "qemu-img create -q -f qcow2 -o extended_l2=on target 16M; qemu-io -c 'write -P 9 5M 6k' target"),
        ("qcow2", "truncate -s 16M z; tr '\\0' a < z > a; qemu-img convert -c -f raw -O qcow2 a target"),
        (
            "qcow2",
            "qemu-img create -q -f qcow2 target 16M; qemu-io -c 'write -P 9 0 8M' target; qemu-img snapshot -c s target; qemu-io -c 'write -P 8 4M 8M' target",
        ),
        (
            "qcow2",
            "qemu-img create -q -f qcow2 base 16M; qemu-io -c 'write -P 9 0 16M' base; qemu-img create -q -f qcow2 -b base -F qcow2 target",
        ),
        (
            "qcow2",
            "qemu-img create -q -f qcow2 base 8M; qemu-io -c 'write -P 9 0 8M' base; qemu-img create -q -f qcow2 -b base -F qcow2 target 16M; qemu-io -c 'write -P 7 9M 1M' target",
        ),
        (
            "qcow2",
            "qemu-img create -q -f qcow2 -o data_file=data,data_file_raw=on target 16M; qemu-io -f raw -c 'write -P 9 0 16M' data",
        ),
        ("qcow2", "qemu-img create -q -f qcow2 -o preallocation=metadata target 16M"),
    ];
    for (format, make) in targets {
        let mut found = Vec::new();
        for convert in ["", "-S 64k", "-W"] {
            sandbox.script(Tool::Reference, &format!("rm -f target base data; {make}")).expect_ok(make);
            sandbox.run(Tool::Ours, &format!("convert -n {convert} -f raw -O {format} source target")).expect_ok(make);
            let compared = sandbox.reference(&format!("compare -f raw -F {format} source target"));
            let checked = sandbox.reference(&format!("check -f {format} target"));
            if !compared.ok() || !(checked.ok() || format == "raw") {
                found.push(format!("{convert}: {compared}\n{checked}"));
            }
        }
        report.note(make, found);
    }
    report.finish();
}

/// A raw file gets holes, not zeros.
#[test]
fn zeros_in_a_raw_file_are_holes() {
    let sandbox = scene();
    sandbox.script(Tool::Reference, "head -c 16M /dev/zero | tr '\\0' x > target").expect_ok("target");
    sandbox.run(Tool::Ours, "convert -n -f raw -O raw source target").expect_ok("convert");
    sandbox.reference("compare -f raw -F raw source target").expect_ok("compare");
    let taken = allocated(&sandbox.file("target"));
    assert!(taken <= 2 << 20, "{taken} bytes");
}

/// Bitmaps that record writes are told of zeros, too, as by the reference.
#[test]
fn bitmaps_see_zeros() {
    let [ours, reference] = [Tool::Ours, Tool::Reference].map(|tool| {
        let sandbox = scene();
        let target = "qemu-img create -q -f qcow2 target 16M; qemu-img bitmap --add target b";
        sandbox.script(Tool::Reference, target).expect_ok("target");
        sandbox.run(tool, "convert -n -f raw -O qcow2 source target").expect_ok("convert");
        let map = sandbox.reference("map --output=json target").expect_ok("map").stdout;
        map.contains(ZERO_CLUSTERS)
    });
    assert_eq!((ours, reference), (true, true));
}
