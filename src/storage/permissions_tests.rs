use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::storage::{CacheMode, FileStorage, OpenMode};

/// The bytes that the reference locks, as seen with strace.
#[test]
fn locks_the_bytes_that_the_reference_locks() {
    use FileRole::{Data, Metadata, Raw};
    let cases: [(FileRole, [bool; 3], &[u64]); 12] = [
        // role, [write, share, no_io], bytes
        (Metadata, [false, false, true], &[201, 203]),       // info
        (Metadata, [false, true, true], &[]),                // info -U
        (Metadata, [false, false, false], &[100, 201, 203]), // convert from, backing files, snapshot -l
        (Metadata, [false, true, false], &[100]),            // the same with -U
        (Metadata, [true, false, false], &[100, 101, 103, 201, 203]), // snapshot -c, convert -n to
        (Raw, [false, false, true], &[]),                    // info
        (Raw, [false, false, false], &[100, 201, 203]),      // convert from
        (Raw, [false, true, false], &[100]),                 // convert -U from
        (Raw, [true, false, false], &[100, 101]),            // convert to
        (Data, [false, false, false], &[100, 201, 203]),     // convert from
        (Data, [false, true, false], &[100]),                // convert -U from
        (Data, [true, false, false], &[100, 101, 103, 203]), // convert -n to
    ];
    let file = tempfile::NamedTempFile::new().unwrap();
    let name = file.path().to_str().unwrap();
    let other = File::open(name).unwrap();
    for (role, [write, share, no_io], bytes) in cases {
        let storage = FileStorage::open(name, OpenMode::WRITE, CacheMode::WRITEBACK).unwrap();
        storage.lock(Permissions::for_file(role, write, share, no_io)).unwrap();
        let locked: Vec<u64> = (0..300).filter(|at| lock::held_by_others(other.as_fd(), *at).unwrap()).collect();
        assert_eq!(locked, bytes, "{role:?} {write} {share} {no_io}");
    }
}

#[test]
fn a_tolerant_reader_minds_only_what_it_depends_on() {
    use FileRole::{Data, Metadata, Raw};
    let cases: [(FileRole, bool, &[u64]); 6] = [
        // role, no_io, bytes
        (Metadata, false, &[100, 201, 203]), // map, compare, bench
        (Raw, false, &[100]),
        (Data, false, &[100, 203]),
        (Metadata, true, &[201, 203]), // info
        (Raw, true, &[]),
        (Data, true, &[]),
    ];
    for (role, no_io, bytes) in cases {
        let found: Vec<_> = Permissions::for_file(role, false, false, no_io).tolerant(role).bytes().collect();
        assert_eq!(found, bytes, "{role:?} {no_io}");
        assert_eq!(Permissions::for_file(role, false, true, no_io).tolerant(role).refused, 0, "{role:?} with -U");
    }
}

/// The reference, holding an image open until it is dropped.
struct Holder(Child);

impl Holder {
    fn new(format: &str, writable: bool, name: &str) -> Option<Holder> {
        let mut args = vec!["-f", format, name];
        if !writable {
            args.insert(0, "-r");
        }
        let child = Command::new("qemu-io").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                println!("skipped: qemu-io: {error}");
                return None;
            }
        };
        // It answers once the image is open.
        child.stdin.as_mut()?.write_all(b"length\n").ok()?;
        let mut answer = [0; 16];
        std::io::Read::read(child.stdout.as_mut()?, &mut answer).ok()?;
        Some(Holder(child))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A tool of the reference.
fn reference() -> Command {
    Command::new(std::env::var_os("QEMU_IMG_REFERENCE").unwrap_or_else(|| "/usr/bin/qemu-img".into()))
}

fn image(dir: &tempfile::TempDir) -> Option<String> {
    let name = dir.path().join("image").to_str()?.to_owned();
    match reference().args(["create", "-q", "-f", "qcow2", &name, "1M"]).status() {
        Ok(status) if status.success() => Some(name),
        other => {
            println!("skipped: qemu-img: {other:?}");
            None
        }
    }
}

#[test]
fn keeps_out_of_images_that_the_reference_uses() {
    let dir = tempfile::tempdir().unwrap();
    let Some(name) = image(&dir) else { return };
    let attempt = |permissions| {
        let storage = FileStorage::open(&name, OpenMode::WRITE, CacheMode::WRITEBACK).unwrap();
        storage.lock(permissions).err().map(|error| error.to_string())
    };
    let qcow2 = |write, share| Permissions::for_file(FileRole::Metadata, write, share, false);
    let Some(holder) = Holder::new("qcow2", true, &name) else { return };
    assert_eq!(attempt(qcow2(true, false)).as_deref(), Some("Failed to get \"write\" lock"));
    assert_eq!(attempt(qcow2(false, false)).as_deref(), Some("Failed to get shared \"write\" lock"));
    assert_eq!(attempt(qcow2(false, true)), None);
    drop(holder);
    let Some(_holder) = Holder::new("qcow2", false, &name) else { return };
    assert_eq!(attempt(qcow2(true, false)).as_deref(), Some("Failed to get \"write\" lock"));
    assert_eq!(attempt(qcow2(false, false)), None);
}

#[test]
fn keeps_the_reference_out_of_images_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let Some(name) = image(&dir) else { return };
    let storage = FileStorage::open(&name, OpenMode::WRITE, CacheMode::WRITEBACK).unwrap();
    storage.lock(Permissions::for_file(FileRole::Metadata, true, false, false)).unwrap();
    let run = |args: &[&str]| {
        let output = reference().args(args).arg(&name).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let hint = format!("Is another process using the image [{name}]?");
    for (args, message) in [
        (&["snapshot", "-c", "x"][..], "Failed to get \"write\" lock"),
        (&["snapshot", "-l"][..], "Failed to get shared \"write\" lock"),
        (&["info"][..], "Failed to get shared \"write\" lock"),
    ] {
        let text = run(args);
        assert!(text.contains(message) && text.contains(&hint), "{args:?}: {text}");
    }
    assert_eq!(run(&["info", "-U"]), "");
    storage.lock(Permissions::NONE).unwrap();
    assert_eq!(run(&["snapshot", "-c", "x"]), "");
}
