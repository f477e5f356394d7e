//! Command lines that are wrong, or unusual but right: standard output, standard error and exit code must be the
//! reference's.

mod common;

use common::oracle::Twins;
use common::{Report, for_all, kinds, require_wording};

/// Wrong at the level of the program. (`--version` and `--help` have tests of their own: they name this program.)
const PROGRAM: &[&str] = &[
    "",
    "nothing",
    "-x",
    "--nothing",
    "-T",
    "-T nothing info disk",
    "-T enable=nothing info disk",
    "'' disk",
    "inf disk",
    "INFO disk",
    "-- info disk",
    "--trace",
    "help",
];

const INFO: &[&str] = &[
    "info",
    "info disk disk",
    "info nowhere",
    "info ''",
    "info -f",
    "info -f nothing disk",
    "info -x disk",
    "info --nothing disk",
    "info --output",
    "info --output=xml disk",
    "info --output= disk",
    "info -f qcow2 -f raw disk",
    "info --out=json disk",
    "info --backing disk",
    "info --o=json disk",
    "info --im disk",
    "info --force disk",
    "info --f disk",
    "info -Uf qcow2 disk",
    "info -fqcow2 disk",
    "info disk -f qcow2",
    "info disk --output json",
    "info -- disk",
    "info -- -f",
    "info --image-opts disk",
    "info --object iothread,id=s disk",
    "info --image-opts driver=nothing,file.filename=disk",
    "info --image-opts driver=qcow2",
    "info --image-opts driver=qcow2,file.filename=disk,nothing=1",
    "info --image-opts driver=qcow2,file.filename=nowhere",
    "info --image-opts -f qcow2 driver=qcow2,file.filename=disk",
    "info --image-opts file.driver=file,file.filename=disk,driver=raw",
    "info --image-opts ''",
    "info --image-opts driver=qcow2,file.filename=disk,lazy-refcounts=maybe",
    "info --image-opts filename=disk",
    "info json:",
    "info json:{}",
    "info json:{x}",
    "info 'json:[1]'",
    "info 'json:{\"driver\":\"raw\"}'",
    "info 'json:{\"driver\":\"nothing\",\"file\":{\"driver\":\"file\",\"filename\":\"disk\"}}'",
    "info 'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"nowhere\"}}'",
    "info 'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"disk\"},\"zap\":1}'",
    "info -f raw 'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"disk\"}}'",
    "info nothing:disk",
    "info file:nowhere",
    "info file://disk",
    "info -f qcow2 raw",
    "info -f raw file:disk",
    "info --object",
    "info --object nothing disk",
    "info --object secret disk",
    "info --object secret,id=s disk",
    "info --object secret,id=s,data=x,file=y disk",
    "info --object secret,id=s,file=nowhere disk",
    "info --object nothing,id=s disk",
    "info --object secret,data=x disk",
    "info --object secret,id=s,data=x,zap=1 disk",
    "info --object secret,id=s,data=x --object secret,id=s,data=y disk",
    "info --object secret,id=0,data=x disk",
    "info --object secret,id=s,format=base64,data=### disk",
    "info --object secret,id=s,format=hex,data=00 disk",
    "info --object secret,id=s,data=x,keyid=k disk",
    "info --object secret,id=s,data=x,keyid=k,iv=AAAA disk",
    "info --object '{\"qom-type\":\"secret\"}' disk",
    "info --object '{' disk",
    "info sub",
    "info -t none disk",
    "info -t nothing disk",
    "info --help=1",
    "info -p disk",
    "info -q disk",
];

