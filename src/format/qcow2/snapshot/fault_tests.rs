//! Snapshots when requests fail and when the power goes: nothing that was there is lost, and no cluster is counted less
//! often than it is used.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::format::qcow2::testing::{available, expect, open_storage, read_all, report, soundness};
use crate::image::{Layer, OpenFlags};
use crate::storage::crash::Replay;
use crate::storage::fault::{Event, FaultStorage, Op};
use crate::storage::{MemStorage, Storage};

/// An image with two snapshots and writes before, between and after them.
pub(in crate::format::qcow2) fn image(dir: &Path, options: &str) -> Vec<u8> {
    let write = |commands: &[&str]| {
        let args: Vec<_> = commands.iter().flat_map(|command| ["-c", command]).chain(["i"]).collect();
        expect(dir, "qemu-io", &args);
    };
    let _ = std::fs::remove_file(dir.join("i"));
    expect(dir, "qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, "i", "2M"]);
    write(&["write -P 1 0 300k", "write -c -P 2 512k 64k", "write -z 640k 64k"]);
    expect(dir, "qemu-img", &["snapshot", "-c", "one", "i"]);
    write(&["write -P 3 100k 300k", "write -P 4 1500k 50k"]);
    expect(dir, "qemu-img", &["snapshot", "-c", "two", "i"]);
    write(&["write -P 5 200k 10k", "write -P 6 1M 100k"]);
    std::fs::read(dir.join("i")).expect("the image")
}

/// An image without snapshots, with so much in it that its refcount table had to move.
fn filled(dir: &Path) -> Vec<u8> {
    expect(dir, "qemu-img", &["create", "-q", "-f", "qcow2", "-o", FILLED, "f", "2M"]);
    expect(dir, "qemu-io", &["-c", "write -P 1 0 2M", "f"]);
    std::fs::read(dir.join("f")).expect("the image")
}

/// What the disk and each snapshot hold, by name; the disk's name is empty.
pub(in crate::format::qcow2) fn contents(storage: &Arc<dyn Storage>) -> Result<Vec<(String, Vec<u8>)>> {
    let layer = open_storage(Arc::clone(storage), OpenFlags::READ)?;
    let names: Vec<_> = layer.snapshots().expect("qcow2 has them").list()?.into_iter().map(|info| info.name).collect();
    let mut found = vec![(String::new(), read_all(&*layer)?)];
    for name in names {
        let layer = open_storage(Arc::clone(storage), OpenFlags::READ)?;
        layer.snapshots().expect("qcow2 has them").view(None, Some(&name))?;
        found.push((name, read_all(&*layer)?));
    }
    Ok(found)
}

/// One operation, as a test case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Create,
    Apply,
    Delete,
    /// Not one on snapshots, but it goes the same ways.
    Empty,
}

const CASES: [Case; 4] = [Case::Create, Case::Apply, Case::Delete, Case::Empty];

impl Case {
    fn run(self, layer: &dyn Layer) -> Result<()> {
        let snapshots = layer.snapshots().expect("qcow2 has them");
        match self {
            Case::Create => snapshots.create("three"),
            Case::Apply => snapshots.apply("one"),
            Case::Delete => snapshots.delete("one"),
            Case::Empty => layer.make_empty(),
        }
    }

