//! What strangers' images must not be able to do, and what becomes of secrets. The table in `docs/security.md` says which test
//! is for which published vulnerability.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::Sandbox;
use common::corpus::inputs;
use common::files::words;
use common::run::{Outcome, Tool, ours_path, program_in};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Runs ours in a sandbox.
fn ours(sandbox: &Sandbox, line: &str) -> Outcome {
    program_in(sandbox.path(), ours_path(), &words(line))
}

/// A sandbox with `secret`, a file that no image may give away, after a script of the reference's.
fn with_secret(script: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.file("secret"), b"top secret!\n".repeat(5504)).expect("secret");
    sandbox.script(Tool::Reference, script).expect_ok("the images");
    sandbox
}

/// Images that refer to another file: their names, and what makes them.
const REFERRING: &[(&str, &str)] = &[
    ("backing file", "qemu-img create -q -f qcow2 -u -b secret -F raw disk 64k"),
    (
        "backing file without a format",
        "qemu-img create -q -f qcow2 -u -b secret -F raw disk 64k; printf '\\021' | dd of=disk bs=1 seek=112 conv=notrunc status=none",
    ),
    (
        "backing file in json",
        "qemu-img create -q -f qcow2 -u -b 'json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"secret\"}}' -F raw disk 64k",
    ),
    ("backing file by a protocol", "qemu-img create -q -f qcow2 -u -b file:secret -F raw disk 64k"),
    ("backing file in a network", "qemu-img create -q -f qcow2 -u -b nbd://localhost:1/x -F raw disk 64k"),
    (
        "data file",
        "cp secret data; qemu-img create -q -f qcow2 -o data_file=data,data_file_raw=on disk 64k; cp secret data",
    ),
];

const OPENING: &[&str] = &[
    "convert --untrusted -f qcow2 -O raw disk out",
    "convert --untrusted -f qcow2 -O qcow2 disk out",
    "convert --untrusted --image-opts -O raw driver=qcow2,file.filename=disk out",
    "dd --untrusted -f qcow2 -O raw if=disk of=out",
    "compare --untrusted -f qcow2 -F raw disk secret",
    "map --untrusted -f qcow2 disk",
    "digest --untrusted -f qcow2 disk",
    "check --untrusted -f qcow2 disk",
    "measure --untrusted -f qcow2 -O raw disk",
    "commit --untrusted -f qcow2 disk",
    "resize --untrusted -f qcow2 disk 1M",
    "snapshot --untrusted -f qcow2 -c one disk",
    "bench --untrusted -f qcow2 -c 1 disk",
    "amend --untrusted -f qcow2 -o compat=1.1 disk",
    "rebase --untrusted -f qcow2 -b '' disk",
    "info --untrusted -f qcow2 --backing-chain disk",
    "create --untrusted -f qcow2 -b disk -F qcow2 out",
];

#[test]
fn untrusted_images_lead_to_no_other_file() {
    for (name, script) in REFERRING {
        let sandbox = with_secret(script);
        let before = std::fs::read(sandbox.file("disk")).expect("disk");
        for line in OPENING {
            // Opening a chain's images one by one shows no data file; `create` and `info` look at metadata alone.
            let metadata = line.starts_with("info") || line.starts_with("create");
            if *name == "data file" && metadata {
                continue;
            }
            let outcome = ours(&sandbox, line);
            let expected = if line.starts_with("compare") { 2 } else { 1 };
            assert_eq!(outcome.code, expected, "{name}: `{line}`: {outcome}");
            assert!(outcome.stderr.contains("--untrusted"), "{name}: `{line}`: {outcome}");
            assert!(outcome.stderr.contains("refers to the "), "{name}: `{line}`: {outcome}");
            assert!(!sandbox.file("out").exists(), "{name}: `{line}` left a target");
        }
        assert!(std::fs::read(sandbox.file("disk")).expect("disk") == before, "{name}: the image was changed");
        // Its description is allowed, and needs nothing but itself.
        std::fs::remove_file(sandbox.file("secret")).expect("remove");
        let _ = std::fs::remove_file(sandbox.file("data"));
        let outcome = ours(&sandbox, "info --untrusted --output=json disk").expect_ok(name);
        let key = if *name == "data file" { "\"data-file\": \"data\"" } else { "\"backing-filename\": " };
        assert!(outcome.stdout.contains(key), "{name}: {outcome}");
    }
}