const CONVERT: &[&str] = &[
    "convert",
    "convert disk",
    "convert -O qcow2 disk",
    "convert nowhere out",
    "convert -O nothing disk out",
    "convert -f nothing disk out",
    "convert -f",
    "convert -O",
    "convert -o",
    "convert -x disk out",
    "convert --nothing",
    "convert -O qcow2 -o nothing=1 disk out",
    "convert -O qcow2 -o cluster_size disk out",
    "convert -O qcow2 -o cluster_size=1 disk out",
    "convert -O qcow2 -o cluster_size=4M disk out",
    "convert -O qcow2 -o cluster_size=abc disk out",
    "convert -O qcow2 -o cluster_size=64kk disk out",
    "convert -O qcow2 -o cluster_size= disk out",
    "convert -O qcow2 -o size=x disk out",
    "convert -O qcow2 -o compat=0.9 disk out",
    "convert -O qcow2 -o compat disk out",
    "convert -O qcow2 -o preallocation=some disk out",
    "convert -O raw -o preallocation=metadata disk out",
    "convert -O raw -o cluster_size=4k disk out",
    "convert -O qcow2 -o refcount_bits=128 disk out",
    "convert -O qcow2 -o refcount_bits=0 disk out",
    "convert -O qcow2 -o refcount_bits=x disk out",
    "convert -O qcow2 -o compat=0.10,refcount_bits=8 disk out",
    "convert -O qcow2 -o compat=0.10,lazy_refcounts=on disk out",
    "convert -O qcow2 -o lazy_refcounts=maybe disk out",
    "convert -O qcow2 -o compression_type=lzo disk out",
    "convert -O qcow2 -o extended_l2=on,cluster_size=4k disk out",
    "convert -O qcow2 -o data_file_raw=on disk out",
    "convert -O qcow2 -o compat=0.10,data_file=x disk out",
    "convert -O qcow2 -o encrypt.format=nothing disk out",
    "convert -O qcow2 -o encrypt.format=aes disk out",
    "convert -O qcow2 -o encrypt.format=luks,encrypt.key-secret=no disk out",
    "convert -O qcow2 -o encryption=on disk out",
    "convert -O qcow2 -o encryption=on,encrypt.format=luks disk out",
    "convert -O qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=rot13 disk out",
    "convert -O qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-mode=gcm disk out",
    "convert -O qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,encrypt.hash-alg=crc disk out",
    "convert -O qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,encrypt.ivgen-alg=count disk out",
    "convert -O qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=x disk out",
    "convert -c -O qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 disk out",
    "convert -O qcow2 -o backing_file=nowhere disk out",
    "convert -O qcow2 -B nowhere disk out",
    "convert -O raw -B raw -F raw disk out",
    "convert -O raw -o backing_file=raw,backing_fmt=raw disk out",
    "convert -O qcow2 -B raw -F nothing disk out",
    "convert -O qcow2 -F raw disk out",
    "convert -c -O raw disk out",
    "convert -S disk out",
    "convert -S x disk out",
    "convert -S 100 disk out",
    "convert -S -1 disk out",
    "convert -S 3 -O raw disk out",
    "convert -S 1000 -O raw disk out",
    "convert -m 0 disk out",
    "convert -m 17 disk out",
    "convert -m x disk out",
    "convert -m '' disk out",
    "convert -r 0 disk out",
    "convert -r x disk out",
    "convert -r -1 disk out",
    "convert -t nothing disk out",
    "convert -T nothing disk out",
    "convert -W -C -c -O qcow2 disk out",
    "convert -C -c -O qcow2 disk out",
    "convert -C -S 4k disk out",
    "convert -l nothing disk out",
    "convert -l snapshot.name= disk out",
    "convert -l snapshot.zap=1 disk out",
    "convert -l snapshot.id=1,snapshot.name=x disk out",
    "convert -l '' disk out",
    "convert -n disk out",
    "convert -n -o cluster_size=4k -O qcow2 disk out",
    "convert --target-is-zero disk out",
    "convert --target-is-zero -n disk out",
    "convert --image-opts disk out",
    "convert --image-opts -f qcow2 driver=qcow2,file.filename=disk out",
    "convert --target-image-opts disk driver=qcow2,file.filename=out",
    "convert -n --target-image-opts -O qcow2 disk driver=qcow2,file.filename=out",
    "convert -n --target-image-opts disk driver=nothing,file.filename=out",
    "convert -n --target-image-opts disk out",
    "convert --bitmaps -O raw disk out",
    "convert --skip-broken-bitmaps disk out",
    "convert --bitmaps raw out",
    "convert -f raw -O qcow2 --bitmaps raw out",
    "convert -O qcow2 -o help,nothing",
    "convert -o help",
    "convert -O nothing -o help",
    "convert -O qcow2 disk raw sub",
    "convert disk sub/no/out",
    "convert -B raw -n -O qcow2 disk out",
    "convert -f qcow2 -O qcow2 raw out",
    "convert -o cluster_size=4k,,x -O qcow2 disk out",
    "convert -o '' -O qcow2 disk out",
    "convert -o , -O qcow2 disk out",
    "convert -o =1 -O qcow2 disk out",
    "convert -O qcow2 -o size=-1 disk out",
    "convert -O qcow2 -o size=9000000000G disk out",
    "convert --salvage -C disk out",
    "convert --salvage -c -C -O qcow2 disk out",
    "convert -6 disk out",
    "convert -e disk out",
    "convert -s x disk out",
    "convert -O qcow2 disk out -o nowt",
    "convert -l a -l b disk out",
    "convert -p -q --nope",
    "convert disk disk disk",
    "convert -O qcow2 -o nocow=x disk out",
    "convert raw disk -O raw out -l x",
    "convert -B raw -F raw -O qcow2 raw disk out",
    "convert --targ disk out",
    "convert --target-im disk out",
];

