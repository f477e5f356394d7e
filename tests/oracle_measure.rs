//! `measure` of every image kind into every sort of target, and of sizes; byte for byte. And that a conversion fits into
//! what was measured.

mod common;

use common::files::allocated;
use common::kinds::{self, Kind, Open};
use common::oracle::{self, differences};
use common::run::Tool;
use common::{Report, Sandbox, for_all, require_wording, taken};

/// Targets for every kind; `@` stands for the options and the operand that name the image.
const TARGETS: &[&str] = &[
    "@",
    "--output=json -O raw -o preallocation=full @",
    "-O qcow2 @",
    "--output=json -O qcow2 -U @",
    "-O qcow2 -o cluster_size=512 @",
    "-O qcow2 -o cluster_size=4k,refcount_bits=64 @",
    "-O qcow2 -o cluster_size=2M,refcount_bits=1 @",
    "-O qcow2 -o extended_l2=on,cluster_size=16k @",
    "-O qcow2 -o compat=0.10 @",
    "-O qcow2 -o preallocation=metadata @",
    "-O qcow2 -o preallocation=falloc @",
    "-O qcow2 -o backing_file=nothing @",
    "-O qcow2 -o data_file=nothing @",
    "-O qcow2 -l one @",
    "-O qcow2 -l snapshot.id=1 @",
    "-O qcow2 disk",
    "-O qcow2 -f raw disk",
];

fn check(kind: &Kind, report: &mut Report) {
    let targets = TARGETS.iter().filter(|line| taken(&kind.name, line));
    let lines: Vec<_> = targets.map(|line| format!("measure {}", line.replace('@', &kind.operand()))).collect();
    for (line, differences) in oracle::read_only(&kind.folder(), &lines) {
        report.note(&format!("{}: {line}", kind.name), differences);
    }
}

#[test]
fn measure_is_the_same_on_every_kind() {
    require_wording();
    for_all("measure", &kinds::all(), check);
}

/// Option lists, each tried with several sizes.
const LISTS: &[&str] = &[
    "",
    "-o cluster_size=512",
    "-o cluster_size=2M",
    "-o cluster_size=4M",
    "-o cluster_size=3k",
    "-o cluster_size=x",
    "-o cluster_size=4k -o refcount_bits=1",
    "-o refcount_bits=64",
    "-o refcount_bits=3",
    "-o refcount_bits=-1",
    "-o refcount_bits=-18446744073709551608",
    "-o refcount_bits=x",
    "-o compat=0.10",
    "-o compat=0.10,refcount_bits=8",
    "-o compat=1.1",
    "-o compat=v3",
    "-o extended_l2=on",
    "-o extended_l2=on,cluster_size=8k",
    "-o extended_l2=on,compat=0.10",
    "-o extended_l2=on,cluster_size=2M,refcount_bits=32",
    "-o preallocation=off",
    "-o preallocation=metadata",
    "-o preallocation=falloc",
    "-o preallocation=full,cluster_size=1k",
    "-o preallocation=some",
    "-o preallocation=some,compat=some",
    "-o cluster_size=1,preallocation=some",
    "-o backing_file=x",
    "-o backing_file=",
    "-o backing_fmt=x",
    "-o data_file=x,data_file_raw=on",
    "-o compression_type=x",
    "-o lazy_refcounts=on,compat=0.10",
    "-o nocow=on",
    "-o nocow=perhaps",
    "-o extent_size_hint=1M",
    "-o encryption=on",
    "-o encrypt.format=aes",
    "-o encrypt.format=x",
    "-o encrypt.format=luks",
    "-o encrypt.format=luks,encrypt.key-secret=x",
    "-o LUKS",
    "-o LUKS,cluster_size=512",
    "-o LUKS,cluster_size=2M,preallocation=full",
    "-o LUKS,encrypt.cipher-alg=aes-128",
    "-o LUKS,encrypt.cipher-alg=serpent-256,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv",
    "-o LUKS,encrypt.cipher-alg=x",
    "-o LUKS,encrypt.hash-alg=x",
    "-o LUKS,encryption=on",
    "-o nothing=1",
    "-o help",
    "-o ,",
    "-o size=1M",
];

const SIZES: &[&str] = &["0", "1", "513", "1M", "5G", "63T", "7E"];

