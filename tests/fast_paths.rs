//! The fast ways of a conversion and what each falls back to: shared blocks (XFS, btrfs), copying inside the kernel,
//! direct I/O, several workers. Whatever the way, the target holds the disk, and the same bytes on every run.
//!
//! Loop devices and `mount` need root; without them the cases on other file systems say so and are skipped.

mod common;
#[path = "../src/storage/testing.rs"]
#[allow(dead_code, reason = "loop devices are for the unit tests")]
mod mounts;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::files::{hash_file, words};
use common::run::{Outcome, Tool, program_in, run_in};
use common::{Random, Report, Sandbox, for_all};
use mounts::Mount;

const MIB: u64 = 1 << 20;
/// How much of [`disk`] is data, in bytes.
const DATA: u64 = 10_223_616;

/// A disk of 17 MiB and a bit: noise, text, holes, zeros that are written, and a file that ends inside a sector.
fn disk(path: &Path) {
    let mut random = Random::new(4);
    let mut content = vec![0; 17 * MIB as usize + 1000];
    for (number, window) in content.chunks_mut(MIB as usize / 4).enumerate() {
        match number % 7 {
            0 | 4 => random.fill(window),
            1 | 5 => window.iter_mut().zip(b"text that compresses, ".iter().cycle()).for_each(|(to, byte)| *to = *byte),
            2 => random.fill(&mut window[70_000..71_000]),
            _ => {}
        }
    }
    let end = content.len() - 600;
    random.fill(&mut content[end..]);
    fs::write(path, content).expect("the disk");
    // The zeros in the middle become holes.
    program_in(path.parent().expect("a folder"), "fallocate", &["--dig-holes", "disk"]).expect_ok("digging holes");
}

fn run(folder: &Path, tool: Tool, line: &str) -> Outcome {
    run_in(folder, tool, &words(line))
}

/// Source and options; what comes of them must not depend on the number of workers.
const ORDERED: &[&str] = &[
    "-f raw -O qcow2 disk",
    "-f raw -O qcow2 -o cluster_size=4k disk",
    "-f raw -O qcow2 -o extended_l2=on,cluster_size=128k disk",
    "-c -f raw -O qcow2 disk",
    "-c -f raw -O qcow2 -o compression_type=zstd disk",
    "-f qcow2 -O qcow2 zlib.qcow2",
    "-f qcow2 -O qcow2 zstd.qcow2",
    "-c -f qcow2 -O qcow2 zstd.qcow2",
    "-f qcow2 -O raw zlib.qcow2",
    "-f raw -O qcow2 -t none -T none disk",
];

#[test]
fn the_target_has_the_same_bytes_for_every_number_of_workers() {
    common::files::stay_on_disk();
    let sandbox = Sandbox::new();
    disk(&sandbox.file("disk"));
    for kind in ["zlib", "zstd"] {
        let line = format!("convert -c -f raw -O qcow2 -o compression_type={kind} disk {kind}.qcow2");
        sandbox.reference(&line).expect_ok(&line);
    }
    let items: Vec<_> = ORDERED.iter().enumerate().collect();
    for_all("workers", &items, |(number, options), report| {
        let name = format!("out{number}");
        let mut first = None;
        for workers in [1, 2, 3, 4, 5, 6, 7, 8, 12, 16] {
            let line = format!("convert -m {workers} {options} {name}");
            sandbox.run(Tool::Ours, &line).expect_ok(&line);
            let digest = hash_file(&sandbox.file(&name));
            let same = *first.get_or_insert(digest) == digest;
            report.note(&line, if same { Vec::new() } else { vec!["other bytes than with -m 1".into()] });
        }
        let compared = sandbox.reference(&format!("compare -f raw disk {name}"));
        report.note(options, if compared.ok() { Vec::new() } else { vec![compared.to_string()] });
    });
}

/// What a conversion inside one file system must show for it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Space {
    /// All blocks with data are shared with the source, where the file system can share.
    Shared,
    /// No block is.
    Own,
    /// Some are: those that happen to fit, or that are stored as they are.
    Some,
}

