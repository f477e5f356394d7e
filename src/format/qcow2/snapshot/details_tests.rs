//! The numbers themselves are compared with a plain count, and with what deleting gives back, in `tests/snapshot_model.rs`;
//! here it is what that does not reach: many snapshots, small windows, counts that do not fit, damage.

use std::path::Path;
use std::sync::Arc;

use super::super::SnapshotTable;
use super::super::fault_tests::{OPTIONS, image};
use super::*;
use crate::format::qcow2::header::Purpose;
use crate::format::qcow2::testing::{available, expect};
use crate::storage::MemStorage;

/// What the snapshots of an image take, `together` looked at at once, in windows of so many clusters.
fn details(bytes: &[u8], together: usize, window: u64) -> Result<Vec<SnapshotDetails>> {
    let file: Arc<dyn Storage> = Arc::new(MemStorage::new(bytes.to_vec()));
    let header = Header::read(&*file, Purpose::Read)?;
    let snapshots = SnapshotTable::read(&*file, &header)?.entries;
    let (table, clusters) = (HostOffset(header.refcount_table_offset), header.refcount_table_clusters);
    let mut refcounts = Refcounts::open(Arc::clone(&file), header.geometry(), table, clusters.into())?;
    let mut found = Vec::new();
    for group in snapshots.chunks(together) {
        found.extend(Survey::of(&*file, &header, group)?.details(&mut refcounts, window)?);
    }
    Ok(found)
}

/// An image with eleven snapshots and compressed clusters that share places.
fn many_snapshots(dir: &Path, options: &str) -> Vec<u8> {
    image(dir, options);
    for number in 0..9 {
        let write = format!("write -P {number} {}k 20k", number * 70);
        // Where nothing is yet.
        let pack =
            format!("write -c -P {number} {}k 64k", if number < 7 { 1600 + number * 64 } else { 256 + number * 64 });
        expect(dir, "qemu-io", &["-c", &write, "-c", &pack, "i"]);
        expect(dir, "qemu-img", &["snapshot", "-c", &format!("more-{number}"), "i"]);
    }
    std::fs::read(dir.join("i")).expect("the image")
}

#[test]
fn neither_groups_nor_windows_change_anything() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    for options in OPTIONS {
        let bytes = many_snapshots(dir.path(), options);
        let alone = details(&bytes, 1, WINDOW).expect("sound");
        assert_eq!(alone.len(), 11);
        assert!(alone.iter().all(|found| found.compressed_clusters > 0 && found.exclusive > 0), "{alone:?}");
        for (together, window) in [(GROUP, WINDOW), (3, WINDOW), (GROUP, 1), (GROUP, 7), (1, 64)] {
            assert_eq!(details(&bytes, together, window).expect("sound"), alone, "{options} {together} {window}");
        }
    }
}

#[test]
fn counts_that_are_too_low_are_reported() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let sound = image(dir.path(), "cluster_size=64k");
    let number = |at: usize| u64::from_be_bytes(sound[at..at + 8].try_into().expect("8 bytes")) as usize;
    let block = number(number(48));
    let snapshot = number(number(64));
    let mut damaged = sound.clone();
    let count = block + snapshot / 65536 * 2;
    damaged[count..count + 2].fill(0);
    let error = details(&damaged, GROUP, WINDOW).expect_err("not to be counted on");
    let text = format!("The refcount of the cluster at {snapshot:#x} is 0, but it is in use 1 times");
    assert_eq!(error.to_string(), text);
    // A place that no refcount can be kept for.
    let mut damaged = sound.clone();
    damaged[snapshot..snapshot + 8].copy_from_slice(&(1u64 << 55).to_be_bytes());
    let error = details(&damaged, GROUP, WINDOW).expect_err("not to be counted on");
    assert!(error.to_string().contains("cluster at 0x80000000000000 is 0"), "{error}");
    // And one that is no place at all.
    damaged[snapshot..snapshot + 8].copy_from_slice(&0x5_0200u64.to_be_bytes());
    let error = details(&damaged, GROUP, WINDOW).expect_err("no table is there").for_reader();
    assert!(error.notices()[0].starts_with("qcow2: Image is corrupt: L2 table offset 0x50200 unaligned"), "{error:?}");
}

#[test]
fn notes_count_beyond_their_width() {
    let mut notes = Notes::new(100, 10);
    let run = |first, clusters| Run { first, clusters };
    notes.add(run(90, 15), Holders { who: 1, references: MANY - 1 });
    notes.add(run(104, 10), Holders { who: 2, references: 1 });
    notes.add(run(104, 1), Holders { who: PRESENT, references: 5 });
    notes.add(run(200, 3), Holders { who: 1, references: 1 });
    assert_eq!(notes.next, Some(110));
    let note = |cluster: u64| notes.notes[(cluster - 100) as usize];
    assert_eq!(note(100), 1 | ((MANY - 1) as u16) << WHO_BITS);
    assert_eq!((note(104), notes.many[&104]), (3 | PRESENT | (MANY as u16) << WHO_BITS, MANY + 5));
    assert_eq!(note(109), 2 | 1 << WHO_BITS);
}