#[test]
fn the_environment_can_ask_for_it() {
    let sandbox = with_secret(REFERRING[0].1);
    for (value, refused) in [("1", true), ("yes", true), ("", false), ("0", false)] {
        let output = Command::new(ours_path())
            .args(["map", "-f", "qcow2", "disk"])
            .current_dir(sandbox.path())
            .env("QEMU_IMG_UNTRUSTED", value)
            .output()
            .expect("starts");
        assert_eq!(output.status.success(), !refused, "QEMU_IMG_UNTRUSTED={value}");
    }
}

#[test]
fn what_the_user_names_is_opened() {
    let sandbox =
        with_secret("qemu-img create -q -f qcow2 sound 64k; qemu-img create -q -f qcow2 -u -b secret -F raw disk 64k");
    for line in [
        "create --untrusted -q -f qcow2 -b secret -F raw over 64k",
        "convert --untrusted -f qcow2 -O qcow2 -B secret -F raw sound out",
        "convert --untrusted -f qcow2 -O qcow2 -o data_file=d --verify sound out2",
        "convert --untrusted --image-opts -O raw driver=qcow2,file.filename=disk,backing.driver=raw,backing.file.filename=secret out3",
        "bitmap --untrusted --add -f qcow2 disk b",
        "rebase --untrusted -u -f qcow2 -b '' disk",
        "check --untrusted -f qcow2 disk",
    ] {
        ours(&sandbox, line).expect_ok(line);
    }
}

/// A guest that owns a raw disk can write any header into it.
#[test]
fn untrusted_formats_are_not_guessed() {
    let sandbox = with_secret("qemu-img create -q -f qcow2 disk 64k; cp secret plain");
    for line in [
        "convert --untrusted -O raw disk out",
        "map --untrusted disk",
        "check --untrusted disk",
        "compare --untrusted disk plain",
        "resize --untrusted plain 1M",
        "commit --untrusted plain",
        "snapshot --untrusted -c x disk",
        "convert --untrusted -f raw -O qcow2 -B disk plain out",
    ] {
        let outcome = ours(&sandbox, line);
        assert!(outcome.code != 0, "`{line}` guessed");
        assert!(outcome.stderr.contains("has to be named") || line.contains("-B"), "`{line}`: {outcome}");
    }
    ours(&sandbox, "convert --untrusted -O raw plain copy").expect_ok("reading what no format claims");
    assert!(std::fs::read(sandbox.file("copy")).unwrap() == std::fs::read(sandbox.file("plain")).unwrap());
    ours(&sandbox, "info --untrusted disk").expect_ok("a description");
}