/// Options and sources of conversions to `out`. Prepared are `disk` (17 MiB), `plain.qcow2`, `small.qcow2` (clusters of
/// 512 bytes) and `zlib.qcow2` of the same content, and `odd`, of 1 MiB and a sector.
const ON_ONE_FILE_SYSTEM: &[(&str, Space)] = &[
    ("-f raw -O qcow2 disk", Space::Shared),
    ("-f raw -O raw disk", Space::Shared),
    ("-f qcow2 -O raw plain.qcow2", Space::Shared),
    ("-f qcow2 -O qcow2 plain.qcow2", Space::Shared),
    ("-f raw -O qcow2 -m 1 disk", Space::Shared),
    ("-f raw -O qcow2 -W -m 8 disk", Space::Shared),
    ("-f raw -O qcow2 -o cluster_size=4k disk", Space::Shared),
    ("-f raw -O qcow2 -o cluster_size=2M disk", Space::Shared),
    ("-f raw -O qcow2 -o extended_l2=on,cluster_size=128k disk", Space::Shared),
    ("-f raw -O qcow2 -t none -T none disk", Space::Shared),
    ("-f raw -O qcow2 -C disk", Space::Shared),
    ("--image-opts -O raw driver=raw,offset=4096,file.filename=disk", Space::Shared),
    // Blocks that do not fit, formats that do not hold the bytes as they are, wishes that want them looked at.
    ("-f raw -O qcow2 -o cluster_size=512 disk", Space::Some),
    ("-f qcow2 -O raw small.qcow2", Space::Some),
    ("--image-opts -O raw driver=raw,offset=512,file.filename=disk", Space::Own),
    ("--image-opts -O qcow2 driver=raw,offset=1536,file.filename=disk", Space::Own),
    ("-f raw -O raw odd disk", Space::Some),
    ("-f raw -O qcow2 disk odd", Space::Shared),
    ("-f qcow2 -O raw zlib.qcow2", Space::Some),
    ("-f raw -O qcow2 -c disk", Space::Own),
    ("-f raw -O qcow2 -S 4k disk", Space::Own),
    ("-f raw -O raw -S 0 disk", Space::Own),
    ("-f raw -O raw --salvage disk", Space::Own),
    ("-f raw -O raw -t none -S 4k disk", Space::Own),
    ("-f raw -O raw -t directsync -T directsync -S 4k disk", Space::Own),
];

/// Bytes of a file that are shared with another file, and that it has for itself, as its extents say (FIEMAP).
fn shared_and_own(folder: &Path, name: &str) -> (u64, u64) {
    let done = program_in(folder, "filefrag", &["-s", "-v", "-b512", name]).expect_ok("filefrag");
    let (mut shared, mut own) = (0, 0);
    for line in done.stdout.lines() {
        // Number, logical range, physical range, length, perhaps the expected place, flags.
        let columns: Vec<_> = line.split(':').map(str::trim).collect();
        if columns.first().is_none_or(|number| number.parse::<u64>().is_err()) || columns.len() < 4 {
            continue;
        }
        let bytes = 512 * columns[3].parse::<u64>().unwrap_or_else(|error| panic!("{line}: {error}"));
        *if line.contains("shared") { &mut shared } else { &mut own } += bytes;
    }
    (shared, own)
}

fn prepare(folder: &Path) {
    disk(&folder.join("disk"));
    let mut odd = vec![0; MIB as usize + 512];
    Random::new(5).fill(&mut odd);
    fs::write(folder.join("odd"), odd).expect("a second source");
    for (options, name) in [("", "plain.qcow2"), ("-o cluster_size=512", "small.qcow2"), ("-c -W", "zlib.qcow2")] {
        let line = format!("convert -f raw -O qcow2 {options} disk {name}");
        run(folder, Tool::Reference, &line).expect_ok(&line);
    }
}

