//! Bitmaps that record our writes, compared with those that record the reference's.

use std::path::Path;
use std::sync::Arc;

use crate::format::qcow2::testing::{available, expect, open_storage, read_all, report, soundness};
use crate::image::{BitmapChange, BitmapInfo, Layer, OpenFlags, Payload, Place, ZeroFlags};
use crate::storage::crash::Replay;
use crate::storage::fault::{FaultStorage, Op};
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

/// An image with three bitmaps and data behind them.
fn image(dir: &Path, cluster: &str) -> Vec<u8> {
    let run = |name: &str, line: &str| expect(dir, name, &line.split('|').collect::<Vec<_>>());
    let _ = std::fs::remove_file(dir.join("i"));
    run("qemu-img", &format!("create|-q|-f|qcow2|-o|cluster_size={cluster}|i|4M"));
    for line in ["bitmap|--add|-g|512|i|fine", "bitmap|--add|i|coarse", "bitmap|--add|--disable|-g|4k|i|off"] {
        run("qemu-img", line);
    }
    run("qemu-io", "-c|write 1M 1M|i");
    std::fs::read(dir.join("i")).expect("the image")
}

/// A change of the bitmaps of an image.
type Change = (&'static str, fn(&dyn Layer));

/// What `bitmap` can do to the bitmaps of an image; the first does some of each at once.
const CHANGES: [Change; 7] = [
    ("all at once", |layer| {
        let list = layer.bitmaps().expect("version 3").list();
        let kept = BitmapChange { info: BitmapInfo { flags: vec!["auto"], ..list[2].clone() }, bits: None };
        let cleared = BitmapChange { info: list[0].clone(), bits: Some(Vec::new()) };
        let new = BitmapInfo { name: "new".into(), granularity: 512, flags: Vec::new() };
        let added = BitmapChange { info: new, bits: Some(vec![0x55; 1024]) };
        layer.bitmaps().expect("version 3").replace(&[kept, cleared, added]).expect("no errors in memory");
    }),
    ("add", |layer| edit(layer, |all| all.push(change("more", 4096, vec![1; 128])))),
    ("remove", |layer| edit(layer, |all| drop(all.remove(0)))),
    ("remove all", |layer| edit(layer, Vec::clear)),
    ("clear", |layer| edit(layer, |all| all[0].bits = Some(Vec::new()))),
    ("disable", |layer| edit(layer, |all| all[1].info.flags.clear())),
    ("merge", |layer| edit(layer, |all| all[2].bits = Some(vec![0xff; 128]))),
];

fn change(name: &str, granularity: u32, bits: Vec<u8>) -> BitmapChange {
    BitmapChange { info: BitmapInfo { name: name.into(), granularity, flags: Vec::new() }, bits: Some(bits) }
}

/// Changes the bitmaps that are there.
fn edit(layer: &dyn Layer, edit: impl FnOnce(&mut Vec<BitmapChange>)) {
    let bitmaps = layer.bitmaps().expect("version 3");
    let mut all: Vec<_> = bitmaps.list().into_iter().map(|info| BitmapChange { info, bits: None }).collect();
    edit(&mut all);
    bitmaps.replace(&all).expect("no errors in memory");
}

#[test]
fn a_power_failure_leaves_the_former_bitmaps_or_the_new_ones() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    let mut states = 0;
    for cluster in ["512", "64k"] {
        let initial = image(dir, cluster);
        let former = bitmaps(Arc::new(MemStorage::new(initial.clone())));
        for (what, make) in CHANGES {
            let memory = Arc::new(MemStorage::new(initial.clone()));
            let storage = Arc::new(FaultStorage::new(Arc::clone(&memory) as _));
            make(&*open_storage(Arc::clone(&storage) as _, OpenFlags::WRITE).expect("a sound image"));
            let latter = bitmaps(memory);
            assert_ne!(former, latter, "{what}");
            let replay = Replay::new(std::slice::from_ref(&initial), &[&storage]);
            assert!(replay.is_durable(), "{what}");
            states += replay.each(|state| {
                let found = bitmaps(Arc::new(MemStorage::new(state.file())));
                let story = format!("{cluster}, {what}, after {}, {}", state.at, state.story);
                assert!(found == former || found == latter, "{story}: {found:?}");
                assert_eq!(soundness(dir, &state.files[0]), Ok(()), "{story}");
            });
        }
    }
    report("bitmap", states);
}

