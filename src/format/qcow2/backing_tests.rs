//! Naming another backing file when requests fail and when the power goes. The header is one write, and what a disk keeps
//! of that is taken to be all or nothing here.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::format::qcow2::testing::{available, expect, open_storage, read_all, report, tool};
use crate::image::{BackingRef, OpenFlags};
use crate::storage::crash::Replay;
use crate::storage::fault::{FaultStorage, Op};
use crate::storage::{MemStorage, Storage};

fn named(name: &str) -> Option<BackingRef> {
    Some(BackingRef { filename: name.into(), format: Some("raw".into()) })
}

/// What an image may be turned into: the name it has, those it gets.
fn cases() -> Vec<(Option<BackingRef>, Option<BackingRef>)> {
    vec![
        (None, named("other")),
        (named("first"), named("second-and-longer")),
        (named("first"), None),
        (named(&"n".repeat(1023)), named("short")),
        (named("short"), named(&"n".repeat(1023))),
    ]
}

/// An image with some data, and bitmaps, which its header also names.
fn image(dir: &Path, options: &str, backing: Option<&BackingRef>) -> Vec<u8> {
    let _ = std::fs::remove_file(dir.join("i"));
    expect(dir, "qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, "i", "1M"]);
    expect(dir, "qemu-io", &["-c", "write -P 1 100k 200k", "i"]);
    if !options.contains("compat=0.10") {
        expect(dir, "qemu-img", &["bitmap", "--add", "i", "bits"]);
    }
    if let Some(backing) = backing {
        expect(dir, "qemu-img", &["rebase", "-u", "-b", &backing.filename, "-F", "raw", "i"]);
    }
    std::fs::read(dir.join("i")).expect("the image")
}

fn look(storage: &Arc<dyn Storage>) -> Result<(Option<BackingRef>, Vec<u8>)> {
    let layer = open_storage(Arc::clone(storage), OpenFlags::READ)?;
    Ok((layer.backing(), read_all(&*layer)?))
}

fn each(mut body: impl FnMut(&Path, &[u8], [&Option<BackingRef>; 2], &str)) {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    for options in ["cluster_size=64k", "cluster_size=4k", "cluster_size=16k,extended_l2=on", "compat=0.10"] {
        for (old, new) in cases() {
            let initial = image(dir.path(), options, old.as_ref());
            let what = format!("{options}: {:?} -> {:?}", old.is_some(), new.is_some());
            body(dir.path(), &initial, [&old, &new], &what);
        }
    }
}

#[test]
fn the_image_names_one_or_the_other_after_a_crash() {
    let mut states = 0;
    each(|dir, initial, [old, new], what| {
        let recorder = Arc::new(FaultStorage::new(Arc::new(MemStorage::new(initial.to_vec()))));
        let layer = open_storage(Arc::clone(&recorder) as _, OpenFlags::WRITE).expect("it opens");
        layer.set_backing(new.as_ref()).expect("nothing fails");
        let start: Arc<dyn Storage> = Arc::new(MemStorage::new(initial.to_vec()));
        let (_, content) = look(&start).expect("readable");
        let mut last = Vec::new();
        let replay = Replay::new(&[initial.to_vec()], &[&recorder]);
        assert!(replay.is_durable(), "{what}");
        states += replay.each(|state| {
            let (backing, found) = look(&(Arc::new(MemStorage::new(state.file())) as _)).expect("readable");
            let after = format!("{what} after {}, {}", state.at, state.story);
            assert!(backing == *old || backing == *new, "{after}: {backing:?}");
            assert_eq!(found, content, "{after}");
            last = state.file();
        });
        let (backing, _) = look(&(Arc::new(MemStorage::new(last.clone())) as _)).expect("readable");
        assert_eq!(backing, *new, "{what}");
        std::fs::write(dir.join("o"), last).expect("a temporary file");
        let done = tool(dir, "qemu-img", &["check", "--image-opts", "driver=qcow2,backing=,file.filename=o"]);
        assert_eq!(done.code, 0, "{what}: {}", done.text);
    });
    report("another backing file", states);
}

#[test]
fn the_image_names_one_or_the_other_after_a_failure() {
    each(|_, initial, [old, new], what| {
        for op in [Op::Read, Op::Write, Op::Flush] {
            for nth in 1..50 {
                let memory = Arc::new(MemStorage::new(initial.to_vec()));
                let faulty = Arc::new(FaultStorage::new(Arc::clone(&memory) as _));
                let layer = open_storage(Arc::clone(&faulty) as _, OpenFlags::WRITE).expect("it opens");
                faulty.fail(op, nth, libc::EIO);
                let count = faulty.count(op);
                let result = layer.set_backing(new.as_ref());
                let (backing, _) = look(&(memory as _)).expect("readable");
                assert!(backing == *old || backing == *new, "{what}, {op:?} {nth}: {backing:?}");
                if faulty.count(op) < count + nth {
                    assert!(result.is_ok() && backing == *new, "{what}, {op:?} {nth}: {result:?}");
                    break;
                }
            }
        }
    });
}

#[test]
fn names_that_do_not_fit_are_refused_beforehand() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    if !available() {
        return;
    }
    expect(dir.path(), "qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "i", "1M"]);
    let bytes = std::fs::read(dir.path().join("i")).expect("the image");
    let memory = Arc::new(MemStorage::new(bytes.clone()));
    let layer = open_storage(Arc::clone(&memory) as _, OpenFlags::WRITE).expect("it opens");
    for (len, errno) in [(377, libc::ENOSPC), (1024, libc::EINVAL)] {
        let long = named(&"n".repeat(len));
        assert_eq!(layer.check_backing(long.as_ref()).unwrap_err().errno(), errno);
        assert_eq!(layer.set_backing(long.as_ref()).unwrap_err().errno(), errno);
        assert_eq!(memory.to_vec(), bytes);
    }
    let short = named(&"n".repeat(376));
    layer.set_backing(short.as_ref()).expect("it fits");
    assert_eq!(look(&(memory as _)).expect("readable").0, short);
}
