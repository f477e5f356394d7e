//! Conversions into streams and out of them: the reference reads the results, and finds them whole.

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use common::files::allocated;
use common::kinds::{self, Open};
use common::run::{Outcome, Tool, ours_path};
use common::{Random, Sandbox, for_all, taken};

const SECRET: &str = "--object secret,id=s,data=hunter2";

fn ours(sandbox: &Sandbox, script: &str) -> Outcome {
    sandbox.script(Tool::Ours, &format!("set -o pipefail\n{script}"))
}

/// What the reference says against a qcow2 image that shall hold what `source`, an option string, holds.
fn wrong(sandbox: &Sandbox, source: &str, image: &str) -> Vec<String> {
    let target = format!("driver=qcow2,file.filename={image}");
    let locked = format!("driver=qcow2,encrypt.key-secret=s,file.filename={image}");
    let info = sandbox.reference(&format!("info {image}"));
    let target = if info.stdout.contains("encrypted: yes") { locked } else { target };
    let check = sandbox.reference(&format!("check {SECRET} --image-opts {target}"));
    let compare = sandbox.reference(&format!("compare {SECRET} --image-opts {source} {target}"));
    let failed = |outcome: &&Outcome| outcome.code != 0;
    [&check, &compare].into_iter().filter(failed).map(|outcome| format!("{image}: {outcome}")).collect()
}

/// A raw disk: noise, zeros that are stored, holes; it ends inside a cluster.
fn write_disk(sandbox: &Sandbox, name: &str, size: u64) {
    let file = File::create(sandbox.file(name)).expect("a disk");
    file.set_len(size).expect("a disk");
    let mut random = Random::new(size);
    let mut noise = vec![0; 200_000];
    for at in [0, 5 << 20, (9 << 20) - 700, 1023 << 20, (1090 << 20) + 512] {
        random.fill(&mut noise);
        if at + 300_000 < size {
            file.write_all_at(&noise, at).expect("a disk");
            file.write_all_at(&[0; 100_000], at + 200_000).expect("a disk");
        }
    }
    file.write_all_at(&noise[..512], size - 512).expect("a disk");
}

/// Options of targets that decide about the layout.
const TARGETS: [&str; 12] = [
    "",
    "-S 0",
    "-S 4k",
    "-o compat=0.10",
    "-o cluster_size=512",
    "-o cluster_size=512,refcount_bits=64",
    "-o cluster_size=2M",
    "-o extended_l2=on,cluster_size=16k",
    "-o refcount_bits=1,lazy_refcounts=on",
    "-o compression_type=zstd,cluster_size=4k",
    "-o encrypt.format=aes,encrypt.key-secret=s",
    "-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
];

#[test]
fn every_kind_of_image_becomes_a_stream() {
    let cases: Vec<_> = kinds::all()
        .into_iter()
        .filter(|kind| kind.open != Open::Broken)
        .zip((0..).map(|number| TARGETS[number % TARGETS.len()]))
        .filter(|(kind, _)| taken(&kind.name, "stream"))
        .collect();
    for_all("kinds into streams", &cases, |(kind, options), report| {
        let sandbox = kind.sandbox();
        let secret = if kind.open == Open::Locked { "" } else { SECRET };
        let convert = |options: &str| format!("qemu-img convert {secret} {} {options}", kind.operand());
        let line = convert(&format!("-O qcow2 {options}"));
        // All bytes of an empty disk of 8 TiB are too many.
        let raw = if kind.name.contains("huge") { "true".into() } else { convert("-O raw - | cat >out.raw") };
        let script = format!("{line} - | cat >out.qcow2 && {line} - -m 1 | cmp - out.qcow2 && {raw}");
        // Two keys, or salts, are never the same.
        let script =
            if options.contains("luks") { script.replace("cmp - out.qcow2", "cat >/dev/null") } else { script };
        let done = ours(&sandbox, &script);
        let mut found = Vec::new();
        if (done.code, done.stderr.as_str()) != (0, "") {
            found.push(format!("{script}: {done}"));
        } else {
            found.extend(wrong(&sandbox, &kind.image_opts(), "out.qcow2"));
            if sandbox.file("out.raw").exists() {
                found.extend(wrong(&sandbox, "driver=raw,file.filename=out.raw", "out.qcow2"));
            }
        }
        report.note(&format!("{} {options}", kind.name), found);
    });
}

