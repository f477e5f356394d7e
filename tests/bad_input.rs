//! Images that are cut, damaged or made to harm: a clear error and exit code 1, or success, but never a panic, a
//! signal, endless work, more than a gigabyte of address space, or a change of a file that should only be read.

mod common;

use common::damage::{self, Damage};
use common::files::{Sandbox, hash_file};
use common::run::{Outcome, Tool, ours_path, program_in};
use common::{Report, for_all};

/// Bytes of address space that `info`, `check` and `map` get.
const LITTLE_MEMORY: u64 = 200 << 20;

/// One command of ours under limits.
fn limited(sandbox: &Sandbox, line: &str) -> Outcome {
    limited_to(sandbox, line, 1 << 30, 10)
}

/// The same with so many bytes of address space, and seconds of the processor.
fn limited_to(sandbox: &Sandbox, line: &str, bytes: u64, seconds: u64) -> Outcome {
    let mut args = vec![format!("--as={bytes}"), format!("--cpu={seconds}"), ours_path().display().to_string()];
    args.extend(common::files::words(line));
    program_in(sandbox.path(), "prlimit", &args)
}

/// What is wrong with how a command ended, whatever its verdict on the image was.
fn misbehaviour(line: &str, outcome: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    if outcome.code != 0 && outcome.code != 1 {
        found.push(format!("`{line}`: exit code {}: {}", outcome.code, outcome.stderr));
    }
    if outcome.stderr.contains("panicked") || outcome.stderr.contains("RUST_BACKTRACE") {
        found.push(format!("`{line}` panicked: {}", outcome.stderr));
    }
    // Notices of damage and warnings may come before the message, as in the reference.
    if outcome.code == 1 && !outcome.stderr.lines().any(|line| line.starts_with("qemu-img: ")) {
        found.push(format!("`{line}` failed without a message: {outcome}"));
    }
    found
}

const READING: &[&str] = &[
    "info disk",
    "info -f qcow2 --output=json --backing-chain disk",
    "snapshot -l disk",
    "convert -f qcow2 -O raw disk out",
    "convert -f qcow2 -l one -O raw disk out",
];

/// Lines that must do with far less than the header of a damaged image may ask for.
const CHECKING: &[&str] = &["check -f qcow2 disk", "check -f qcow2 -r leaks disk", "check -f qcow2 -r all disk"];

const WRITING: &[&str] = &["snapshot -c three disk", "snapshot -d one disk", "snapshot -a one disk"];

fn survives(image: &[u8], damage: &Damage, report: &mut Report) {
    let sandbox = Sandbox::new();
    let disk = sandbox.file("disk");
    damage.write(image, &disk);
    let before = hash_file(&disk);
    let mut differences = Vec::new();
    for line in READING {
        let outcome = limited(&sandbox, line);
        differences.extend(misbehaviour(line, &outcome));
        if line.contains("out") && outcome.code != 0 && sandbox.file("out").exists() {
            differences.push(format!("`{line}` failed but left a target behind"));
        }
        let _ = std::fs::remove_file(sandbox.file("out"));
    }
    if hash_file(&disk) != before {
        differences.push("a reading command changed the image".into());
    }
    for line in WRITING {
        damage.write(image, &disk);
        differences.extend(misbehaviour(line, &limited(&sandbox, line)));
    }
    report.note(&damage.name, differences);
}

fn is_checked(image: &[u8], damage: &Damage, report: &mut Report) {
    let sandbox = Sandbox::new();
    let disk = sandbox.file("disk");
    let mut differences = Vec::new();
    for line in CHECKING {
        damage.write(image, &disk);
        differences.extend(misbehaviour(line, &checked(limited_to(&sandbox, line, LITTLE_MEMORY, 10))));
    }
    report.note(&damage.name, differences);
}

/// Corruptions and leaks that `check` finds are what it is for.
fn checked(mut outcome: Outcome) -> Outcome {
    if matches!(outcome.code, 2 | 3) {
        outcome.code = 0;
    }
    outcome
}

/// What services do with files that strangers upload: within 200 MiB of address space and two seconds.
const LOOKING: &[&str] = &["info -f qcow2 disk", "check -f qcow2 disk", "map -f qcow2 --output=json disk"];

fn looked_at(sandbox: &Sandbox) -> Vec<String> {
    LOOKING.iter().flat_map(|line| misbehaviour(line, &checked(limited_to(sandbox, line, LITTLE_MEMORY, 2)))).collect()
}

#[test]
fn damaged_images_are_looked_at_in_little_memory_and_time() {
    let image = std::fs::read(damage::victim().folder().join("disk")).expect("image");
    for_all("damaged images, looked at", &damage::all(&image), |damage, report| {
        let sandbox = Sandbox::new();
        damage.write(&image, &sandbox.file("disk"));
        report.note(&damage.name, looked_at(&sandbox));
    });
}

#[test]
fn damaged_images_are_checked_in_little_memory() {
    let image = std::fs::read(damage::victim().folder().join("disk")).expect("image");
    for_all("damaged images, check", &damage::all(&image), |damage, report| is_checked(&image, damage, report));
}

