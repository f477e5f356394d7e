//! Another size when requests fail and when the power goes: the disk is the former or the new one, its snapshots stay as
//! they are, and nothing but space is lost.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::format::qcow2::snapshot::fault_tests::{OPTIONS, contents, image, verify};
use crate::format::qcow2::testing::{available, open_storage, report};
use crate::image::{Layer, OpenFlags, Preallocation, Resize};
use crate::storage::crash::Replay;
use crate::storage::fault::{FaultStorage, Op};
use crate::storage::{MemStorage, Storage};

/// New sizes of a disk of 2 MiB, and how what is new is prepared. One L2 table of 4 KiB maps 2 MiB, so that the L1 table
/// has to grow, too.
const CASES: [(u64, Preallocation); 4] = [
    (5 << 20, Preallocation::Off),
    (3 << 20, Preallocation::Metadata),
    (1 << 20, Preallocation::Off),
    (100 << 10, Preallocation::Off),
];

fn resize(layer: &dyn Layer, (size, preallocation): (u64, Preallocation)) -> Result<()> {
    layer.resize(&Resize { size, preallocation, covers_backing: false, blank: &|| Ok(()) })?;
    layer.flush()
}

/// Images of every layout, each new size for each of them: folder for files, name, size, the image's bytes, what it holds
/// and what it shall hold.
type Held = [(String, Vec<u8>)];
fn each_case(mut body: impl FnMut(&Path, &str, (u64, Preallocation), &[u8], [&Held; 2])) {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    for options in OPTIONS {
        let initial = image(dir.path(), options);
        let start: Arc<dyn Storage> = Arc::new(MemStorage::new(initial.clone()));
        let before = contents(&start).expect("readable");
        for case in CASES {
            let mut after = before.clone();
            // A snapshot is shown within the size that the disk has.
            after.iter_mut().for_each(|(_, bytes)| bytes.resize(case.0 as usize, 0));
            let sized = snapshots_sized(&start, case);
            after[1..].clone_from_slice(&sized[1..]);
            body(dir.path(), options, case, &initial, [&before, &after]);
        }
    }
}

/// What the snapshots are after a new size where nothing fails.
fn snapshots_sized(start: &Arc<dyn Storage>, case: (u64, Preallocation)) -> Vec<(String, Vec<u8>)> {
    let mut bytes = vec![0; start.len().expect("in memory") as usize];
    start.read_at(&mut bytes, 0).expect("in memory");
    let copy: Arc<dyn Storage> = Arc::new(MemStorage::new(bytes));
    let layer = open_storage(Arc::clone(&copy), OpenFlags::WRITE).expect("it opens");
    resize(&*layer, case).expect("nothing fails");
    drop(layer);
    contents(&copy).expect("readable")
}

#[test]
fn a_crash_loses_nothing() {
    let mut states = 0;
    each_case(|dir, options, case, initial, wanted| {
        let recorder = Arc::new(FaultStorage::new(Arc::new(MemStorage::new(initial.to_vec()))));
        let layer = open_storage(Arc::clone(&recorder) as _, OpenFlags::WRITE).expect("it opens");
        resize(&*layer, case).expect("nothing fails");
        let replay = Replay::new(&[initial.to_vec()], &[&recorder]);
        assert!(replay.is_durable(), "{options} {case:?}");
        states += replay.each(|state| {
            let verdict = verify(dir, &state.files[0], wanted);
            assert_eq!(verdict, Ok(()), "{options} {case:?} cut off after {}, {}", state.at, state.story);
        });
    });
    report("resize", states);
}

#[test]
fn a_failed_request_loses_nothing() {
    each_case(|dir, options, case, initial, wanted| {
        if options == OPTIONS[3] {
            return;
        }
        for op in [Op::Read, Op::Write, Op::Flush, Op::Zero, Op::SetLen] {
            for (nth, lasting) in (1..200).flat_map(|nth| [(nth, false), (nth, true)]) {
                let memory = Arc::new(MemStorage::new(initial.to_vec()));
                let faulty = Arc::new(FaultStorage::new(Arc::clone(&memory) as _));
                let layer = open_storage(Arc::clone(&faulty) as _, OpenFlags::WRITE).expect("it opens");
                match lasting {
                    true => faulty.fail_from(op, nth, libc::EIO),
                    false => faulty.fail(op, nth, libc::EIO),
                }
                let count = faulty.count(op);
                let result = resize(&*layer, case);
                let what = format!("{options} {case:?} with {op:?} {nth} failing, lasting {lasting}: {result:?}");
                let bytes = memory.to_vec();
                assert_eq!(verify(dir, &bytes, wanted), Ok(()), "{what}");
                if faulty.count(op) < count + nth {
                    assert!(result.is_ok(), "{what}");
                    break;
                }
            }
        }
    });
}
