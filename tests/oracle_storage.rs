//! Files, devices, cache modes and locks: both tools say and do the same.

mod common;

use common::files::fingerprint;
use common::oracle::differences;
use common::run::{BOTH, Tool};
use common::{Report, Sandbox, for_all, require_wording};

/// Makes the files that the cases use: data with holes, a length that is no multiple of anything, images, oddities.
const FILES: &str = "
set -e
truncate -s 8M disk.raw
for at in 0 3 700 1500; do
    head -c 9000 /dev/urandom | dd of=disk.raw bs=4k seek=$at conv=notrunc status=none
done
head -c 1000001 /dev/urandom > odd.raw
truncate -s 1M small.raw
qemu-img create -q -f qcow2 base.qcow2 1M
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
mkfifo pipe
mkdir folder
ln -s loop2 loop1; ln -s loop1 loop2
";

/// Runs one command line with both tools in equal folders and compares what they say, and what is left when all went
/// well. `around` is a script in which `@` stands for the command.
fn compare(around: &str, line: &str, report: &mut Report) {
    let source = Sandbox::new();
    source.script(Tool::Reference, FILES).expect_ok("preparing the files");
    let [ours, reference] = BOTH.map(|tool| {
        let sandbox = Sandbox::new();
        let copied = sandbox.script(tool, &format!("cp -a --sparse=always {}/. .", source.path().display()));
        copied.expect_ok("copying the files");
        let outcome = sandbox.script(tool, &around.replace('@', line));
        std::fs::remove_file(sandbox.file("pipe")).expect("the pipe is still there");
        let left = outcome.ok().then(|| fingerprint(sandbox.path()));
        (outcome, left)
    });
    let mut differences = differences(line, &ours.0, &reference.0, &|text| text.to_owned());
    if ours.1 != reference.1 {
        differences.push(format!("ours left {:?}\nreference left {:?}", ours.1, reference.1));
    }
    report.note(line, differences);
}

#[test]
fn files_and_cache_modes() {
    common::files::stay_on_disk();
    require_wording();
    let mut lines = Vec::new();
    for mode in ["none", "off", "writeback", "unsafe", "directsync", "writethrough", "nonsense", "''"] {
        lines.push(format!("qemu-img convert -f raw -O raw -t {mode} disk.raw out"));
        lines.push(format!("qemu-img convert -f raw -O raw -T {mode} odd.raw out"));
        lines.push(format!("qemu-img convert -n -f raw -O raw -t {mode} -T {mode} small.raw disk.raw"));
    }
    let more = [
        "-O raw folder out",
        "-f raw -O raw disk.raw folder",
        "-f raw -O raw missing out",
        "-f raw -O raw disk.raw missing/out",
        "-f raw -n -O raw disk.raw missing",
        "-f raw -O raw disk.raw/x out",
        "-f raw -O raw loop1 out",
        "-f raw -O raw disk.raw loop1",
        "-f raw -O raw '' out",
        "-f raw -O raw disk.raw ''",
        "-f raw -O raw disk.raw pipe",
        "-f raw -O raw -T none /proc/version out",
        "-f raw -O raw disk.raw /dev/full",
        "-f raw -n -O raw disk.raw /dev/null",
        "-f raw -O raw disk.raw disk.raw",
        "-f raw -O raw disk.raw base.qcow2",
        "-f raw -O raw -o preallocation=full odd.raw out",
        "-f raw -O raw -o preallocation=falloc odd.raw out",
        "-f raw -O raw -o preallocation=metadata odd.raw out",
        "-f raw -O raw -o preallocation=nonsense odd.raw out",
        "-f raw -O raw -o nocow=on odd.raw out",
        "-f raw -O raw -o extent_size_hint=4096 odd.raw out",
        "-f raw -O raw -o extent_size_hint=8G odd.raw out",
    ];
    lines.extend(more.map(|line| format!("qemu-img convert {line}")));
    for_all("files and cache modes", &lines, |line, report| compare("@", line, report));
}

#[test]
fn modes_of_new_files() {
    require_wording();
    for umask in ["022", "077", "000"] {
        let modes = BOTH.map(|tool| {
            let sandbox = Sandbox::new();
            let script = format!(
                "umask {umask}; truncate -s 1M in; qemu-img convert -f raw -O raw in new && stat -c %a new; chmod 600 \
                 new; qemu-img convert -f raw -O raw in new && stat -c %a new"
            );
            sandbox.script(tool, &script).expect_ok("converting").stdout
        });
        assert_eq!(modes[0], modes[1], "umask {umask}");
    }
}

