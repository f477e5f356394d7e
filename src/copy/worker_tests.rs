use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::copy::testing::{FakeLayer, Part};
use crate::copy::{CopyOptions, Monitor, Source, Unwatched};
use crate::error::Kind;
use crate::image::{Chain, Node};
use crate::storage::fault::{FaultStorage, Op};
use crate::storage::{MemStorage, Storage};

const K: u64 = 1024;
const M: u64 = 1024 * K;

fn chain(layer: Box<dyn Layer>) -> Chain {
    Chain::new(vec![Node::new(layer, "fake")])
}

fn options(workers: usize) -> CopyOptions {
    CopyOptions {
        workers,
        in_order: true,
        min_sparse: 4096,
        target: TargetState::Zero,
        compress: None,
        salvage: false,
        offload: OffloadMode::Never,
        rate: None,
        grows: false,
    }
}

/// A raw image in memory.
fn target(bytes: Vec<u8>) -> (Arc<MemStorage>, Chain) {
    let storage = Arc::new(MemStorage::new(bytes));
    let layer = crate::format::raw::over(Arc::clone(&storage) as Arc<dyn Storage>);
    (storage, chain(layer))
}

fn parts() -> Vec<(u64, Part)> {
    vec![(5 * M + 512, Part::Data), (3 * M, Part::Zero), (700 * K, Part::Data), (M, Part::Nothing), (6 * M, Part::Data)]
}

fn expected(parts: &[(u64, Part)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &(len, part) in parts {
        let start = bytes.len() as u64;
        bytes.extend((start..start + len).map(|at| if part == Part::Data { FakeLayer::byte(at) } else { 0 }));
    }
    bytes
}

fn copy(source: FakeLayer, options: CopyOptions, old: u8, monitor: &dyn Monitor) -> (Vec<u8>, Result<()>) {
    let chains = [chain(Box::new(source))];
    let source = Source::new(&chains, false);
    let (storage, target) = target(vec![old; source.size() as usize]);
    let result = run(Job { source: &source, target: &target, options, monitor, digest: None });
    (storage.to_vec(), result)
}

#[test]
fn every_number_of_workers_copies_the_same() {
    let parts = parts();
    let wanted = expected(&parts);
    for workers in [1, 5] {
        for (old, state) in [(0, TargetState::Zero), (7, TargetState::Unknown)] {
            for (in_order, min_sparse) in [(true, 4096), (false, 512), (true, 0), (true, 12288)] {
                let options = CopyOptions { target: state, in_order, min_sparse, ..options(workers) };
                let (bytes, result) = copy(FakeLayer::new(&parts), options, old, &Unwatched);
                result.unwrap();
                assert!(bytes == wanted, "{workers} workers onto {old}, {options:?}");
            }
        }
    }
}

#[test]
fn an_error_names_the_start_of_the_read() {
    for workers in [1, 4] {
        let mut source = FakeLayer::new(&parts());
        source.bad_read = Some(4 * M + 100..4 * M + 101);
        let (_, result) = copy(source, options(workers), 0, &Unwatched);
        let text = result.unwrap_err().to_string();
        assert_eq!(text, format!("error while reading at byte {}: Input/output error", 4 * M));
    }
}

/// Collects warnings and counts.
#[derive(Default)]
struct Recorder {
    warnings: Mutex<Vec<String>>,
    total: AtomicU64,
    done: AtomicU64,
    signal: AtomicI32,
}

impl Monitor for Recorder {
    fn total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    fn wants_total(&self) -> bool {
        true
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn warn(&self, text: &str) {
        self.warnings.lock().unwrap().push(text.to_owned());
    }

    fn interrupted(&self) -> Option<i32> {
        let signal = self.signal.load(Ordering::Relaxed);
        (signal != 0).then_some(signal)
    }
}

#[test]
fn salvage_puts_zeros_where_nothing_can_be_read() {
    let parts = parts();
    let mut source = FakeLayer::new(&parts);
    source.bad_read = Some(M + 100..M + 700);
    let recorder = Recorder::default();
    let (bytes, result) = copy(source, CopyOptions { salvage: true, ..options(3) }, 0, &recorder);
    result.unwrap();
    let mut wanted = expected(&parts);
    wanted[M as usize..M as usize + 1024].fill(0);
    assert!(bytes == wanted);
    let warnings = recorder.warnings.into_inner().unwrap();
    assert_eq!(
        warnings,
        [
            format!("error while reading offset {M}: Input/output error"),
            format!("error while reading offset {}: Input/output error", M + 512),
        ]
    );
}

#[test]
fn progress_reaches_its_total() {
    let recorder = Recorder::default();
    let (_, result) = copy(FakeLayer::new(&parts()), options(2), 0, &recorder);
    result.unwrap();
    let data: u64 = parts().iter().filter(|(_, part)| *part == Part::Data).map(|(len, _)| len).sum();
    assert_eq!(recorder.total.load(Ordering::Relaxed), data);
    assert_eq!(recorder.done.load(Ordering::Relaxed), data);
}

#[test]
fn a_signal_ends_the_copy() {
    let recorder = Recorder { signal: AtomicI32::new(15), ..Recorder::default() };
    let (_, result) = copy(FakeLayer::new(&parts()), options(2), 0, &recorder);
    assert!(matches!(result.unwrap_err().kind(), Kind::Interrupted(15)));
}

#[test]
fn a_backed_target_keeps_what_the_source_has_from_its_backing_file() {
    let parts = [(M, Part::Nothing), (M, Part::Data), (M, Part::Zero)];
    let node = |parts: &[(u64, Part)]| Node::new(Box::new(FakeLayer::new(parts)), "fake");
    let chains = [Chain::new(vec![node(&parts), node(&[(3 * M, Part::Nothing)])])];
    let source = Source::new(&chains, true);
    let (storage, target) = target(vec![7; 3 * M as usize]);
    let options = CopyOptions { target: TargetState::Backed { zero_from: u64::MAX }, ..options(2) };
    run(Job { source: &source, target: &target, options, monitor: &Unwatched, digest: None }).unwrap();
    let mut wanted = expected(&parts);
    wanted[..M as usize].fill(7);
    assert!(storage.to_vec() == wanted);
}

#[test]
fn a_rate_limit_takes_its_time() {
    let start = Instant::now();
    let options = CopyOptions { rate: Some(crate::copy::rate::Rate::Before(20 * M)), ..options(2) };
    copy(FakeLayer::new(&[(6 * M, Part::Data)]), options, 0, &Unwatched).1.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(150), "{:?}", start.elapsed());
}

#[test]
fn a_full_disk_ends_the_copy() {
    for (workers, nth, from) in [(1, 3, Some(4 * M)), (4, 1, None)] {
        let storage = Arc::new(FaultStorage::in_memory());
        storage.set_len(32 * M).unwrap();
        let target = chain(crate::format::raw::over(Arc::clone(&storage) as Arc<dyn Storage>));
        storage.fail_from(Op::Write, nth, libc::ENOSPC);
        let mut source = FakeLayer::new(&[(32 * M, Part::Data)]);
        source.dense = true;
        let chains = [chain(Box::new(source))];
        let source = Source::new(&chains, false);
        let error =
            run(Job { source: &source, target: &target, options: options(workers), monitor: &Unwatched, digest: None })
                .unwrap_err()
                .to_string();
        assert!(error.starts_with("error while writing at byte "), "{error}");
        assert!(error.ends_with(": No space left on device"), "{error}");
        if let Some(from) = from {
            assert!(error.contains(&format!(" {from}:")), "{error}");
        }
    }
}