#[test]
fn every_layout_holds_the_disk() {
    for_all("layouts", &TARGETS, |options, report| {
        let sandbox = Sandbox::new();
        write_disk(&sandbox, "disk", (12 << 20) + 1536);
        let line = format!("qemu-img convert {SECRET} -f raw -O qcow2 {options}");
        let done = ours(
            &sandbox,
            &format!(
                "mkfifo fifo; {line} disk /dev/stdout | cat >out; cat fifo >other & {line} -m 5 disk fifo && wait
                 {line} --digest sha256 disk - 2>said >third; sha256sum disk >>said; cut -c1-64 said | uniq | wc -l"
            ),
        );
        let mut found = Vec::new();
        if (done.code, done.stdout.trim(), done.stderr.as_str()) != (0, "1", "") {
            found.push(done.to_string());
        }
        found.extend(wrong(&sandbox, "driver=raw,file.filename=disk", "out"));
        for image in ["other", "third"] {
            if options.contains("luks") {
                // Each has a key of its own.
                found.extend(wrong(&sandbox, "driver=raw,file.filename=disk", image));
            } else if fs::read(sandbox.file("out")).expect("out") != fs::read(sandbox.file(image)).expect("another") {
                found.push(format!("{image} has other bytes"));
            }
        }
        report.note(options, found);
    });
}

#[test]
fn zeros_are_looked_for_where_that_is_asked_for() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.file("disk"), vec![0; 8 << 20]).expect("a disk");
    let sizes = ["", "-S 64k", "-S 0"].map(|option| {
        ours(&sandbox, &format!("qemu-img convert -f raw -O qcow2 {option} disk - | cat >out")).expect_ok(option);
        assert_eq!(wrong(&sandbox, "driver=raw,file.filename=disk", "out"), Vec::<String>::new());
        fs::metadata(sandbox.file("out")).expect("out").len()
    });
    // Header, refcount table, refcount block, L1 table; and L2 table and data.
    assert_eq!(sizes, [5 * 65536 + (8 << 20), 4 * 65536, 5 * 65536 + (8 << 20)]);
}

#[test]
fn overlays() {
    let sandbox = Sandbox::new();
    let setup = "
        qemu-img create -q -f qcow2 base 5M; qemu-io -f qcow2 -c 'write -P 1 0 4M' -c 'write -P 2 5000k 100k' base >&2
        qemu-img create -q -f qcow2 -b base -F qcow2 top 9M
        qemu-io -f qcow2 -c 'write -P 3 1M 10k' -c 'write -z 2M 200k' -c 'write -z 3000k 1k' -c 'write -P 4 6M 70k' top >&2
        qemu-img create -q -f qcow2 -b base -F qcow2 -o extended_l2=on,cluster_size=128k fine 7M
        qemu-io -f qcow2 -c 'write -P 3 1M 4k' -c 'write -z 1100k 8k' -c 'write -P 4 3333k 1k' fine >&2";
    sandbox.script(Tool::Reference, setup).expect_ok("images");
    for source in ["top", "fine", "base"] {
        for options in ["", "-o cluster_size=4k", "-o compat=0.10", "-o extended_l2=on", "-S 4k", "-S 0"] {
            let line = format!("qemu-img convert -f qcow2 -O qcow2 {options} -B base -F qcow2 {source} - | cat >out");
            ours(&sandbox, &line).expect_ok(&line);
            let found = wrong(&sandbox, &format!("driver=qcow2,file.filename={source}"), "out");
            assert!(found.is_empty(), "{line}: {found:?}");
            let info = sandbox.reference("info out").stdout;
            assert!(info.contains("backing file: base"), "{line}: {info}");
        }
    }
    // What the overlay does not have stays in the backing file.
    ours(&sandbox, "qemu-img convert -f qcow2 -O qcow2 -B base -F qcow2 top - | cat >out").expect_ok("an overlay");
    let size = fs::metadata(sandbox.file("out")).expect("out").len();
    assert!(size < 12 * 65536, "{size}");
}