/// Operands and options in other arrangements.
const LINES: &[&str] = &[
    "",
    "--size 1G",
    "--size 1G --output=json",
    "--size 1G --output json",
    "--size 1G --output xml",
    "--size=1000 -O raw -o preallocation=some",
    "--size=1000 -O raw -o nothing",
    "--size 1 --size 2M",
    "--size -1",
    "--size x",
    "--size 8E",
    "-s 1G",
    "--size 1G disk",
    "disk other",
    "-f raw --size 1",
    "-l x --size 1",
    "--image-opts --size 1",
    "-O qcow2 -o size=1G",
    "-O qcow2 -o size=1G disk",
    "-O qcow2 -o size=7E disk",
    "-O qcow2 -o size=7E --size 1",
    "-O qcow2 -o nothing=1 missing",
    "-O nothing missing",
    "-O nothing disk",
    "-O nothing --size 1",
    "-O file --size 1",
    "-O host_device --size 1",
    "-f nothing disk",
    "-f raw -l x disk",
    "-l x disk",
    "-l snapshot.x=1 disk",
    "--image-opts driver=qcow2,file.filename=disk",
    "--image-opts -f qcow2 disk",
    "-O qcow2 json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"disk\"}}",
    "--o qcow2 disk",
    "--s 1",
    "--f x disk",
    "--target qcow2 --si 1M",
    "--size 1 --object secret,id=s",
    "-O vpc --size 1M",
    "-O vdi disk",
    "-O parallels --size x",
    "-O nbd --size 1M",
    "-O dmg --size 1M",
    "-O vvfat disk",
    "-O null-co --size 1M",
    "-O blkdebug -o size=1 disk",
];

#[test]
fn sizes_options_and_wrong_lines() {
    require_wording();
    let luks = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let mut lines: Vec<String> = LINES.iter().map(|line| format!("measure {line}")).collect();
    for list in LISTS {
        // The reference measures each time for some seconds how fast it is with keys.
        let is_slow = list.contains("LUKS");
        let list = list.replace("LUKS", luks);
        lines.push(format!("measure --output=json -O qcow2 {} {list} disk", kinds::SECRET));
        for size in SIZES.iter().filter(|size| !is_slow || taken(&list, size)) {
            lines.push(format!("measure -O qcow2 {} {list} --size {size}", kinds::SECRET));
        }
    }
    let sandbox = kinds::named("plain").sandbox();
    for_all("sizes", &lines, |line, report| {
        let ours = sandbox.run(Tool::Ours, line);
        let reference = sandbox.reference(line);
        report.note(line, differences(line, &ours, &reference, &|text| text.to_owned()));
    });
}

/// Bitmaps: one inconsistent, two sound; a target of version 2 has none.
#[test]
fn bitmaps_are_measured() {
    require_wording();
    let sandbox = Sandbox::new();
    let script = "qemu-img create -q -f qcow2 disk 5G && qemu-img bitmap --add -g 512 disk fine &&\n\
        qemu-img bitmap --add --disable disk coarse && qemu-img bitmap --add disk broken &&\n\
        qemu-io -c 'write 0 1M' -c abort disk; qemu-img bitmap --add disk last; true";
    sandbox.script(Tool::Reference, script).expect_ok("making bitmaps");
    let mut report = Report::new("bitmaps");
    for list in ["", "-o cluster_size=512", "-o cluster_size=2M", "-o compat=0.10", "-o refcount_bits=1"] {
        let line = format!("measure -O qcow2 {list} disk");
        let (ours, reference) = (sandbox.run(Tool::Ours, &line), sandbox.reference(&line));
        report.note(&line, differences(&line, &ours, &reference, &|text| text.to_owned()));
    }
    report.finish();
}

/// What a conversion writes fits into the measured size, which is what programs make volumes of.
#[test]
fn conversions_fit_into_what_was_measured() {
    require_wording();
    let kinds: Vec<Kind> = kinds::all().into_iter().filter(|kind| kind.open == Open::Qcow2).collect();
    for_all("fit", &kinds, |kind, report| {
        for list in ["", "-o cluster_size=4k", "-o extended_l2=on"] {
            let sandbox = kind.sandbox();
            let measured = sandbox.run(Tool::Ours, &format!("measure -O qcow2 {list} {}", kind.operand()));
            let Some(required) = number(&measured.stdout, "required size: ") else { continue };
            let line = format!("convert -O qcow2 {list} {} out", kind.operand());
            if !sandbox.run(Tool::Ours, &line).ok() {
                continue;
            }
            let (len, space) =
                (sandbox.file("out").metadata().map_or(0, |data| data.len()), allocated(&sandbox.file("out")));
            let text = format!("{required} bytes measured, file of {len} bytes, {space} in use");
            report.note(&format!("{} {list}", kind.name), if len > required { vec![text] } else { Vec::new() });
        }
    });
}

fn number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.parse().ok())
}