#[test]
fn images_in_use() {
    common::files::stay_on_disk();
    require_wording();
    // Keeps an image open in the reference's qemu-io while the command runs.
    let hold = |how: &str| {
        format!(
            "mkfifo ctl; touch said; qemu-io {how} < ctl > said & exec 3> ctl; echo length >&3; \
             until grep -q MiB said; do sleep 0.01; done; @; code=$?; exec 3>&-; wait; rm ctl said; exit $code"
        )
    };
    let commands = [
        "convert -O raw top.qcow2 out",
        "convert -U -O raw top.qcow2 out",
        "convert -f raw -O raw base.qcow2 out",
        "convert -f raw -U -O raw base.qcow2 out",
        "convert -O raw base.qcow2 out",
        "convert -U -O raw base.qcow2 out",
        "convert -f raw -O raw small.raw base.qcow2",
        "convert -f raw -O qcow2 small.raw base.qcow2",
        "convert -f raw -n -O raw small.raw base.qcow2",
        "convert -f raw -n -O qcow2 small.raw base.qcow2",
        "convert -f raw -O raw small.raw out",
        "convert -f raw -n -O raw small.raw disk.raw",
        "info base.qcow2",
        "info -U base.qcow2",
        "info -f raw base.qcow2",
        "info top.qcow2",
        "info --backing-chain top.qcow2",
        "info small.raw",
        "snapshot -l base.qcow2",
        "snapshot -U -l base.qcow2",
        "snapshot -c x base.qcow2 && rm base.qcow2", // dates differ
        "snapshot -U -c x base.qcow2",
        "snapshot -l top.qcow2",
    ];
    let holders = ["-f qcow2 base.qcow2", "-r -f qcow2 base.qcow2", "-f raw small.raw"];
    let mut cases = Vec::new();
    for holder in holders {
        cases.extend(commands.map(|command| (hold(holder), format!("qemu-img {command}"))));
    }
    for_all("images in use", &cases, |(around, line), report| {
        let mut own = Report::new("one case");
        compare(around, line, &mut own);
        report.absorb(own);
    });
}

#[test]
fn devices() {
    common::files::stay_on_disk();
    require_wording();
    let probe = Sandbox::new();
    let attach = "truncate -s 8M disk && dev=$(losetup --find --show disk) && losetup --detach $dev";
    let outcome = probe.script(Tool::Reference, attach);
    if !outcome.ok() {
        println!("not run: this machine has no loop devices for us: {outcome}");
        return;
    }
    let around = |options: &str| {
        format!(
            "head -c 8M /dev/urandom > disk; dev=$(losetup --find --show {options} disk) || exit 99; ln -s $dev dev; \
             @; code=$?; blockdev --flushbufs $dev; losetup --detach $dev; rm dev; exit $code"
        )
    };
    let commands = [
        "-f raw -O raw disk.raw dev",
        "-f raw -O raw odd.raw dev",
        "-f raw -n -O raw odd.raw dev",
        "-f raw -n -t none -T none -O raw odd.raw dev",
        "-f raw -n -t none -T none -O raw disk.raw dev",
        "-f raw -n -t directsync -O raw disk.raw dev",
        "-f raw -n -S 0 -O raw disk.raw dev",
        "-f raw -n -W -m 4 -O raw disk.raw dev",
        "-f raw -O raw -C disk.raw dev",
        "-f raw -O raw dev out",
        "-f raw -O raw -T none dev out",
        "-f raw -O raw dev out -o preallocation=falloc",
        "-f raw -O raw -o preallocation=full small.raw dev",
        "-f raw -O raw -o preallocation=off small.raw dev",
        "-f raw -O qcow2 dev out.qcow2",
        "-f raw -O qcow2 -o preallocation=full small.raw dev",
        "-f raw -O qcow2 -o preallocation=falloc small.raw dev",
    ];
    let mut cases = Vec::new();
    for options in ["", "--sector-size 4096", "--read-only"] {
        cases.extend(commands.map(|command| (around(options), format!("qemu-img convert {command}"))));
    }
    let bigger = "-f raw -O raw big.raw dev";
    for line in [bigger, "-f raw -n -O raw big.raw dev"] {
        cases.push((format!("truncate -s 9M big.raw; {}", around("")), format!("qemu-img convert {line}")));
    }
    for (around, line) in &mut cases {
        // The random content must be the same for both tools.
        *around = around
            .replace("head -c 8M /dev/urandom > disk", "cat disk.raw > disk; printf old >> disk; truncate -s 8M disk");
        // How a qcow2 image is laid out is not the question here.
        if line.ends_with("out.qcow2") {
            *line += " && qemu-img compare -q -f raw -F qcow2 dev out.qcow2 && rm out.qcow2";
            *line = line.replace("qemu-img compare", "/usr/bin/qemu-img compare");
        }
    }
    for_all("devices", &cases, |(around, line), report| compare(around, line, report));
}