/// Every entry of thousands of L2 tables leads somewhere else in a file of 8 TiB that is one hole: what is counted must
/// not cost more than some dozen bytes for each.
#[test]
fn garbage_all_over_a_long_file_is_checked_in_little_memory() {
    const TABLES: u64 = 4096;
    let sandbox = Sandbox::new();
    let disk = sandbox.file("disk");
    limited(&sandbox, "create -q -f qcow2 -o cluster_size=512 disk 512M").expect_ok("an image");
    let mut bytes = std::fs::read(&disk).expect("image");
    let l1 = u64::from_be_bytes(bytes[40..48].try_into().expect("8 bytes")) as usize;
    let tables = bytes.len().next_multiple_of(512) as u64;
    for index in 0..TABLES {
        let at = l1 + index as usize * 8;
        bytes[at..at + 8].copy_from_slice(&(1 << 63 | (tables + index * 512)).to_be_bytes());
    }
    let mut random = common::Random::new(3);
    bytes.resize(tables as usize, 0);
    bytes.extend((0..TABLES * 64).flat_map(|_| (1 << 63 | (random.below(1 << 34) << 9)).to_be_bytes()));
    let damage = Damage::puts("garbage", Vec::new());
    for_all("garbage all over", &[CHECKING[0], CHECKING[2]], |line, report| {
        let sandbox = Sandbox::new();
        let disk = sandbox.file("disk");
        damage.write(&bytes, &disk);
        std::fs::File::options().write(true).open(&disk).expect("image").set_len(8 << 40).expect("a hole");
        let outcome = limited_to(&sandbox, line, 200 << 20, 30);
        let mut differences = Vec::new();
        let reported = outcome.stderr.matches("refcount=0 reference=1").count() as u64;
        if !matches!(outcome.code, 1 | 2) || reported < TABLES * 64 {
            let end: String = outcome.stderr.chars().rev().take(300).collect();
            differences.push(format!(
                "exit code {}, {reported} errors: ...{}",
                outcome.code,
                end.chars().rev().collect::<String>()
            ));
        }
        report.note(line, differences);
    });
}

#[test]
fn damaged_images_do_no_harm() {
    let image = std::fs::read(damage::victim().folder().join("disk")).expect("image");
    for_all("damaged images", &damage::all(&image), |damage, report| survives(&image, damage, report));
}

/// Chains that never end, or are far too long.
#[test]
fn backing_chains_in_a_circle_end() {
    let scenes: &[(&str, &str)] = &[
        ("itself", "/usr/bin/qemu-img create -q -f qcow2 -u -b ./disk -F qcow2 disk 4M"),
        (
            "itself without a format",
            "/usr/bin/qemu-img create -q -f qcow2 -u -b ./disk -F raw disk 4M; printf '\\021' | dd of=disk bs=1 seek=112 conv=notrunc status=none",
        ),
        (
            "two",
            "/usr/bin/qemu-img create -q -f qcow2 -u -b b -F qcow2 disk 4M; /usr/bin/qemu-img create -q -f qcow2 -u -b disk -F qcow2 b 4M",
        ),
        (
            "by way of json",
            "/usr/bin/qemu-img create -q -f qcow2 -u -b 'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"disk\"}}' -F qcow2 disk 4M",
        ),
        ("by way of a link", "ln -s disk link; /usr/bin/qemu-img create -q -f qcow2 -u -b link -F qcow2 disk 4M"),
        ("data file that is the image", "/usr/bin/qemu-img create -q -f qcow2 -o data_file=d disk 4M; rm d; ln disk d"),
    ];
    for_all("circles", scenes, |(name, script), report| {
        let sandbox = Sandbox::new();
        sandbox.script(Tool::Reference, script).expect_ok(name);
        let mut differences = Vec::new();
        for line in ["info --backing-chain disk", "info disk", "convert -O raw disk out", "snapshot -l disk"] {
            let outcome = limited(&sandbox, line);
            differences.extend(misbehaviour(line, &outcome));
            if line.starts_with("convert") && outcome.code == 0 && *name != "data file that is the image" {
                differences.push(format!("`{line}` should have failed: {outcome}"));
            }
        }
        report.note(name, differences);
    });
}

/// Compressed data that is no compressed data must be an I/O error, not wrong bytes.
#[test]
fn garbage_instead_of_compressed_data_is_an_error() {
    for_all("garbage", &["zlib-64k", "zstd-64k", "zlib-512", "zstd-4k"], |name, report| {
        let sandbox = common::kinds::named(name).sandbox();
        let disk = sandbox.file("disk");
        let mut bytes = std::fs::read(&disk).expect("image");
        let l1 = u64::from_be_bytes(bytes[40..48].try_into().expect("8 bytes")) as usize;
        let l2 = (u64::from_be_bytes(bytes[l1..l1 + 8].try_into().expect("8 bytes")) & 0x00ff_ffff_ffff_fe00) as usize;
        // The first compressed cluster's data: spoilt in its middle, which every method notices.
        let at = (0..512)
            .map(|index| u64::from_be_bytes(bytes[l2 + index * 8..l2 + index * 8 + 8].try_into().expect("8 bytes")));
        let entry = at.into_iter().find(|entry| entry >> 62 & 1 == 1).expect("a compressed cluster");
        let bits = 62 - (u32::from_be_bytes(bytes[20..24].try_into().expect("4 bytes")) - 8);
        let start = (entry & ((1 << bits) - 1)) as usize;
        bytes[start..start + 40].fill(0xee);
        std::fs::write(&disk, &bytes).expect("image");
        let line = "convert -f qcow2 -O raw disk out";
        let outcome = limited(&sandbox, line);
        let mut differences = misbehaviour(line, &outcome);
        if outcome.code != 1 {
            differences.push(format!("read garbage: {outcome}"));
        }
        report.note(name, differences);
    });
}
