//! Conversions into an existing image when requests fail: the error is reported, and the image and its snapshot are whole.

use std::path::Path;
use std::sync::Arc;

use super::testing::{FakeLayer, Part};
use super::{CopyOptions, Job, OffloadMode, Source, TargetState, Unwatched, run};
use crate::error::Result;
use crate::format::qcow2::testing::{available, expect, open_storage, read_all, report, soundness};
use crate::image::{Chain, Node, OpenFlags};
use crate::storage::crash::Replay;
use crate::storage::fault::{FaultStorage, Op};
use crate::storage::{MemStorage, Storage};

const K: u64 = 1024;

/// An image of 4 MiB with a snapshot.
fn image(dir: &Path, options: &str) -> Vec<u8> {
    let _ = std::fs::remove_file(dir.join("i"));
    expect(dir, "qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, "i", "4M"]);
    expect(dir, "qemu-io", &["-c", "write -P 1 0 1M", "-c", "write -P 2 3M 300k", "i"]);
    expect(dir, "qemu-img", &["snapshot", "-c", "kept", "i"]);
    expect(dir, "qemu-io", &["-c", "write -P 3 512k 64k", "i"]);
    std::fs::read(dir.join("i")).expect("the image")
}

fn convert(storage: &Arc<dyn Storage>) -> Result<()> {
    let parts = [(1100 * K, Part::Data), (700 * K, Part::Zero), (1500 * K, Part::Data), (796 * K, Part::Zero)];
    let chains = [Chain::new(vec![Node::new(Box::new(FakeLayer::new(&parts)), "fake")])];
    let target = Chain::new(vec![Node::new(open_storage(Arc::clone(storage), OpenFlags::WRITE)?, "i")]);
    let options = CopyOptions {
        workers: 2,
        in_order: true,
        min_sparse: 4096,
        target: TargetState::Unknown,
        compress: None,
        salvage: false,
        offload: OffloadMode::Never,
        rate: None,
        grows: false,
    };
    let source = Source::new(&chains, false);
    run(Job { source: &source, target: &target, options, monitor: &Unwatched, digest: None })?;
    target.top().layer.flush()
}

fn snapshot(storage: &Arc<dyn Storage>) -> Vec<u8> {
    let layer = open_storage(Arc::clone(storage), OpenFlags::READ).expect("it opens");
    layer.snapshots().expect("qcow2 has them").view(None, Some("kept")).expect("it is there");
    read_all(&*layer).expect("readable")
}

const OPTIONS: [&str; 2] = ["cluster_size=64k", "cluster_size=16k,extended_l2=on"];

#[test]
fn a_failed_request_leaves_a_sound_target() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    for options in OPTIONS {
        let initial = image(dir.path(), options);
        let kept = snapshot(&(Arc::new(MemStorage::new(initial.clone())) as _));
        for op in [Op::Read, Op::Write, Op::Flush, Op::SetLen, Op::Zero] {
            for (nth, lasting) in (1..400).step_by(2).flat_map(|nth| [(nth, false), (nth + 1, true)]) {
                let memory = Arc::new(MemStorage::new(initial.clone()));
                let faulty = Arc::new(FaultStorage::new(Arc::clone(&memory) as _));
                match lasting {
                    true => faulty.fail_from(op, nth, libc::ENOSPC),
                    false => faulty.fail(op, nth, libc::EIO),
                }
                let result = convert(&(Arc::clone(&faulty) as _));
                let reached = faulty.count(op) >= nth;
                let what = format!("{options}, {op:?} {nth} failing, lasting {lasting}: {result:?}");
                assert!(snapshot(&(Arc::clone(&memory) as _)) == kept, "{what}");
                assert_eq!(soundness(dir.path(), &memory.to_vec()), Ok(()), "{what}");
                // Giving space back is a kindness; everything else must not fail silently.
                let silent = matches!(op, Op::Zero | Op::SetLen);
                assert!(result.is_err() == reached || (silent && reached), "{what}");
                if !reached {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_crash_leaves_a_sound_target() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut states = 0;
    for options in OPTIONS {
        let initial = image(dir.path(), options);
        let kept = snapshot(&(Arc::new(MemStorage::new(initial.clone())) as _));
        let recorder = Arc::new(FaultStorage::new(Arc::new(MemStorage::new(initial.clone()))));
        convert(&(Arc::clone(&recorder) as _)).expect("nothing fails");
        let replay = Replay::new(&[initial], &[&recorder]);
        assert!(replay.is_durable(), "{options}");
        states += replay.each(|state| {
            let what = format!("{options} cut off after {}, {}", state.at, state.story);
            assert!(snapshot(&(Arc::new(MemStorage::new(state.file())) as _)) == kept, "{what}");
            assert_eq!(soundness(dir.path(), &state.files[0]), Ok(()), "{what}");
        });
    }
    report("convert -n", states);
}
