//! Run-time options of nodes: names, and what drives the qcow2 driver. Both tools take and refuse the same, and leave the
//! same.

mod common;

use common::oracle::without_dates;
use common::run::{BOTH, Tool};
use common::{Report, Sandbox, for_all, require_wording};

const FILES: &str = "
set -e
truncate -s 8M zero.raw; cp zero.raw some.raw
head -c 2M /dev/urandom | dd of=some.raw conv=notrunc bs=1M status=none
for o in compat=1.1 compat=0.10 extended_l2=on; do
    qemu-img create -q -f qcow2 -o $o $o 8M
    qemu-io -f qcow2 -c 'write -P 5 0 1M' -c 'write -P 6 4M 1M' $o >/dev/null
done
cp compat=1.1 shared; qemu-img snapshot -c old shared
";

/// Runs a script with both tools and compares what they say and what they leave.
fn compare(source: &Sandbox, script: &str, report: &mut Report) {
    let [ours, reference] = BOTH.map(|tool| {
        let sandbox = Sandbox::new();
        sandbox.script(tool, &format!("cp -a {}/. .", source.path().display())).expect_ok("copying the files");
        let mut outcome = sandbox.script(tool, script);
        outcome.stdout = without_dates(&outcome.stdout);
        let touched =
            ["compat=1.1", "compat=0.10", "extended_l2=on", "shared"].map(|name| match script.contains(name) {
                true => name,
                false => "",
            });
        // Where its clusters lie may differ, and ours leaves alone what read as zeros already.
        let look = "for f in IMAGES; do qemu-img check $f; qemu-img map $f | awk '{ print $1, $2 }'; \
                    qemu-img snapshot -l $f | wc -l; qemu-img convert -O raw $f out.raw; sha256sum out.raw; du -k $f; done 2>&1";
        let left = sandbox.script(Tool::Reference, &look.replace("IMAGES", &touched.join(" "))).stdout;
        (outcome, left)
    });
    let mut differences = Vec::new();
    if ours.0 != reference.0 {
        differences.push(format!("ours: {}\nreference: {}", ours.0, reference.0));
    }
    if ours.1.lines().count() != reference.1.lines().count() {
        differences.push(format!("ours left: {}\nreference left: {}", ours.1, reference.1));
    }
    for (ours, reference) in ours.1.lines().zip(reference.1.lines()) {
        if ours != reference && !alike(ours, reference) {
            differences.push(format!("ours left: {ours}\nreference left: {reference}"));
        }
    }
    report.note(script, differences);
}

/// The order of clusters and the length of the file may differ, and the space taken by a little.
fn alike(ours: &str, reference: &str) -> bool {
    let same_start = |word: &str| ours.starts_with(word) && reference.starts_with(word);
    let size = |line: &str| line.split_whitespace().next().and_then(|size| size.parse::<i64>().ok());
    match (size(ours), size(reference)) {
        (Some(a), Some(b)) if ours.split_whitespace().count() == 2 => (a - b).abs() <= 256,
        _ => same_start("Image end offset") || ours.contains("fragmented") && reference.contains("fragmented"),
    }
}

fn check(title: &'static str, scripts: Vec<String>) {
    require_wording();
    let source = Sandbox::new();
    source.script(Tool::Reference, FILES).expect_ok("preparing the files");
    let scripts: Vec<_> = scripts.into_iter().filter(|script| common::taken(title, script)).collect();
    for_all(title, &scripts, |script, report| compare(&source, script, report));
}

#[test]
fn names_of_nodes() {
    let options = [
        "driver=qcow2,node-name=a,file.driver=file,file.node-name=a,file.filename=F",
        "driver=qcow2,node-name=a,file.driver=file,file.node-name=b,file.filename=F",
        "driver=qcow2,file=x",
        "driver=qcow2,node-name=a,file=a",
        "driver=qcow2,node-name=a,file.node-name=b,file.filename=F,backing=a",
        "driver=qcow2,node-name=#a,file.filename=F",
        "driver=qcow2,node-name=,file.filename=F",
        "driver=qcow2,node-name=a23456789012345678901234567890123,file.filename=F",
        "driver=raw,file.driver=qcow2,file.node-name=x,file.file.node-name=x,file.file.filename=F",
        "driver=qcow2,node-name=x,file.node-name=x,file.filename=missing",
        "driver=qcow2,file.filename=F,backing.driver=raw,backing.node-name=b,backing.file.filename=zero.raw,file.node-name=b",
        "driver=qcow2,file.filename=F,backing=zz",
    ];
    let mut scripts = Vec::new();
    for options in options {
        let options = options.replace('F', "compat=1.1");
        scripts.push(format!("qemu-img convert -O raw --image-opts '{options}' out.raw"));
        scripts.push(format!("qemu-img info --image-opts '{options}' | head -3"));
        scripts.push(format!("qemu-img snapshot -c s --image-opts '{options}'"));
    }
    // Names of one command share one room; they are free again when the image is closed.
    let named = "driver=qcow2,node-name=a,file.filename=compat=1.1";
    scripts.push(format!("qemu-img convert -O raw --image-opts {named} {named} out.raw"));
    scripts.push(format!(
        "qemu-img convert -n --image-opts {named} --target-image-opts driver=qcow2,node-name=a,file.filename=shared"
    ));
    scripts.push(format!(
        "qemu-img convert -n --image-opts {named} --target-image-opts driver=qcow2,node-name=b,file.filename=shared"
    ));
    check("names of nodes", scripts);
}

