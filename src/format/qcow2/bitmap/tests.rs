//! Bitmaps that record our writes, compared with those that record the reference's.

use std::path::Path;
use std::sync::Arc;

use crate::format::qcow2::testing::{available, expect, open_storage, tool};
use crate::image::{BitmapChange, BitmapInfo, Layer, OpenFlags, Payload, Place, ZeroFlags};
use crate::storage::fault::{FaultStorage, after_crash};
use crate::storage::{MemStorage, Storage};

fn load(path: &Path) -> Arc<MemStorage> {
    Arc::new(MemStorage::new(std::fs::read(path).expect("the image")))
}

/// All bitmaps: name, flags and bits.
fn bitmaps(storage: Arc<dyn Storage>) -> Vec<(String, Vec<&'static str>, Vec<u8>)> {
    let layer = open_storage(storage, OpenFlags::READ).expect("a sound image");
    let bitmaps = layer.bitmaps().expect("version 3");
    let bits = |name: &str| bitmaps.read(name).expect("sound");
    bitmaps.list().into_iter().map(|info| (info.name.clone(), info.flags, bits(&info.name))).collect()
}

/// A write, as the reference takes it.
const WRITES: [(&str, u64, u64); 5] = [
    ("write -P 1", 0, 64 << 10),
    ("write -P 2", 1 << 20, 320 << 10),
    ("write -z", 3 << 20, 128 << 10),
    ("write -z -u", 5 << 20, 64 << 10),
    ("write -P 3", (10 << 20) - (64 << 10), 64 << 10),
];

fn write(layer: &dyn Layer, command: &str, guest: u64, len: u64) {
    if command.starts_with("write -z") {
        let flags = ZeroFlags { may_unmap: command.ends_with("-u") };
        return layer.zero(guest, len, flags).unwrap_or_else(|error| panic!("{command} {guest} {len}: {error}"));
    }
    let pending = layer.prepare(&[Place { guest, len, payload: Payload::Plain }]).expect("no errors in memory");
    pending.write(guest, &vec![7; len as usize]).expect("no errors in memory");
    pending.commit().expect("no errors in memory");
}

#[test]
fn writes_are_recorded_as_by_the_reference() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    for cluster in ["512", "4k", "64k"] {
        let options = format!("cluster_size={cluster}");
        let (image, other) = (dir.join("i"), dir.join("o"));
        let run = |name: &str, line: &str| expect(dir, name, &line.split('|').collect::<Vec<_>>());
        let _ = std::fs::remove_file(&image);
        run("qemu-img", &format!("create|-q|-f|qcow2|-o|{options}|i|10M"));
        run("qemu-img", "bitmap|--add|i|coarse");
        run("qemu-img", "bitmap|--add|-g|512|i|fine");
        run("qemu-img", "bitmap|--add|-g|2M|--disable|i|off");
        run("qemu-io", "-c|write 2M 64k|i");
        std::fs::copy(&image, &other).expect("a copy");
        for (command, guest, len) in WRITES {
            run("qemu-io", &format!("-c|{command} {guest} {len}|o"));
        }
        let memory = load(&image);
        let layer = open_storage(Arc::clone(&memory) as _, OpenFlags::WRITE).expect("a sound image");
        for (round, (command, guest, len)) in WRITES.into_iter().enumerate() {
            write(&*layer, command, guest, len);
            let flags = bitmaps(Arc::clone(&memory) as _).into_iter().map(|(_, flags, _)| flags).collect::<Vec<_>>();
            assert_eq!(flags, [&["in-use", "auto"][..], &["in-use", "auto"], &[]], "until the next flush");
            if round % 2 == 1 {
                layer.flush().expect("no errors in memory");
            }
        }
        layer.flush().expect("no errors in memory");
        drop(layer);
        assert_eq!(bitmaps(Arc::clone(&memory) as _), bitmaps(load(&other)), "{options}");
        std::fs::write(&image, memory.to_vec()).expect("a file");
        run("qemu-img", "check|i");
        run("qemu-img", "bitmap|--merge|coarse|i|fine");
    }
}

#[test]
fn a_power_failure_leaves_the_former_bitmaps_or_the_new_ones() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    let run = |name: &str, line: &str| expect(dir, name, &line.split('|').collect::<Vec<_>>());
    run("qemu-img", "create|-q|-f|qcow2|-o|cluster_size=512|i|4M");
    for line in ["bitmap|--add|-g|512|i|fine", "bitmap|--add|i|coarse", "bitmap|--add|--disable|-g|4k|i|off"] {
        run("qemu-img", line);
    }
    run("qemu-io", "-c|write 1M 1M|i");
    let initial = std::fs::read(dir.join("i")).expect("the image");
    let storage = Arc::new(FaultStorage::new(Arc::new(MemStorage::new(initial.clone()))));
    let layer = open_storage(Arc::clone(&storage) as _, OpenFlags::WRITE).expect("a sound image");
    let list = layer.bitmaps().expect("version 3").list();
    let kept = BitmapChange { info: BitmapInfo { flags: vec!["auto"], ..list[2].clone() }, bits: None };
    let cleared = BitmapChange { info: list[0].clone(), bits: Some(Vec::new()) };
    let new = BitmapInfo { name: "new".into(), granularity: 512, flags: Vec::new() };
    let added = BitmapChange { info: new, bits: Some(vec![0x55; 1024]) };
    layer.bitmaps().expect("version 3").replace(&[kept, cleared, added]).expect("no errors in memory");
    drop(layer);
    let events = storage.events();
    let state = |at, luck| Arc::new(after_crash(&initial, &events, at, luck).expect("no errors in memory"));
    let (former, latter) = (bitmaps(state(0, 0)), bitmaps(state(events.len(), 0)));
    assert_eq!(
        latter.iter().map(|(name, flags, _)| (&**name, flags.len())).collect::<Vec<_>>(),
        [("off", 1), ("fine", 1), ("new", 0)]
    );
    for at in 0..=events.len() {
        for luck in [0, 1, 2 + at as u64] {
            let crashed = state(at, luck);
            std::fs::write(dir.join("c"), crashed.to_vec()).expect("a file");
            let found = bitmaps(crashed);
            assert!(found == former || found == latter, "after {at} of {}, luck {luck}: {found:?}", events.len());
            if at % 3 == luck as usize % 3 {
                let check = tool(dir, "qemu-img", &["check", "-f", "qcow2", "c"]);
                assert!(matches!(check.code, 0 | 3), "after {at} of {}: {}", events.len(), check.text);
            }
        }
    }
}