    /// What must be there afterwards, given what was there before.
    fn after(self, before: &[(String, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
        let mut after = before.to_vec();
        match self {
            Case::Create => after.push(("three".into(), before[0].1.clone())),
            Case::Apply => after[0].1 = before[1].1.clone(),
            Case::Delete => _ = after.remove(1),
            Case::Empty => after[0].1.fill(0),
        }
        after
    }
}

/// Whether `image` holds what it held before or after, and has no errors but leaks.
pub(in crate::format::qcow2) fn verify(
    dir: &Path,
    bytes: &[u8],
    wanted: [&[(String, Vec<u8>)]; 2],
) -> Result<(), String> {
    let storage: Arc<dyn Storage> = Arc::new(MemStorage::new(bytes.to_vec()));
    let found = contents(&storage).map_err(|error| format!("unreadable: {error}"))?;
    if !wanted.contains(&&found[..]) {
        let names: Vec<_> = found.iter().map(|(name, _)| name).collect();
        return Err(format!("holds something else: {names:?}"));
    }
    soundness(dir, bytes)
}

pub(in crate::format::qcow2) const OPTIONS: [&str; 4] =
    ["cluster_size=64k", "cluster_size=4k", "cluster_size=16k,extended_l2=on", "cluster_size=512,refcount_bits=64"];
const FILLED: &str = OPTIONS[3];

/// Images of every layout, each operation on each of them: folder for files, options, operation, the image's bytes, and
/// what it holds.
fn each_case(mut body: impl FnMut(&Path, &str, Case, &[u8], &[(String, Vec<u8>)])) {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    for options in OPTIONS {
        let initial = image(dir.path(), options);
        let start: Arc<dyn Storage> = Arc::new(MemStorage::new(initial.clone()));
        let before = contents(&start).expect("readable");
        for case in CASES {
            body(dir.path(), options, case, &initial, &before);
        }
    }
    let initial = filled(dir.path());
    let start: Arc<dyn Storage> = Arc::new(MemStorage::new(initial.clone()));
    body(dir.path(), FILLED, Case::Empty, &initial, &contents(&start).expect("readable"));
}

/// Whether an image is the one of [`filled`].
fn is_filled(image: &[u8]) -> bool {
    image.len() > 2 << 20
}

#[test]
fn an_empty_image_is_small() {
    each_case(|_, _, case, initial, _| {
        if is_filled(initial) {
            let memory = Arc::new(MemStorage::new(initial.to_vec()));
            case.run(&*open_storage(Arc::clone(&memory) as _, OpenFlags::WRITE).expect("it opens")).expect("it works");
            // The header, L1 table, refcount block and refcount table, and a gap that is too small for the last two.
            assert_eq!((initial.len() > 2 << 20, memory.to_vec().len()), (true, 5 * 512));
        }
    });
}

/// Small clusters make many requests; a sample of them is enough then.
fn step(options: &str) -> usize {
    if options == FILLED { 7 } else { 1 }
}

#[test]
fn a_crash_loses_nothing() {
    let (mut cuts, mut states) = (0, 0);
    each_case(|dir, options, case, initial, before| {
        let recorder = Arc::new(FaultStorage::new(Arc::new(MemStorage::new(initial.to_vec()))));
        let layer = open_storage(Arc::clone(&recorder) as _, OpenFlags::WRITE).expect("it opens");
        case.run(&*layer).expect("nothing fails");
        let events = recorder.events();
        cuts += events.iter().filter(|event| matches!(event, Event::SetLen(_))).count();
        let after = case.after(before);
        let replay = Replay::new(&[initial.to_vec()], &[&recorder]);
        assert!(replay.is_durable(), "{options} {case:?}");
        states += replay.each(|state| {
            let verdict = verify(dir, &state.files[0], [before, &after]);
            let (at, of, story) = (state.at, events.len(), &state.story);
            assert_eq!(verdict, Ok(()), "{options} {case:?} cut off after {at} of {of}, {story}");
        });
    });
    report("snapshots", states);
    assert!(cuts > 0 || !available(), "the file becomes shorter in some of these cases");
}

#[test]
fn a_failed_request_loses_nothing() {
    each_case(|dir, options, case, initial, before| {
        if options == FILLED && !is_filled(initial) {
            return;
        }
        let after = case.after(before);
        let ops = [Op::Read, Op::Write, Op::Flush, Op::Zero, Op::SetLen].map(|op| (op, libc::EIO));
        // Where there is no room, another way is tried.
        for (op, errno) in ops.into_iter().chain([(Op::Write, libc::ENOSPC), (Op::SetLen, libc::ENOSPC)]) {
            for (nth, lasting) in (1..200).step_by(step(options)).flat_map(|nth| [(nth, false), (nth, true)]) {
                let memory = Arc::new(MemStorage::new(initial.to_vec()));
                let faulty = Arc::new(FaultStorage::new(Arc::clone(&memory) as _));
                let layer = open_storage(Arc::clone(&faulty) as _, OpenFlags::WRITE).expect("it opens");
                match lasting {
                    true => faulty.fail_from(op, nth, errno),
                    false => faulty.fail(op, nth, errno),
                }
                let count = faulty.count(op);
                let result = case.run(&*layer);
                let what =
                    format!("{options} {case:?} with {op:?} {nth} failing ({errno}), lasting {lasting}: {result:?}");
                let wanted = if result.is_ok() { [&*after, &*after] } else { [before, &*after] };
                assert_eq!(verify(dir, &memory.to_vec(), wanted), Ok(()), "{what}");
                assert!(result.map_or_else(|error| error.errno() == errno, |()| true), "{what}");
                if faulty.count(op) < count + nth {
                    break;
                }
            }
        }
    });
}