const SNAPSHOT: &[&str] = &[
    "snapshot",
    "snapshot disk raw",
    "snapshot nowhere",
    "snapshot -l nowhere",
    "snapshot -l -c x disk",
    "snapshot -c x -c y disk",
    "snapshot -c",
    "snapshot -a disk",
    "snapshot -d",
    "snapshot -a x -d y disk",
    "snapshot -x disk",
    "snapshot --nothing disk",
    "snapshot -l raw",
    "snapshot -c x raw",
    "snapshot -d x raw",
    "snapshot -a x disk",
    "snapshot -d x disk",
    "snapshot -l -l disk",
    "snapshot -l sub",
    "snapshot -c x sub",
    "snapshot -U -l disk",
    "snapshot -ql disk",
    "snapshot -f qcow2 -l disk",
    "snapshot -l -f raw disk",
    "snapshot --image-opts -l disk",
    "snapshot --image-opts -l driver=qcow2,file.filename=nowhere",
    "snapshot --object secret -l disk",
    "snapshot -l disk -q",
    "snapshot --lis disk",
    "snapshot --list disk",
    "snapshot -l --outputs=json disk",
];

/// Lines that ask for help; only exit code and that something is said are compared, for the wording is ours.
const HELP: &[&str] =
    &["--help", "--hel", "-h", "info --help", "info -h", "convert --help", "snapshot -h", "--version", "-V"];

fn check(line: &&str, report: &mut Report) {
    let twins = Twins::of(&kinds::named("plain"));
    for (_, sandbox) in twins.each() {
        std::fs::write(sandbox.file("raw"), [1; 2048]).expect("raw file");
        std::fs::create_dir(sandbox.file("sub")).expect("folder");
    }
    let mut differences = Vec::new();
    let (outcome, found) = twins.run(line);
    differences.extend(found);
    differences.extend(twins.same_names(!outcome.ok()));
    report.note(&format!("`{line}`"), differences);
}

#[test]
fn program_level() {
    require_wording();
    for_all("program", PROGRAM, check);
}

#[test]
fn info_arguments() {
    require_wording();
    for_all("info arguments", INFO, check);
}

#[test]
fn convert_arguments() {
    require_wording();
    for_all("convert arguments", CONVERT, check);
}

#[test]
fn snapshot_arguments() {
    require_wording();
    for_all("snapshot arguments", SNAPSHOT, check);
}

#[test]
fn help_goes_to_standard_output() {
    for_all("help", HELP, |line, report| {
        let twins = Twins::empty();
        let [ours, reference] = twins.each().map(|(tool, sandbox)| sandbox.run(tool, line));
        let mut differences = Vec::new();
        if ours.code != reference.code
            || ours.stdout.is_empty() != reference.stdout.is_empty()
            || !ours.stderr.is_empty()
        {
            differences.push(format!("ours: {ours}\nreference: {reference}"));
        }
        report.note(line, differences);
    });
}

/// What clients look for in `--help` and `--version`.
#[test]
fn help_is_probed() {
    let sandbox = common::Sandbox::new();
    let probes: &[(&str, &str)] = &[
        ("libguestfs", r"qemu-img --help | grep -q '\binfo\b.*-U\b'"),
        ("CloudStack", r"qemu-img --help | grep -q -e '--target-is-zero'"),
        ("cinder", r"qemu-img --version | grep -Eq '^qemu-img version 10\.0\.2'"),
        ("our own name", "qemu-img --version | grep -q 'qemu-img-rs'"),
        ("supported formats", "qemu-img --help | grep -q '^Supported formats:.* qcow2.* raw'"),
    ];
    let mut report = Report::new("probes");
    for (client, probe) in probes {
        let result = sandbox.script(common::run::Tool::Ours, probe);
        report.note(client, if result.ok() { Vec::new() } else { vec![format!("{probe}: {result}")] });
    }
    report.finish();
}

/// An opened `-o help` list is the same; used here to keep the option tables whole.
#[test]
fn option_lists_are_the_same() {
    require_wording();
    let lines = [
        "convert -O qcow2 -o help",
        "convert -O raw -o help",
        "convert -O qcow2 -o ?",
        "convert -O qcow2 -o cluster_size=4k,help",
    ];
    for_all("option lists", &lines, |line, report| {
        let (_, differences) = Twins::empty().run(line);
        report.note(line, differences);
    });
}