/// The complaints about one conversion.
fn convert(folder: &Path, options: &str, wanted: Option<Space>) -> Vec<String> {
    let mut complaints = Vec::new();
    let line = format!("convert {options} out");
    let done = run(folder, Tool::Ours, &line);
    if !done.ok() || !done.stderr.is_empty() {
        return vec![done.to_string()];
    }
    if let Some(wanted) = wanted {
        let (shared, own) = shared_and_own(folder, "out");
        let right = match wanted {
            Space::Shared => shared > DATA - DATA / 20,
            Space::Own => shared == 0 && own > DATA / 3,
            Space::Some => shared > 0 && shared < DATA - DATA / 20,
        };
        if !right {
            complaints.push(format!("{wanted:?}, and {shared} bytes are shared, {own} are not"));
        }
    }
    // The reference's own conversion of the same, read and written byte by byte.
    let format = if options.contains("-O qcow2") { "qcow2" } else { "raw" };
    let line = format!("convert {} -S 4k reference", options.replace("-C ", "").replace("-c ", ""));
    run(folder, Tool::Reference, &line).expect_ok(&line);
    let compared = run(folder, Tool::Reference, &format!("compare -f {format} -F {format} out reference"));
    if !compared.ok() {
        complaints.push(compared.to_string());
    }
    let len = |name| fs::metadata(folder.join(name)).map(|info| info.len()).unwrap_or(0);
    // Around the page cache the reference makes the disk as long as whole blocks of the file system.
    if format == "raw" && !options.contains("-t ") && len("out") != len("reference") {
        complaints.push(format!("{} bytes, and the reference's has {}", len("out"), len("reference")));
    }
    if format == "qcow2" {
        let checked = run(folder, Tool::Reference, "check -q -f qcow2 out");
        if !checked.ok() {
            complaints.push(checked.to_string());
        }
    }
    let _ = (fs::remove_file(folder.join("out")), fs::remove_file(folder.join("reference")));
    complaints
}

#[test]
fn blocks_are_shared_where_that_can_be_and_copied_where_not() {
    let mut report = Report::new("shared blocks");
    for (kind, len) in [("xfs", 600 * MIB), ("btrfs", 600 * MIB), ("ext4", 400 * MIB)] {
        let Some(mount) = Mount::new(kind, len) else { continue };
        prepare(mount.path());
        for (options, space) in ON_ONE_FILE_SYSTEM {
            let wanted = if kind == "ext4" { Space::Own } else { *space };
            report.note(&format!("{kind}: {options}"), convert(mount.path(), options, Some(wanted)));
        }
    }
    // The same by copying only, wherever the tests run.
    let sandbox = Sandbox::new();
    prepare(sandbox.path());
    for (options, _) in ON_ONE_FILE_SYSTEM.iter().filter(|(options, _)| !options.contains("-t ")) {
        report.note(&format!("here: {options}"), convert(sandbox.path(), options, None));
    }
    report.finish();
}

#[test]
fn what_lies_on_another_file_system_is_copied() {
    let mut report = Report::new("two file systems");
    let sandbox = Sandbox::new();
    prepare(sandbox.path());
    for kind in ["xfs", "btrfs"] {
        let Some(mount) = Mount::new(kind, 600 * MIB) else { continue };
        let there = mount.path().display();
        for options in ["-f raw -O qcow2", "-f raw -O raw -C", "-f raw -O raw -m 1"] {
            for (from, to) in [(format!("{there}/disk"), "out".to_owned()), ("disk".to_owned(), format!("{there}/out"))]
            {
                fs::copy(sandbox.file("disk"), mount.path().join("disk")).expect("a copy");
                let line = format!("convert {options} {from} {to}");
                let done = sandbox.run(Tool::Ours, &line);
                let compared = sandbox.reference(&format!("compare -f raw disk {to}"));
                let right = done.ok() && done.stderr.is_empty() && compared.ok();
                report.note(&line, if right { Vec::new() } else { vec![done.to_string(), compared.to_string()] });
                fs::remove_file(sandbox.path().join(to)).expect("the target");
            }
        }
    }
    // Where nothing can be mounted there is at least this.
    report.note("here", convert(sandbox.path(), "-f raw -O qcow2 disk", None));
    report.finish();
}