#[test]
fn a_failed_request_leaves_the_former_bitmaps_or_the_new_ones() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    let initial = image(dir, "512");
    let former = bitmaps(Arc::new(MemStorage::new(initial.clone())));
    let change = |layer: &dyn Layer| {
        let bitmaps = layer.bitmaps().expect("version 3");
        let mut all: Vec<_> = bitmaps.list().into_iter().map(|info| BitmapChange { info, bits: None }).collect();
        all[0].bits = Some(vec![0x33; 1024]);
        all.remove(1);
        bitmaps.replace(&all)
    };
    let memory = Arc::new(MemStorage::new(initial.clone()));
    change(&*open_storage(Arc::clone(&memory) as _, OpenFlags::WRITE).expect("a sound image")).expect("it works");
    let latter = bitmaps(memory);
    for op in [Op::Read, Op::Write, Op::Flush, Op::SetLen] {
        for (nth, lasting) in (1..200).flat_map(|nth| [(nth, false), (nth, true)]) {
            let memory = Arc::new(MemStorage::new(initial.clone()));
            let faulty = Arc::new(FaultStorage::new(Arc::clone(&memory) as _));
            match lasting {
                true => faulty.fail_from(op, nth, libc::EDQUOT),
                false => faulty.fail(op, nth, libc::EIO),
            }
            let result = open_storage(Arc::clone(&faulty) as _, OpenFlags::WRITE).and_then(|layer| change(&*layer));
            let what = format!("{op:?} {nth} failing, lasting {lasting}: {result:?}");
            let found = bitmaps(Arc::clone(&memory) as _);
            assert!(found == former || found == latter, "{what}: {found:?}");
            assert_eq!(soundness(dir, &memory.to_vec()), Ok(()), "{what}");
            let reached = faulty.count(op) >= nth;
            // Giving space back is a kindness; everything else must not fail silently.
            assert_eq!(result.is_err(), reached && op != Op::SetLen, "{what}");
            if !reached {
                break;
            }
        }
    }
}

/// A bitmap that is trusted after a crash has every write.
#[test]
fn a_power_failure_leaves_no_bitmap_that_misses_a_write() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    let mut states = 0;
    for cluster in ["512", "64k"] {
        let initial = image(dir, cluster);
        let storage = Arc::new(FaultStorage::new(Arc::new(MemStorage::new(initial.clone()))));
        let layer = open_storage(Arc::clone(&storage) as _, OpenFlags::WRITE).expect("a sound image");
        write(&*layer, "write", 128 << 10, 64 << 10);
        write(&*layer, "write", 1088 << 10, 128 << 10);
        layer.flush().expect("no errors in memory");
        write(&*layer, "write -z", 3 << 20, 64 << 10);
        layer.flush().expect("no errors in memory");
        drop(layer);
        let disk = |bytes: &[u8]| {
            let layer = open_storage(Arc::new(MemStorage::new(bytes.to_vec())), OpenFlags::READ).expect("sound");
            read_all(&*layer).expect("sound")
        };
        let before = disk(&initial);
        let replay = Replay::new(std::slice::from_ref(&initial), &[&storage]);
        assert!(replay.is_durable());
        states += replay.each(|state| {
            let story = format!("{cluster}, after {}, {}", state.at, state.story);
            let found = disk(&state.files[0]);
            for (name, flags, bits) in bitmaps(Arc::new(MemStorage::new(state.file()))) {
                let granularity = match (&*name, cluster) {
                    ("fine", _) => 512,
                    (_, "512") => 4 << 10,
                    _ => 64 << 10,
                };
                if name == "off" || flags.contains(&"in-use") {
                    continue;
                }
                let parts = found.chunks(granularity).zip(before.chunks(granularity)).enumerate();
                let missed = parts.filter(|(at, (now, before))| now != before && bits[at / 8] >> (at % 8) & 1 == 0);
                assert_eq!(missed.count(), 0, "{story}: {name}");
            }
            assert_eq!(soundness(dir, &state.files[0]), Ok(()), "{story}");
        });
    }
    report("bitmaps that record writes", states);
}