#[test]
fn options_of_qcow2() {
    let values = [
        "discard-no-unref=true",
        "discard-no-unref=x",
        "discard-no-unref=on,lazy-refcounts=on",
        "discard=unmap,discard-no-unref=on",
        "lazy-refcounts=on",
        "lazy-refcounts=1",
        "pass-discard-request=on",
        "pass-discard-request=off",
        "discard=unmap,pass-discard-request=off",
        "discard=unmap,discard-no-unref=on,pass-discard-request=off",
        "pass-discard-snapshot=off",
        "pass-discard-other=on",
        "pass-discard-other=maybe",
        "overlap-check=all",
        "overlap-check=none",
        "overlap-check=foo",
        "overlap-check.template=cached",
        "overlap-check=all,overlap-check.template=none",
        "overlap-check.inactive-l2=on",
        "overlap-check.foo=on",
        "cache-size=1M",
        "cache-size=0",
        "cache-size=9E",
        "l2-cache-size=-1",
        "l2-cache-size=9E",
        "refcount-cache-size=9E",
        "cache-size=1M,l2-cache-size=2M",
        "cache-size=1M,l2-cache-size=512k,refcount-cache-size=512k",
        "l2-cache-entry-size=4k",
        "l2-cache-entry-size=128k",
        "cache-clean-interval=600",
        "cache-clean-interval=5000000000",
        "detect-zeroes=unmap,discard=unmap,discard-no-unref=true",
    ];
    let mut scripts = Vec::new();
    for value in values {
        for image in ["compat=1.1", "compat=0.10", "shared"] {
            let target = format!("driver=qcow2,file.filename={image},{value}");
            if value.contains("discard-no-unref") {
                // With snapshots the reference destroys what they hold; see below.
                if image != "shared" {
                    scripts.push(format!("qemu-img convert -n -f raw zero.raw --target-image-opts {target}"));
                }
                continue;
            }
            scripts.push(format!(
                "qemu-img convert -n -f raw some.raw --target-image-opts {target} && \
                 qemu-img snapshot -c one --image-opts {target} && \
                 qemu-img convert -n -f raw zero.raw --target-image-opts {target} && \
                 qemu-img snapshot -d one --image-opts {target}"
            ));
        }
        let target = format!("driver=qcow2,file.filename=extended_l2=on,{value}");
        scripts.push(format!("qemu-img convert -n -f raw zero.raw --target-image-opts {target}"));
    }
    check("options of qcow2", scripts);
}

/// With `discard-no-unref` the reference gives back the space of clusters that a snapshot shares, too.
#[test]
fn snapshots_survive_discard_no_unref() {
    let sandbox = Sandbox::new();
    sandbox.script(Tool::Reference, FILES).expect_ok("preparing the files");
    let script = "
set -e
qemu-img convert -l old -O raw shared before.raw
qemu-img convert -n -f raw zero.raw --target-image-opts driver=qcow2,file.filename=shared,discard-no-unref=true
qemu-img convert -l old -O raw shared after.raw
cmp before.raw after.raw
qemu-img convert -O raw shared now.raw
cmp zero.raw now.raw
";
    sandbox.script(Tool::Ours, script).expect_ok("the snapshot is as it was");
    let checked = sandbox.script(Tool::Reference, "qemu-img check shared").expect_ok("checking");
    assert!(checked.stdout.contains("No errors"), "{checked}");
}

#[test]
fn odd_numbers_at_creation() {
    let mut scripts = Vec::new();
    let luks = "--object secret,id=s,data=abc -f raw -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s";
    // How many rounds a machine can do is another number every time.
    for number in ["-1", "-5", "-9223372036854775809", "-18446744073709551616", "9223372036854775807", "x", "1.5", ""] {
        scripts.push(format!(
            "qemu-img convert {luks},encrypt.iter-time={number} zero.raw out 2>&1 | sed 's/iterations [0-9]*/iterations N/'"
        ));
    }
    for option in ["refcount_bits=-1", "refcount_bits=-18446744073709551600", "refcount_bits=0", "refcount_bits=3"] {
        scripts.push(format!("qemu-img convert -f raw -O qcow2 -o {option} zero.raw out"));
    }
    for hint in ["abc", "-1", "1", "8G", "0"] {
        scripts.push(format!("qemu-img convert -f raw -O qcow2 -o extent_size_hint={hint} zero.raw out"));
    }
    check("odd numbers", scripts);
}