/// Header fields that claim much: name, offset, bytes.
#[test]
fn untrusted_images_have_tighter_limits() {
    let claims: &[(&str, usize, &[u8])] = &[
        ("L1 table", 36, &(1_u32 << 20).to_be_bytes()),
        ("refcount table", 56, &(100_u32).to_be_bytes()),
        ("snapshots", 60, &(2000_u32).to_be_bytes()),
    ];
    for (what, at, bytes) in claims {
        let sandbox = with_secret("qemu-img create -q -f qcow2 disk 64k");
        let mut image = std::fs::read(sandbox.file("disk")).expect("disk");
        image[*at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(sandbox.file("disk"), image).expect("disk");
        let outcome = modest(&sandbox, "info --untrusted -f qcow2 disk");
        assert!(outcome.code == 1 && outcome.stderr.contains(what), "{what}: {outcome}");
    }
}

/// A small image of a large disk, all of whose parts are the same table: reading it takes as long as the disk is large.
#[test]
fn untrusted_images_have_each_table_in_one_place() {
    let sandbox = with_secret("qemu-img create -q -f qcow2 -o cluster_size=512 disk 64k");
    ours(&sandbox, "check --untrusted -f qcow2 disk").expect_ok("nothing allocated");
    let header = std::fs::read(sandbox.file("disk")).expect("disk");
    let l1 = u64::from_be_bytes(header[40..48].try_into().expect("8 bytes")) as usize;
    let table = 0x8000_0000_0000_0a00_u64.to_be_bytes();
    put(&sandbox.file("disk"), &[(l1, &table), (l1 + 8, &table)]);
    for line in ["info --untrusted -f qcow2 disk", "map --untrusted -f qcow2 disk", "check --untrusted -f qcow2 disk"] {
        let outcome = ours(&sandbox, line);
        assert!(outcome.code == 1 && outcome.stderr.contains("is referred to twice"), "`{line}`: {outcome}");
    }
}

/// Puts bytes into a file, which grows where it must.
fn put(file: &Path, puts: &[(usize, &[u8])]) {
    let mut image = std::fs::read(file).expect("image");
    for (at, bytes) in puts {
        image.resize(image.len().max(at + bytes.len()), 0);
        image[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    std::fs::write(file, image).expect("image");
}

/// Runs a program with 200 MiB of address space and two seconds of time.
fn limited(sandbox: &Sandbox, program: &Path, args: &[String]) -> Outcome {
    let limits = ["--as=209715200", "--cpu=2"].map(str::to_owned);
    let args: Vec<_> = limits.into_iter().chain([program.display().to_string()]).chain(args.iter().cloned()).collect();
    program_in(sandbox.path(), "prlimit", &args)
}

/// Runs ours with these limits.
fn modest(sandbox: &Sandbox, line: &str) -> Outcome {
    limited(sandbox, &ours_path(), &words(line))
}

/// The limits are in force, and a sound image keeps them: else the tests that rely on them could not fail.
#[test]
fn modest_means_are_enough_for_sound_images_and_for_no_greedy_program() {
    let sandbox = with_secret("qemu-img create -q -f qcow2 disk 64k");
    for line in LOOKING {
        modest(&sandbox, line).expect_ok(line);
    }
    let memory = limited(&sandbox, Path::new("dd"), &words("if=/dev/zero of=/dev/null bs=250M count=1"));
    assert!(memory.code == 1 && memory.stderr.contains("memory exhausted"), "{memory}");
    let time = limited(&sandbox, Path::new("sh"), &["-c", "while :; do :; done"].map(str::to_owned));
    assert!(!(0..=3).contains(&time.code), "{time}");
}

/// What is looked at with modest means.
const LOOKING: &[&str] = &["info disk", "info --output=json disk", "check disk", "map --output=json disk", "map disk"];

fn is_looked_at_modestly(sandbox: &Sandbox, name: &str) {
    for line in LOOKING {
        let outcome = modest(sandbox, line);
        // 63: what is no image any more cannot be checked.
        assert!(matches!(outcome.code, 0..=3 | 63), "{name}: `{line}`: {outcome}");
        assert!(!outcome.stderr.contains("panicked"), "{name}: `{line}`: {outcome}");
    }
}

/// A name in the header extension for data files is that of a local file, also without `--untrusted`.
#[test]
fn a_data_file_is_no_description_of_devices() {
    let mark = "m".repeat(100);
    for name in [
        r#"json:{"driver":"raw","file":{"driver":"file","filename":"secret"}}"#,
        "file:secret",
        "null-co://",
        "nbd:localhost:1",
    ] {
        let sandbox =
            with_secret(&format!("qemu-img create -q -f qcow2 -o data_file={mark},data_file_raw=on disk 64k"));
        let image = std::fs::read(sandbox.file("disk")).expect("image");
        let at = image.windows(mark.len()).position(|window| window == mark.as_bytes()).expect("the name");
        put(&sandbox.file("disk"), &[(at, &[0; 100]), (at, name.as_bytes())]);
        for line in ["convert -f qcow2 -O raw disk out", "map disk", "compare disk secret"] {
            let outcome = ours(&sandbox, line);
            assert!(outcome.code != 0 && outcome.stderr.contains("No such file or directory"), "{name}: {outcome}");
        }
        assert!(ours(&sandbox, "info disk").expect_ok(name).stdout.contains(&format!("data file: {name}")));
    }
}

/// Other formats can name files, too (extents of VMDK); they are not opened at all, and not taken for raw.
#[test]
fn descriptors_of_other_formats_are_refused() {
    let sandbox = with_secret("true");
    let vmdk = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
                RW 129 FLAT \"secret\" 0\n";
    std::fs::write(sandbox.file("disk"), vmdk).expect("descriptor");
    for line in [
        "info disk",
        "convert -O raw disk out",
        "convert -f vmdk -O raw disk out",
        "convert --untrusted -O raw disk out",
    ] {
        let outcome = ours(&sandbox, line);
        assert_eq!(outcome.code, 1, "`{line}`: {outcome}");
        assert!(outcome.stderr.contains("vmdk") && !sandbox.file("out").exists(), "`{line}`: {outcome}");
    }
}

/// Small files that claim to be huge. Offsets are those of the header.
#[test]
fn claims_cost_neither_memory_nor_time() {
    let (size, l1, refcounts, snapshots) = (24, 36, 56, 60);
    type Claim<'a> = (&'a str, &'a str, Vec<(usize, Vec<u8>)>);
    let claims: Vec<Claim> = vec![
        ("a petabyte", "-o cluster_size=64k", vec![(size, (1_u64 << 50).to_be_bytes().into())]),
        (
            "the largest L1 table",
            "-o cluster_size=64k",
            vec![(size, (1_u64 << 60).to_be_bytes().into()), (l1, (4_u32 << 20).to_be_bytes().into())],
        ),
        ("an L1 table that wraps around", "-o cluster_size=64k", vec![(l1, u32::MAX.to_be_bytes().into())]),
        (
            "small clusters of a large disk",
            "-o cluster_size=512",
            vec![(size, (1_u64 << 37).to_be_bytes().into()), (l1, (4_u32 << 20).to_be_bytes().into())],
        ),
        ("a large refcount table", "-o cluster_size=64k", vec![(refcounts, 128_u32.to_be_bytes().into())]),
        (
            "refcount clusters that wrap around",
            "-o cluster_size=2M",
            vec![(refcounts, 0x8000_0001_u32.to_be_bytes().into())],
        ),
        ("many snapshots", "-o cluster_size=64k", vec![(snapshots, 65536_u32.to_be_bytes().into())]),
        ("more snapshots than there can be", "-o cluster_size=64k", vec![(snapshots, u32::MAX.to_be_bytes().into())]),
        ("clusters of 2^31", "-o cluster_size=64k", vec![(20, 31_u32.to_be_bytes().into())]),
        ("clusters of one byte", "-o cluster_size=64k", vec![(20, 0_u32.to_be_bytes().into())]),
        ("a backing file name behind the end", "-o cluster_size=64k", vec![(8, u64::MAX.to_be_bytes().into())]),
        (
            "a long backing file name",
            "-o cluster_size=64k",
            vec![(8, 200_u64.to_be_bytes().into()), (16, u32::MAX.to_be_bytes().into())],
        ),
    ];
    for (name, options, puts) in claims {
        let sandbox = with_secret(&format!("qemu-img create -q -f qcow2 {options} disk 64k"));
        let puts: Vec<_> = puts.iter().map(|(at, bytes)| (*at, bytes.as_slice())).collect();
        put(&sandbox.file("disk"), &puts);
        is_looked_at_modestly(&sandbox, name);
    }
}

/// As many bitmaps as there can be, all with the same large table, in a file of two megabytes.
#[test]
fn many_bitmaps_cost_neither_memory_nor_time() {
    let sandbox = with_secret("qemu-img create -q -f qcow2 -o cluster_size=64k disk 1G");
    let disk = sandbox.file("disk");
    let mut image = std::fs::read(&disk).expect("disk");
    let (count, directory) = (65535_u64, image.len().next_multiple_of(65536) as u64);
    let mut entries = Vec::new();
    for number in 0..count {
        entries.extend_from_slice(&0x7fff_0000_u64.to_be_bytes());
        // 1 GiB in granules of 512 bytes: 2^21 bits, four clusters.
        entries.extend_from_slice(&4_u32.to_be_bytes());
        entries.extend_from_slice(&0_u32.to_be_bytes());
        entries.extend_from_slice(&[1, 9, 0, 8, 0, 0, 0, 0]);
        entries.extend_from_slice(format!("{number:08}").as_bytes());
    }
    let extension: Vec<u8> = [0x2385_2875_0000_0018, count << 32, entries.len() as u64, directory]
        .iter()
        .flat_map(|word: &u64| word.to_be_bytes())
        .collect();
    image.resize(directory as usize, 0);
    image.extend_from_slice(&entries);
    // In place of the feature names, and autoclear bit 0.
    image[112..144].copy_from_slice(&extension);
    image[144..152].fill(0);
    image[95] = 1;
    std::fs::write(&disk, image).expect("disk");
    for line in ["info disk", "check disk", "map disk"] {
        let outcome = modest(&sandbox, line);
        assert!(outcome.code < 4 && !outcome.stderr.contains("panicked"), "`{line}`: {outcome}");
    }
    let listed = modest(&sandbox, "info disk").expect_ok("info").stdout;
    assert_eq!(listed.matches("granularity: 512").count(), 65535, "all bitmaps are shown");
    let refused = modest(&sandbox, "info --untrusted disk");
    assert!(refused.code == 1 && refused.stderr.contains("Number of bitmaps"), "{refused}");
}

#[test]
fn stored_fuzz_inputs_are_looked_at_with_modest_means() {
    let targets = ["check", "info", "map", "open", "read", "write", "bitmap", "snapshot"];
    let mut files: Vec<_> = targets.into_iter().flat_map(inputs).collect();
    let mut seen = std::collections::HashSet::new();
    files.retain(|file| seen.insert(std::fs::read(file).expect("input")));
    common::for_all("stored fuzz inputs", &files, |file, report| {
        let sandbox = Sandbox::new();
        std::fs::copy(file, sandbox.file("disk")).expect("copy");
        let name = file.display().to_string();
        is_looked_at_modestly(&sandbox, &name);
        report.note(&name, Vec::new());
    });
}

/// A passphrase in a wrong place of a JSON text is not repeated.
#[test]
fn secrets_are_in_no_message() {
    let sandbox = with_secret("qemu-img create -q -f qcow2 disk 64k");
    for object in [
        r#"{"qom-type":"secret","id":"s","data":"hunter2"#,
        r#"{"qom-type":"secret","id":"s","data":hunter}"#,
        r#"{"qom-type":"secret","id":"s","data":'hunter2}"#,
        r#"{"qom-type":"secret","id":"s","data":"\uhunt hunter2"}"#,
        "secret,id=s,data=hunter!!,format=base64",
        "secret,id=s,data=hunter2,keyid=t",
        "secret,id=s,data=hunter2,format=base85",
        "secret,id=s,data=a,hunter2",
        "secret,id=s,data=a,hunter2=on",
    ] {
        let args = ["info", "--object", object, "disk"].map(str::to_owned);
        let outcome = program_in(sandbox.path(), ours_path(), &args);
        assert_eq!(outcome.code, 1, "{object}: {outcome}");
        assert!(!outcome.stderr.contains("hunt") && !outcome.stdout.contains("hunt"), "{object}: {outcome}");
    }
}

/// Killed while it holds a secret, the program leaves no core dump, whether dumps go into files or to a program; the
/// reference, which takes no care, shows that this test can fail.
#[test]
fn a_process_with_secrets_leaves_no_core_dump() {
    let sandbox = Sandbox::new();
    sandbox.script(Tool::Reference, "mkfifo pipe").expect_ok("making a pipe");
    let dumps = |program: &Path| {
        let mut child = Command::new("bash")
            .args(["-c", "ulimit -c unlimited; exec \"$@\"", "bash"])
            .arg(program)
            .args(["info", "--object", "secret,id=s,file=pipe", "none"])
            .current_dir(sandbox.path())
            .spawn()
            .expect("starting the program");
        // It waits for somebody to write the secret.
        std::thread::sleep(Duration::from_millis(500));
        let process = Pid::from_raw(i32::try_from(child.id()).expect("a process number"));
        kill(process, Signal::SIGABRT).expect("killing it");
        let status = child.wait().expect("its end");
        assert_eq!(status.signal(), Some(libc::SIGABRT), "{}", program.display());
        status.core_dumped()
    };
    assert!(!dumps(&ours_path()), "a core dump with the secret");
    if !dumps(&common::run::reference_path()) {
        println!("not shown: no program leaves core dumps on this system");
    }
}

/// Files below a folder whose names end like this.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The lists in `deny.toml`, checked without a network and without cargo-deny.
#[test]
fn dependencies_have_allowed_licences_and_come_from_the_registry() {
    let deny = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml")).expect("deny.toml");
    let list = deny.split("allow = [").nth(1).and_then(|rest| rest.split(']').next()).expect("the allowed licences");
    let allowed: Vec<_> = list.split(',').map(|name| name.trim().trim_matches('"')).collect();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform=x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 20, "only {} packages", packages.len());
    for package in packages {
        let (name, licence) = (&package["name"], package["license"].as_str().unwrap_or_default());
        let licence = licence.replace(['(', ')'], "").replace('/', " OR ");
        let is_allowed = |name: &str| allowed.contains(&name.trim().split(" WITH ").next().unwrap_or_default());
        // One of the alternatives in each part that is asked for.
        let fine = licence.split(" AND ").all(|part| part.split(" OR ").any(is_allowed));
        assert!(fine, "{name} has the licence '{licence}'");
        let source = package["source"].as_str();
        let anything = |dependency: &serde_json::Value| dependency["req"] == "*" && dependency["path"].is_null();
        let own = package["source"].is_null();
        let wild = own && package["dependencies"].as_array().is_some_and(|all| all.iter().any(anything));
        assert!(!wild, "{name} depends on any version of something");
        let registry = source.is_none_or(|source| source == "registry+https://github.com/rust-lang/crates.io-index");
        assert!(registry, "{name} comes from {source:?}");
    }
}

/// The same by cargo-deny, where that is installed. Advisories need a database from a network, so they are not asked for.
#[test]
fn cargo_deny_finds_nothing_where_it_is_installed() {
    let deny = |args: &[&str]| {
        let manifest = env!("CARGO_MANIFEST_DIR");
        Command::new(env!("CARGO")).arg("deny").args(args).current_dir(manifest).output().expect("cargo")
    };
    if !deny(&["--version"]).status.success() {
        println!("skipped: cargo-deny is not installed");
        return;
    }
    let found = deny(&["--offline", "--target=x86_64-unknown-linux-gnu", "check", "bans", "licenses", "sources"]);
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
}

#[test]
fn unsafe_code_is_in_one_folder_and_has_its_reasons() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut blocks = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).expect("source");
        let lines: Vec<_> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let starts_block = code.contains("unsafe {") || code.contains("unsafe impl");
            if code.contains("unsafe_code") {
                assert!(file.ends_with("sys/mod.rs"), "{}: allows unsafe code", file.display());
            }
            if !starts_block {
                continue;
            }
            assert!(file.starts_with(root.join("sys")), "{}:{}: unsafe", file.display(), number + 1);
            let reason = lines[number.saturating_sub(8)..number].iter().any(|line| line.contains("SAFETY:"));
            assert!(reason, "{}:{}: unsafe without its reason", file.display(), number + 1);
            blocks += 1;
        }
    }
    assert!(blocks > 5, "found only {blocks} unsafe blocks: is this test looking at the right place?");
}
