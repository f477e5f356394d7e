//! Amending when requests fail and when the power goes: disk and snapshots hold what they held, and only space is lost.

use std::sync::Arc;

use crate::error::Result;
use crate::format::CreateOptions;
use crate::format::qcow2::snapshot::fault_tests::{contents, image, verify};
use crate::format::qcow2::testing::{available, open_storage, report};
use crate::image::{Amend, Layer, OpenContext, OpenFlags};
use crate::storage::crash::Replay;
use crate::storage::fault::{FaultStorage, Op};
use crate::storage::{MemStorage, Storage};

/// Images by their creation options, and what becomes of them.
const CASES: [(&str, &str, &str); 6] = [
    ("cluster_size=4k", "refcount_bits", "64"),
    ("cluster_size=512", "refcount_bits", "8"),
    ("cluster_size=64k", "refcount_bits", "8"),
    ("cluster_size=4k", "compat", "0.10"),
    ("cluster_size=64k", "compat", "0.10"),
    ("cluster_size=4k,compat=0.10", "compat", "1.1"),
];

fn amend(layer: &dyn Layer, name: &str, value: &str) -> Result<()> {
    let options = CreateOptions(vec![(name.to_owned(), value.to_owned())]);
    let context = OpenContext::default();
    layer.amend(&Amend { options: &options, force: false, context: &context, resize: &|_| Ok(()) })?;
    layer.flush()
}

#[test]
fn a_crash_loses_nothing() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut states = 0;
    for (create, name, value) in CASES {
        let initial = image(dir.path(), create);
        let start: Arc<dyn Storage> = Arc::new(MemStorage::new(initial.clone()));
        let held = contents(&start).expect("readable");
        let recorder = Arc::new(FaultStorage::new(Arc::new(MemStorage::new(initial.clone()))));
        let layer = open_storage(Arc::clone(&recorder) as _, OpenFlags::WRITE).expect("it opens");
        amend(&*layer, name, value).expect("nothing fails");
        let replay = Replay::new(std::slice::from_ref(&initial), &[&recorder]);
        assert!(replay.is_durable(), "{create} {name}={value}");
        states += replay.each(|state| {
            let verdict = verify(dir.path(), &state.files[0], [&held, &held]);
            assert_eq!(verdict, Ok(()), "{create} {name}={value} cut off after {}, {}", state.at, state.story);
        });
    }
    report("amend", states);
}

#[test]
fn a_failed_request_loses_nothing() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (create, name, value) in CASES {
        let initial = image(dir.path(), create);
        let start: Arc<dyn Storage> = Arc::new(MemStorage::new(initial.clone()));
        let held = contents(&start).expect("readable");
        for op in [Op::Read, Op::Write, Op::Flush, Op::Zero, Op::SetLen] {
            for (nth, lasting) in (1..60).flat_map(|nth| [(nth, false), (nth, true)]) {
                let memory = Arc::new(MemStorage::new(initial.clone()));
                let faulty = Arc::new(FaultStorage::new(Arc::clone(&memory) as _));
                let layer = open_storage(Arc::clone(&faulty) as _, OpenFlags::WRITE).expect("it opens");
                match lasting {
                    true => faulty.fail_from(op, nth, libc::EIO),
                    false => faulty.fail(op, nth, libc::EIO),
                }
                let count = faulty.count(op);
                let result = amend(&*layer, name, value);
                let what = format!("{create} {name}={value} with {op:?} {nth} failing, lasting {lasting}: {result:?}");
                let bytes = memory.to_vec();
                assert_eq!(verify(dir.path(), &bytes, [&held, &held]), Ok(()), "{what}");
                if faulty.count(op) < count + nth {
                    assert!(result.is_ok(), "{what}");
                    break;
                }
            }
        }
    }
}