#[test]
fn a_raw_disk_comes_through_a_pipe() {
    let options = [
        "",
        "-c",
        "-c -m 7",
        "-m 1",
        "-W",
        "-S 0",
        "-c -o compression_type=zstd",
        "-o compat=0.10",
        "-o cluster_size=2M",
        "-c -o cluster_size=512k",
        "-o extended_l2=on",
        "-o data_file=data",
        "-o encrypt.format=aes,encrypt.key-secret=s",
        "-t none",
    ];
    for_all("out of pipes", &options, |options, report| {
        let sandbox = Sandbox::new();
        let mut found = Vec::new();
        for size in [512, 2 << 20, (12 << 20) + 1536, 1100 << 20] {
            // Targets grow to 1 GiB at first.
            if size > 1 << 30 && !["", "-c -m 7"].contains(options) {
                continue;
            }
            write_disk(&sandbox, "disk", size);
            let line = format!("cat disk | qemu-img convert {SECRET} -f raw {options}");
            let mut script =
                format!("rm -f out data; {line} -O qcow2 - out && {line} --digest blake3 -O qcow2 - again");
            if !options.contains("-c") && !options.contains("-o") {
                script += &format!(" && {line} -O raw - raw && cmp disk raw");
            }
            let done = ours(&sandbox, &script);
            if done.code != 0 || !done.stderr.is_empty() || done.stdout.len() != 64 + "  again\n".len() {
                found.push(format!("{size}: {script}: {done}"));
                continue;
            }
            found.extend(wrong(&sandbox, "driver=raw,file.filename=disk", "out"));
            let same = fs::read(sandbox.file("out")).expect("out") == fs::read(sandbox.file("again")).expect("again");
            if !same && !options.contains("-W") && !options.contains("data_file") {
                found.push(format!("{size}: two runs give other bytes"));
            }
            let digest = sandbox.run(Tool::Ours, "digest -a blake3 -f raw disk").stdout;
            if digest[..64] != done.stdout[..64] {
                found.push(format!("{size}: {} is not {digest}", done.stdout));
            }
            if !options.contains("-S") && allocated(&sandbox.file("out")) > (16 << 20) {
                found.push(format!("{size}: zeros take space"));
            }
        }
        report.note(options, found);
    });
}

#[test]
fn names_of_streams() {
    let sandbox = Sandbox::new();
    write_disk(&sandbox, "disk", 3 << 20);
    let same = "qemu-img compare -f raw -F qcow2 disk out >&2 && rm out";
    let script = [
        "mkfifo fifo",
        "cat disk | qemu-img convert -f raw -O qcow2 /dev/stdin out && SAME",
        "cat disk >fifo & qemu-img convert -f raw -O qcow2 fifo out && SAME",
        "qemu-img convert -f raw -O qcow2 - out <disk && SAME",
        "qemu-img convert -f raw -O qcow2 <(cat disk) out && SAME",
        "qemu-img convert -f raw -O qcow2 disk - >out && SAME",
        "qemu-img convert -f raw -O qcow2 disk /dev/fd/1 | cat >out && SAME",
        "qemu-img convert -f raw -O raw disk - | cmp - disk",
        "cat disk | qemu-img convert -f raw -O raw - - | cmp - disk",
        "head -c 1000 disk | qemu-img convert -f raw - - | wc -c | grep -qx 1024",
        "qemu-img convert -f raw -p -O qcow2 disk - 2>said >out && SAME && grep -q '(100.00/100%)' said",
        // An existing target: as large as the stream, or larger, of which the rest stays.
        "truncate -s 3M same; cat disk | qemu-img convert -n -f raw -O raw - same && cmp disk same",
        "head -c 4M /dev/zero | tr '\\0' x >more; tail -c 1M more >rest; cat disk | qemu-img convert -n -f raw -O raw - more \
         && cmp -n 3145728 disk more && tail -c 1M more | cmp - rest",
        // A file of that name, where there is no stream, is what it ever was.
        "cp disk ./-; qemu-img convert -f raw -O qcow2 - out </dev/null && SAME",
        "qemu-img convert -f raw -O qcow2 - out <&- && SAME && rm ./-",
        "qemu-img convert -f raw -O qcow2 disk - >/dev/null && mv ./- out && SAME",
        "qemu-img convert -f raw -O qcow2 disk - >&- && mv ./- out && SAME",
        "qemu-img convert -f raw -O qcow2 disk ./- && mv ./- out && SAME",
        "true",
    ];
    let script = format!("set -e\n{}", script.join("\n").replace("SAME", same));
    let done = ours(&sandbox, &script).expect_ok("names");
    assert_eq!(done.stdout, "");
}

