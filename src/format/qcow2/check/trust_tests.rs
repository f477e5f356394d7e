use std::sync::Arc;

use super::*;
use crate::format::qcow2::header::{Header, Purpose};
use crate::format::qcow2::snapshot::fault_tests::{contents, image};
use crate::format::qcow2::testing::{available, expect, open_storage};
use crate::image::{CheckNote, CheckReport, OpenFlags};
use crate::storage::{MemStorage, Storage};

fn snapshot() -> Snapshot {
    Snapshot {
        l1_offset: 0x5_0000,
        l1_size: 1,
        id: b"1".to_vec(),
        name: "Bäume".into(),
        date_sec: 0,
        date_nsec: 0,
        vm_clock_nsec: 0,
        vm_state_size: 0,
        disk_size: Some(4 << 20),
        icount: None,
        unknown_extra: Vec::new(),
    }
}

const GEOMETRY: Geometry = Geometry { cluster_bits: 16, extended_l2: false, refcount_order: 4, external_data: false };

/// What it is, whether it may be a snapshot, and what makes it so.
type Case = (&'static str, bool, fn(&mut Snapshot));

#[test]
fn what_a_snapshot_may_look_like() {
    let guest_size = 4 << 20;
    let cases: &[Case] = &[
        ("as it is written", true, |_| ()),
        ("without a name", true, |snapshot| snapshot.name.clear()),
        ("no size recorded", true, |snapshot| snapshot.disk_size = None),
        ("a disk without any bytes", true, |snapshot| (snapshot.disk_size, snapshot.l1_size) = (Some(0), 0)),
        ("a larger L1 table, for the state of a machine", true, |snapshot| snapshot.l1_size = 100),
        ("no ID", false, |snapshot| snapshot.id.clear()),
        ("an ID that is none", false, |snapshot| snapshot.id = vec![0, 0]),
        ("a name that is none", false, |snapshot| snapshot.name = vec![b'a', 0, 0, 7]),
        ("an L1 table beside a cluster border", false, |snapshot| snapshot.l1_offset += 8),
        ("no L1 table", false, |snapshot| snapshot.l1_size = 0),
        ("no L1 table, no size recorded", false, |snapshot| (snapshot.disk_size, snapshot.l1_size) = (None, 0)),
        ("too large a disk", false, |snapshot| snapshot.disk_size = Some(u64::MAX)),
    ];
    for (what, plausible, change) in cases {
        let mut snapshot = snapshot();
        change(&mut snapshot);
        assert_eq!(is_plausible(&snapshot, GEOMETRY, guest_size), *plausible, "{what}");
    }
}

/// Checks and repairs; the lines that are told on the way come with it.
fn check(storage: &Arc<MemStorage>, repair: Repair) -> (CheckReport, Vec<String>) {
    let flags = OpenFlags { write: repair != Repair::Nothing, check: true, ..OpenFlags::READ };
    let layer = open_storage(Arc::clone(storage) as _, flags).expect("it opens");
    let (before, mut lines) = (storage.to_vec(), Vec::new());
    let report = layer.checks().expect("qcow2 has them").check(repair, &mut |note| {
        if let CheckNote::Line(line) = note {
            lines.push(line.to_owned());
        }
    });
    // What cannot be read, or not be repaired in this way, stays as it is.
    let report = report.unwrap_or_else(|error| {
        assert_eq!(storage.to_vec(), before, "{error}: {lines:?}");
        CheckReport { check_errors: 1, ..CheckReport::default() }
    });
    (report, lines)
}

fn word(image: &[u8], at: u64) -> u64 {
    u64::from_be_bytes(image[at as usize..at as usize + 8].try_into().expect("eight bytes"))
}

/// What the damage is, the reason that is told, and where which bytes are put into an image.
type Loss = (&'static str, &'static str, fn(&[u8]) -> (u64, Vec<u8>));

const LOSSES: &[Loss] = &[
    ("one snapshot less", "more snapshots", |_| (60, vec![0, 0, 0, 1])),
    ("no snapshots", "more snapshots", |_| (60, vec![0; 4])),
    ("no L1 entry", "L1 table is empty", |image| (word(image, 40), vec![0; 8])),
    ("an L1 table behind the end", "file ends inside", |image| {
        (40, image.len().next_multiple_of(1 << 16).to_be_bytes().to_vec())
    }),
    ("an L1 entry that leads outside", "file ends inside", |image| {
        (word(image, 40), (1u64 << 40).to_be_bytes().to_vec())
    }),
    ("a snapshot's L1 table beside its place", "damaged", |image| {
        let at = word(image, 64);
        (at, (word(image, at) + 8).to_be_bytes().to_vec())
    }),
    ("a snapshot's L1 table without entries", "snapshot table", |image| (word(image, 64) + 8, vec![0; 4])),
    ("a snapshot without an ID", "snapshot table", |image| (word(image, 64) + 8, vec![0; 6])),
    ("extra data too long", "", |image| (word(image, 64) + 36, vec![0, 0, 0, 32])),
    ("an entry of nothing", "", |image| (word(image, 64), vec![0; 64])),
];

#[test]
fn what_a_damage_hides_is_there_when_the_damage_is_undone() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let sound = image(dir.path(), "cluster_size=64k");
    let holds = contents(&(Arc::new(MemStorage::new(sound.clone())) as Arc<dyn Storage>)).expect("readable");
    for (what, reason, place) in LOSSES {
        let (at, bytes) = place(&sound);
        for repair in [Repair::Leaks, Repair::All] {
            let storage = Arc::new(MemStorage::new(sound.clone()));
            storage.write_at(&bytes, at).expect("in memory");
            let (report, lines) = check(&storage, repair);
            let left = report.check_errors > 0 || report.leaks > 0;
            assert!(left && report.leaks_fixed == 0, "{what}, {repair:?}: {report:?}");
            let told = report.check_errors > 0
                || lines.iter().any(|line| line.starts_with("Leaks are not repaired") && line.contains(reason));
            assert!(told, "{what}, {repair:?}: {lines:?}");
            // The header may name a new snapshot table.
            storage.write_at(&sound[60..72], 60).expect("in memory");
            storage.write_at(&sound[at as usize..at as usize + bytes.len()], at).expect("in memory");
            let (report, lines) = check(&storage, Repair::Nothing);
            assert_eq!((report.corruptions, report.check_errors), (0, 0), "{what}, {repair:?}: {lines:?}");
            assert_eq!(contents(&(storage as _)).expect("readable"), holds, "{what}, {repair:?}");
        }
    }
}

