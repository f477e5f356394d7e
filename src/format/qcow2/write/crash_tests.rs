//! Power failures at any moment while an existing image is written: what a flush has promised is there, nothing is
//! corrupt, and at worst space is lost.

use std::path::Path;
use std::sync::Arc;

use super::super::create::write_image;
use super::super::options;
use crate::crypto::Secrets;
use crate::error::Result;
use crate::format::CreateOptions;
use crate::format::qcow2::testing::{available, open_storage, read_all, report, soundness, tool};
use crate::image::{Layer, OpenFlags, Payload, Place, ZeroFlags};
use crate::storage::crash::Replay;
use crate::storage::fault::{FaultStorage, Op};
use crate::storage::{MemStorage, Storage};

const SIZE: u64 = 1 << 20;

fn new_image(list: &[(&str, &str)]) -> Vec<u8> {
    let mut options = CreateOptions::default();
    for (name, value) in list {
        options.set(name, *value);
    }
    let image = options::check(&options, SIZE, &Secrets::default()).unwrap();
    let storage = Arc::new(MemStorage::default());
    let file: Arc<dyn Storage> = Arc::clone(&storage) as Arc<dyn Storage>;
    write_image(&file, None, image).unwrap();
    storage.to_vec()
}

fn write(layer: &dyn Layer, guest: u64, data: &[u8]) -> Result<()> {
    let pending = layer.prepare(&[Place { guest, len: data.len() as u64, payload: Payload::Plain }])?;
    pending.write(guest, data)?;
    pending.commit()
}

/// A moment after which everything in `model` must survive, except that sectors that have been touched since may have
/// what was written to them.
struct Promise {
    events: usize,
    model: Vec<u8>,
    /// Later changes: the number of events when they began, the range, and the byte it was filled with.
    touched: Vec<(usize, std::ops::Range<usize>, u8)>,
}

/// Some changes to an image with data and a snapshot; returns what the disk held before them, and the promises.
fn scenario(storage: &Arc<FaultStorage>, inner: &MemStorage, unit: u64, seed: u64) -> (Vec<u8>, Vec<Promise>) {
    let layer = open_storage(Arc::clone(storage) as Arc<dyn Storage>, OpenFlags::WRITE).unwrap();
    let mut model = vec![0; SIZE as usize];
    model[..SIZE as usize / 2].fill(0x11);
    write(&*layer, 0, &model[..SIZE as usize / 2]).unwrap();
    layer.flush().unwrap();
    layer.snapshots().unwrap().create("kept").unwrap();
    layer.flush().unwrap();
    storage.clear_events();
    let initial = inner.to_vec();
    let mut promises = vec![Promise { events: 0, model: model.clone(), touched: Vec::new() }];
    let mut noise = seed;
    for step in 0..24_u64 {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let units = SIZE / unit;
        let from = (noise >> 33) % units;
        let len = (1 + (noise >> 20) % 40).min(units - from);
        let range = (from * unit) as usize..((from + len) * unit) as usize;
        let byte = if step % 4 == 3 { 0 } else { 0x20 + step as u8 };
        let promise = promises.last_mut().unwrap();
        promise.touched.push((storage.events().len(), range.clone(), byte));
        model[range.clone()].fill(byte);
        if step % 4 == 3 {
            layer.zero(range.start as u64, range.len() as u64, ZeroFlags { may_unmap: step % 8 == 3 }).unwrap();
        } else {
            write(&*layer, range.start as u64, &model[range.clone()]).unwrap();
        }
        if step % 5 == 4 {
            layer.flush().unwrap();
            let events = storage.events().len();
            promises.push(Promise { events, model: model.clone(), touched: Vec::new() });
        }
    }
    layer.flush().unwrap();
    promises.push(Promise { events: storage.events().len(), model, touched: Vec::new() });
    (initial, promises)
}

/// The reference finds nothing worse than leaks.
fn check(bytes: &[u8], dir: &Path, what: &str) {
    std::fs::write(dir.join("crashed.qcow2"), bytes).unwrap();
    let done = tool(dir, "qemu-img", &["check", "-f", "qcow2", "crashed.qcow2"]);
    assert!(matches!(done.code, 0 | 3), "{what}: {}", done.text);
}