#[test]
fn what_streams_cannot_do_is_said() {
    let sandbox = Sandbox::new();
    write_disk(&sandbox, "disk", 3 << 20);
    sandbox.reference("create -q -f qcow2 image 1M").expect_ok("an image");
    fs::write(sandbox.file("named"), "").expect("a file");
    let cases = [
        // Into one.
        ("convert -c -f raw -O qcow2 disk -", "write it to a file, or compress the stream"),
        ("convert --bitmaps -f raw -O qcow2 disk -", "Bitmaps cannot be written to a stream"),
        ("convert --verify -f raw -O qcow2 disk -", "--verify cannot read a stream back"),
        ("convert -C -f raw -O raw disk -", "Cannot use copy offloading with a stream"),
        ("convert -W -f raw -O raw disk -", "without -W"),
        ("convert -t none -f raw -O raw disk -", "have no meaning for a stream"),
        ("convert -t nonsense -f raw -O raw disk -", "Invalid cache option: nonsense"),
        ("convert -f raw -O qcow2 -o preallocation=full disk -", "Option 'preallocation' has no meaning"),
        ("convert -f raw -O qcow2 -o data_file=x disk -", "Option 'data_file' has no meaning"),
        ("convert -f raw -O raw -o nocow=on disk -", "Option 'nocow' has no meaning"),
        ("convert -f raw -O qcow2 -o cluster_size=3 disk -", "Cluster size must be a power of two"),
        ("convert -f raw -O vmdk disk -", "vmdk"),
        ("convert -f raw -O qcow2 -B missing -F qcow2 disk -", "Could not open 'missing'"),
        ("convert -f raw -O qcow2 - -", "cannot be made of a stream and be a stream itself"),
        ("convert -n -f raw -O raw disk -", "No such file or directory"),
        // Out of one.
        ("convert -O raw - out", "say '-f raw'"),
        ("convert -f qcow2 -O raw - out", "say '-f raw'"),
        ("convert -f raw -O raw - disk out", "A stream cannot be joined"),
        ("convert --verify -f raw -O qcow2 - out", "--verify cannot read a stream a second time"),
        ("convert --salvage -f raw -O qcow2 - out", "--salvage has no meaning"),
        ("convert -l x -f raw -O qcow2 - out", "A stream has no snapshots"),
        ("convert --bitmaps -f raw -O qcow2 - out", "A stream has no bitmaps"),
        ("convert -C -f raw -O raw - out", "Cannot use copy offloading with a stream"),
        ("convert -T none -f raw -O raw - out", "have no meaning for a stream"),
        ("convert -f raw -O qcow2 -B image -F qcow2 - out", "cannot be laid over a backing file"),
        ("convert -f raw -O qcow2 -o backing_file=image,backing_fmt=qcow2 - out", "cannot be laid over a backing file"),
        ("convert -f raw -O qcow2 -o preallocation=metadata - out", "nothing can be preallocated"),
        ("convert -f raw -O raw -o preallocation=falloc - out", "nothing can be preallocated"),
        ("convert -f raw -O qcow2 -o data_file=x,data_file_raw=on - out", "there can be no 'data_file_raw'"),
        ("convert -n -f raw -O qcow2 - image", "output file is smaller than input file"),
    ];
    let before = common::files::names(sandbox.path());
    for (line, wanted) in cases {
        let done = ours(&sandbox, &format!("cat disk | qemu-img {line} | wc -c; exit ${{PIPESTATUS[1]}}"));
        assert_eq!((done.code, done.stdout.trim()), (1, "0"), "{line}: {done}");
        assert!(done.stderr.contains(wanted), "{line}: {done}");
        assert_eq!(common::files::names(sandbox.path()), before, "{line}");
    }
    let further = [
        (": | qemu-img convert -f raw -O raw - out", "there is nothing to read"),
        ("cp disk ./-; cat disk | qemu-img convert -f raw -O raw - out; c=$?; rm ./-; exit $c", "Say '/dev/stdin'"),
        ("qemu-img convert --progress-fd 1 -f raw -O raw disk -", "Progress cannot go where the image goes"),
        ("qemu-img convert -f raw -O raw disk - >>disk", "'disk' is standard output as well"),
        (
            "qemu-img convert -f raw -O raw - disk <disk; c=$?; test -s disk; exit $c",
            "'disk' is standard input as well",
        ),
        ("qemu-img convert -n -f raw -O raw - disk <>disk", "'disk' is standard input as well"),
        ("qemu-img convert -f raw -O qcow2 -o data_file=disk - out <disk", "'disk' is standard input as well"),
        ("qemu-img convert -f raw -O raw - out </dev/null", "No such file or directory"),
    ];
    for (script, wanted) in further {
        let done = ours(&sandbox, script);
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{script}: {done}");
        assert!(done.stderr.contains(wanted), "{script}: {done}");
        assert_eq!(common::files::names(sandbox.path()), before, "{script}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_it() {
    let sandbox = Sandbox::new();
    write_disk(&sandbox, "disk", 100 << 20);
    for format in ["raw", "qcow2 -S 0"] {
        let script = format!(
            "qemu-img convert -m 4 -f raw -O {format} disk - | head -c 100000 | wc -c; echo ${{PIPESTATUS[0]}}"
        );
        let done = sandbox.script(Tool::Ours, &script);
        assert_eq!(done.stdout, "100000\n1\n", "{format}: {done}");
        assert_eq!(done.stderr, "qemu-img: Could not write to standard output: Broken pipe\n", "{format}");
    }
    // Whoever is ended while it waits for more leaves no target.
    let script =
        "{ head -c 3M disk; sleep 3; } | timeout 1 qemu-img convert -f raw -O qcow2 - out; echo ${PIPESTATUS[1]}; ls";
    assert_eq!(sandbox.script(Tool::Ours, script).stdout, "124\ndisk\n");
}

#[test]
fn memory_is_bounded() {
    let sandbox = Sandbox::new();
    let disk = File::create(sandbox.file("disk")).expect("a disk");
    disk.set_len(15 << 40).expect("a sparse disk");
    for number in 0..200 {
        disk.write_all_at(&[7; 4096], number * ((15 << 40) / 200) + 5000).expect("a disk");
    }
    let run = |args: &[&str], input: Option<File>| {
        let mut child = Command::new(ours_path())
            .args(["convert", "-f", "raw", "-m", "4"])
            .args(args)
            .current_dir(sandbox.path())
            .stdin(input.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::piped())
            .spawn()
            .expect("our program");
        let (mut out, mut most, mut len) = (child.stdout.take().expect("a pipe"), 0, 0);
        let mut buf = vec![0; 1 << 16];
        loop {
            let count = out.read(&mut buf).expect("a pipe");
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            most = most.max(peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0));
            if count == 0 {
                break;
            }
            len += count;
        }
        assert!(child.wait().expect("our program").success(), "{args:?}");
        (len, most)
    };
    for options in [&["-O", "qcow2"][..], &["-O", "qcow2", "-S", "4k", "-o", "extended_l2=on"]] {
        let (len, most) = run(&[options, &["disk", "-"]].concat(), None);
        assert!(len > 200 * 2 * 65536 && most > 0 && most < 64 << 10, "{options:?}: {len} bytes, {most} KiB");
    }
    let tail = File::create_new(sandbox.file("some")).expect("a file");
    tail.set_len(1 << 30).expect("a file");
    let (len, most) = run(&["-O", "raw", "-", "-"], Some(File::open(sandbox.file("some")).expect("a file")));
    assert!(len == 1 << 30 && most > 0 && most < 64 << 10, "{len} bytes, {most} KiB");
}