#[test]
fn a_file_cut_inside_a_table_keeps_what_it_has() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    expect(dir.path(), "qemu-img", &["create", "-q", "-f", "qcow2", "i", "2M"]);
    expect(dir.path(), "qemu-io", &["-c", "write -P 1 0 300k", "i"]);
    let mut bytes = std::fs::read(dir.path().join("i")).expect("the image");
    // The L2 table moves to the end of the file, where the file ends in its middle.
    let (l1, cluster) = (word(&bytes, 40), 1 << 16);
    let table = word(&bytes, l1) & 0x00ff_ffff_ffff_fe00;
    let copy = bytes[table as usize..table as usize + 16].to_vec();
    let end = bytes.len().next_multiple_of(cluster);
    bytes.resize(end, 0);
    bytes.extend(copy);
    bytes[l1 as usize..l1 as usize + 8].copy_from_slice(&(1 << 63 | end as u64).to_be_bytes());
    let storage = Arc::new(MemStorage::new(bytes));
    let (report, lines) = check(&storage, Repair::All);
    assert!(report.leaks > 0 && report.leaks_fixed == 0, "{report:?}, {lines:?}");
    let again = check(&storage, Repair::Nothing).0;
    assert_eq!((again.corruptions, again.check_errors), (0, 0), "{report:?}, {lines:?}");
}

#[test]
fn bitmaps_that_are_not_valid_leave_the_header_before_their_clusters_are_free() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    for repair in [Repair::Leaks, Repair::All] {
        let _ = std::fs::remove_file(dir.path().join("i"));
        expect(dir.path(), "qemu-img", &["create", "-q", "-f", "qcow2", "i", "2M"]);
        expect(dir.path(), "qemu-img", &["bitmap", "--add", "i", "b"]);
        expect(dir.path(), "qemu-io", &["-c", "write -P 1 0 300k", "i"]);
        let mut bytes = std::fs::read(dir.path().join("i")).expect("the image");
        bytes[95] = 0;
        let storage = Arc::new(MemStorage::new(bytes));
        assert!(check(&storage, Repair::Nothing).0.leaks > 0, "the bitmap's clusters");
        let (report, lines) = check(&storage, repair);
        assert_eq!((report.leaks, report.corruptions), (0, 0), "{lines:?}");
        assert_eq!(Header::read(&*storage, Purpose::Read).expect("readable").bitmaps, None);
        std::fs::write(dir.path().join("o"), storage.to_vec()).expect("a temporary file");
        expect(dir.path(), "qemu-img", &["check", "-f", "qcow2", "o"]);
        expect(dir.path(), "qemu-io", &["-r", "-f", "qcow2", "-c", "read -P 1 0 300k", "o"]);
    }
}