#[test]
fn a_full_disk() {
    require_wording();
    let probe = Sandbox::new();
    if !probe.script(Tool::Reference, "mkdir m && mount -t tmpfs -o size=1M none m && umount m").ok() {
        println!("not run: this machine lets us mount nothing");
        return;
    }
    let around = "mkdir full; mount -t tmpfs -o size=2M none full; @; code=$?; umount full; exit $code";
    let lines = [
        "-f raw -O raw odd.raw full/out",
        "-f raw -O raw full.raw full/out",
        "-f raw -O raw -o preallocation=falloc disk.raw full/out",
        "-f raw -O raw -o preallocation=full disk.raw full/out",
        "-f raw -n -S 0 -O raw disk.raw full/out",
    ];
    let prepare = "head -c 6M /dev/zero | tr '\\0' x > full.raw; ";
    // Several workers write at once, so which write finds the disk full is a matter of chance.
    let filter = "2>&1 | sed 's/at byte [0-9]*/at byte N/'";
    let lines = lines.map(|line| format!("set -o pipefail; qemu-img convert {line} {filter}"));
    for_all("a full disk", &lines, |line, report| compare(&format!("{prepare}{around}"), line, report));
    let lines = CROWDED.map(|line| line.replace("OUT", "full/out").replace("DATA", "full/data"));
    for_all("a full disk, create and dd", &lines, |line, report| compare(around, &settled(line), report));
}

/// For 2 MiB of space, or for files of 100 KiB.
const CROWDED: [&str; 18] = [
    "create -f raw OUT 8M",
    "create -f raw -o preallocation=full OUT 8M",
    "create -f raw -o preallocation=falloc OUT 8M",
    "create -f qcow2 OUT 8M",
    "create -f qcow2 OUT 4T",
    "create -f qcow2 -o cluster_size=2M OUT 8M",
    "create -f qcow2 -o preallocation=full OUT 8M",
    "create -f qcow2 -o preallocation=falloc OUT 8M",
    "create -f qcow2 -o preallocation=metadata OUT 8M",
    "create -f qcow2 -o preallocation=metadata,cluster_size=512 OUT 256M",
    "create -f qcow2 -o data_file=DATA OUT 8M",
    "create -f qcow2 -o data_file=DATA,preallocation=full OUT 8M",
    "create -f qcow2 -o data_file=DATA,preallocation=falloc OUT 8M",
    "dd -f raw if=disk.raw of=OUT bs=64k",
    "dd -f raw -O qcow2 if=disk.raw of=OUT bs=1M",
    "dd -f raw -O qcow2 if=odd.raw of=OUT bs=512",
    "dd -f raw if=odd.raw of=OUT bs=64k count=4",
    "dd -f raw -O raw if=disk.raw of=OUT bs=3M skip=1",
];

/// A line of `qemu-img` without what the reference adds when it closes an image that it could not make.
fn settled(line: &str) -> String {
    format!("set -o pipefail; qemu-img {line} 2>&1 | sed '/^qemu-img: Failed to flush the /d'")
}

#[test]
fn a_limit_on_the_size_of_files() {
    require_wording();
    let around = "trap '' XFSZ; ulimit -f 100; @";
    let lines = CROWDED.map(|line| line.replace("OUT", "out").replace("DATA", "data"));
    for_all("a limit on files", &lines, |line, report| compare(around, &settled(line), report));
}

/// The half-made target of a failed conversion does not stay: a new file goes, an old one is left empty.
#[test]
fn nothing_half_made_stays() {
    let sandbox = Sandbox::new();
    if !sandbox.script(Tool::Ours, "mkdir full && mount -t tmpfs -o size=2M none full").ok() {
        println!("not run: this machine lets us mount nothing");
        return;
    }
    let script = "
        head -c 6M /dev/urandom > data; echo old > full/old
        for format in raw qcow2; do
            qemu-img convert -f raw -O $format data full/new 2>/dev/null && echo converted
            test -e full/new && echo 'new stays'
            qemu-img convert -f raw -O $format data full/old 2>/dev/null && echo converted
            test -s full/old && echo 'old is not empty'
        done; true";
    let outcome = sandbox.script(Tool::Ours, script);
    sandbox.script(Tool::Ours, "umount full").expect_ok("unmounting");
    assert_eq!((outcome.stdout.as_str(), outcome.code), ("", 0), "{outcome}");
}