/// A clone of a file that changes afterwards keeps what it was.
#[test]
fn shared_blocks_are_not_shared_changes() {
    let mut report = Report::new("after cloning");
    let sandbox = Sandbox::new();
    let mounts = ["xfs", "btrfs"].map(|kind| Mount::new(kind, 600 * MIB));
    let folders = mounts.iter().flatten().map(Mount::path).chain([sandbox.path()]);
    for folder in folders {
        disk(&folder.join("disk"));
        run(folder, Tool::Ours, "convert -f raw -O qcow2 disk out").expect_ok("converting");
        let old = hash_file(&folder.join("disk"));
        program_in(folder, "qemu-io", &["-f", "qcow2", "-c", "write -P 9 0 1M", "out"]).expect_ok("writing");
        let untouched = hash_file(&folder.join("disk")) == old;
        program_in(folder, "qemu-io", &["-f", "raw", "-c", "write -P 7 2M 1M", "disk"]).expect_ok("writing");
        let fits = |pattern| program_in(folder, "qemu-io", &["-f", "qcow2", "-c", pattern, "out"]).ok();
        let kept = fits("read -P 9 0 1M") && !fits("read -P 7 2M 1M");
        let complaint = format!("source untouched: {untouched}, target kept: {kept}");
        report.note(&folder.display().to_string(), if untouched && kept { Vec::new() } else { vec![complaint] });
    }
    report.finish();
}

/// Short commands on small and large images.
const SHORT: &[&str] = &[
    "info plain.qcow2",
    "info --output=json plain.qcow2",
    "info -f raw disk",
    "info --backing-chain over.qcow2",
    "snapshot -l plain.qcow2",
    "--version",
    "check plain.qcow2",
    "map plain.qcow2",
    "measure -O qcow2 disk",
];

#[test]
fn short_commands_start_no_threads_and_open_nothing_else() {
    let sandbox = Sandbox::new();
    prepare(sandbox.path());
    sandbox.reference("create -q -f qcow2 -b plain.qcow2 -F qcow2 over.qcow2").expect_ok("an overlay");
    let probe = program_in(sandbox.path(), "strace", &["-o", "trace", "true"]);
    if !probe.ok() {
        println!("skipped: strace: {probe}");
        return;
    }
    let mut report = Report::new("short commands");
    let ours = Tool::Ours.path();
    for line in SHORT {
        let mut args = words("-f -o trace -e trace=clone,clone3,fork,vfork,execve,open,openat,socket");
        args.extend([ours.display().to_string()].into_iter().chain(words(line)));
        program_in(sandbox.path(), "strace", &args).expect_ok(line);
        let trace = fs::read_to_string(sandbox.file("trace")).expect("what was traced");
        let complaints = trace.lines().filter(|call| !is_needed(call, line)).map(str::to_owned).collect();
        report.note(line, complaints);
    }
    report.finish();
}

/// Whether a short command needs this system call: its own start, the C library, and the files it was given.
fn is_needed(call: &str, line: &str) -> bool {
    if call.contains("exited with") || call.contains("execve(") {
        return true;
    }
    let Some(name) = call.split('"').nth(1).filter(|_| call.contains("open")) else { return false };
    // The runtime looks for the end of its stack and makes sure that the three standard descriptors are open.
    let library = ["/proc/self/maps", "/dev/null", "/etc/ld.so.cache", "libc.so.6", "libgcc_s.so.1", "libm.so.6"];
    library.iter().any(|end| name.ends_with(end))
        || line.split(' ').any(|word| word == name)
        || (line.contains("over.qcow2") && name.ends_with("plain.qcow2"))
}

/// Direct I/O on a file system that has none is an error that says so, and nothing stays behind.
#[test]
fn without_direct_io_nothing_is_left_behind() {
    let Some(mount) = Mount::tmpfs(200 * MIB) else { return };
    disk(&mount.path().join("disk"));
    let done = run(mount.path(), Tool::Ours, "convert -t none -T none -f raw -O qcow2 disk out");
    let reference = run(mount.path(), Tool::Reference, "convert -t none -T none -f raw -O qcow2 disk reference");
    assert_eq!(done.ok(), reference.ok(), "{done}\n{reference}");
    if done.ok() {
        let compared = run(mount.path(), Tool::Reference, "compare -f raw disk out");
        assert!(compared.ok(), "{compared}");
    } else {
        assert!(!mount.path().join("out").exists(), "{done}");
    }
    assert_eq!(fs::metadata(mount.path().join("disk")).expect("the source").size(), 17 * MIB + 1000);
}