/// Whether each sector of `found` has what was promised, or what was written there later, before event `at`.
fn differs(found: &[u8], promise: &Promise, at: usize) -> Option<usize> {
    let later: Vec<_> = promise.touched.iter().filter(|(began, ..)| *began <= at).collect();
    let sectors = found.chunks(512).zip(promise.model.chunks(512)).enumerate();
    let mut bad = sectors.filter(|(number, (found, promised))| {
        let from = number * 512;
        let written = |(_, range, byte): &&(usize, std::ops::Range<usize>, u8)| {
            range.contains(&from) && found.iter().all(|found| found == byte)
        };
        found != promised && !later.iter().any(written)
    });
    bad.next().map(|(number, _)| number * 512)
}

fn survive(list: &[(&str, &str)], unit: u64, seed: u64) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let inner = Arc::new(MemStorage::new(new_image(list)));
    let storage = Arc::new(FaultStorage::new(Arc::clone(&inner) as Arc<dyn Storage>));
    let (initial, promises) = scenario(&storage, &inner, unit, seed);
    let last = promises.last().unwrap();
    let replay = Replay::new(&[initial], &[&storage]);
    let count = replay.each(|state| {
        let what = format!("{list:?} seed {seed} at {} of {}, {}", state.at, replay.len(), state.story);
        let layer = open_storage(Arc::new(MemStorage::new(state.file())), OpenFlags::READ)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let promise = promises.iter().rev().find(|promise| promise.events <= state.at).unwrap_or(last);
        let found = read_all(&*layer).unwrap();
        assert_eq!(differs(&found, promise, state.at), None, "{what}");
        layer.snapshots().unwrap().view(None, Some("kept")).unwrap();
        let kept = read_all(&*layer).unwrap();
        let half = SIZE as usize / 2;
        assert!(kept[..half].iter().all(|b| *b == 0x11) && kept[half..].iter().all(|b| *b == 0), "{what}: snapshot");
        if available() {
            assert_eq!(soundness(dir.path(), &state.files[0]), Ok(()), "{what}");
        }
    });
    assert!(replay.last() == [inner.to_vec()], "the record is complete");
    count
}

#[test]
fn a_power_failure_costs_nothing_but_space() {
    let mut states = survive(&[("cluster_size", "4096")], 4096, 1);
    states += survive(&[("cluster_size", "512"), ("refcount_bits", "64")], 512 * 16, 2);
    states += survive(&[("cluster_size", "16384"), ("extended_l2", "on")], 512, 3);
    states += survive(&[("cluster_size", "4096"), ("compat", "0.10")], 4096, 4);
    report("writes with copy on write", states);
}

#[test]
fn a_failing_disk_leaves_a_valid_image() {
    let reference = available();
    let dir = tempfile::tempdir().unwrap();
    for (op, nth) in (1..60).step_by(3).flat_map(|nth| [(Op::Write, nth), (Op::Flush, nth), (Op::Read, nth)]) {
        let inner = Arc::new(MemStorage::new(new_image(&[("cluster_size", "4096")])));
        let storage = Arc::new(FaultStorage::new(Arc::clone(&inner) as Arc<dyn Storage>));
        let layer = open_storage(Arc::clone(&storage) as Arc<dyn Storage>, OpenFlags::WRITE).unwrap();
        write(&*layer, 0, &vec![1; 512 << 10]).unwrap();
        layer.flush().unwrap();
        layer.snapshots().unwrap().create("kept").unwrap();
        storage.fail(op, nth, libc::ENOSPC);
        for step in 0..10_u64 {
            // Each step may fail; the next ones go on as if nothing had happened.
            let _ = write(&*layer, step * 65536, &vec![step as u8 + 2; 40960]);
            let _ = layer.zero(step * 65536 + 8192, 4096, ZeroFlags { may_unmap: true });
            if step % 3 == 0 {
                let _ = layer.flush();
            }
        }
        storage.heal();
        layer.flush().unwrap();
        drop(layer);
        if reference && nth % 12 == 1 {
            check(&inner.to_vec(), dir.path(), &format!("{op:?} {nth}"));
        }
    }
}
