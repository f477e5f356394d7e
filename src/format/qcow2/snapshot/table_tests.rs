use super::*;
use crate::format::qcow2::header::Purpose;
use crate::storage::MemStorage;

fn snapshot(id: &str, name: &str) -> Snapshot {
    Snapshot {
        l1_offset: 0x40000,
        l1_size: 3,
        id: id.into(),
        name: name.into(),
        date_sec: 1_795_380_721,
        date_nsec: 926_007_000,
        vm_clock_nsec: 61_001_000_000,
        vm_state_size: 5 << 32,
        disk_size: Some(10 << 20),
        icount: Some(7),
        unknown_extra: Vec::new(),
    }
}

fn table(entries: &[(&str, &str)]) -> SnapshotTable {
    SnapshotTable { entries: entries.iter().map(|(id, name)| snapshot(id, name)).collect(), bytes: 0 }
}

/// Reads a table of `count` entries that lies at 64 KiB.
fn read(bytes: &[u8], count: u32) -> Result<SnapshotTable> {
    const AT: usize = 0x10000;
    let mut file = vec![0; AT];
    file.extend_from_slice(bytes);
    let mut header = vec![0; 0x10000];
    header[..72].copy_from_slice(&v2_header(count, AT as u64));
    file[..0x10000].copy_from_slice(&header);
    let file = MemStorage::new(file);
    let header = Header::read(&file, Purpose::Read).expect("a sound header");
    SnapshotTable::read(&file, &header)
}

fn v2_header(snapshots: u32, at: u64) -> [u8; 72] {
    let mut header = [0; 72];
    header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x02");
    header[20..24].copy_from_slice(&16u32.to_be_bytes());
    header[48..56].copy_from_slice(&0x10000u64.to_be_bytes());
    header[56..60].copy_from_slice(&1u32.to_be_bytes());
    header[60..64].copy_from_slice(&snapshots.to_be_bytes());
    header[64..72].copy_from_slice(&at.to_be_bytes());
    header
}

#[test]
fn a_table_comes_back_as_it_was() {
    let mut entries = vec![snapshot("1", "one"), snapshot("", ""), snapshot("22", &"long".repeat(200))];
    entries[1].unknown_extra = b"from the future".to_vec();
    entries[1].icount = None;
    let written = SnapshotTable { entries, bytes: 0 };
    let bytes = written.to_bytes(0).expect("small enough");
    let read = read(&bytes, 3).expect("sound");
    assert_eq!(read.entries, written.entries);
    assert_eq!(read.bytes.next_multiple_of(8), bytes.len() as u64);
}

#[test]
fn tables_of_older_programs() {
    let mut bytes = snapshot_without_extra(77);
    bytes.extend(snapshot_without_extra(78));
    let table = read(&bytes, 2).expect("sound");
    let entry = &table.entries[1];
    assert_eq!((entry.vm_state_size, entry.disk_size, entry.icount), (78, None, None));
    assert_eq!(entry.info(4096).disk_size, 4096);
    let rewritten = table.to_bytes(4096).expect("small enough");
    let table = read(&rewritten, 2).expect("sound");
    assert_eq!((table.entries[1].vm_state_size, table.entries[1].disk_size), (78, Some(4096)));
}

fn snapshot_without_extra(vm_state_size: u32) -> Vec<u8> {
    let mut out = vec![0; ENTRY_LEN];
    out[32..36].copy_from_slice(&vm_state_size.to_be_bytes());
    out
}

#[test]
fn absurd_tables_are_refused() {
    let mut bytes = snapshot_without_extra(0);
    bytes[36..40].copy_from_slice(&1025u32.to_be_bytes());
    let error = read(&bytes, 1).expect_err("too much extra data");
    assert_eq!(error.to_string(), "Too much extra metadata in snapshot table entry 0");
    assert_eq!(error.hints(), ["You can force-remove this extra metadata with qemu-img check -r all"]);
    let long = "N".repeat(65_500);
    let entries: Vec<_> = (0..1030).map(|_| snapshot("1", &long)).collect();
    let mut bytes = Vec::new();
    entries.iter().for_each(|entry| entry.put(&mut bytes, 0));
    let error = read(&bytes, 1030).expect_err("too big a table");
    assert_eq!(error.to_string(), "Snapshot table is too big");
    assert_eq!(error.hints(), ["You can force-remove all 7 overhanging snapshots with qemu-img check -r all"]);
    assert!(SnapshotTable { entries, bytes: 0 }.to_bytes(0).is_err());
}

#[test]
fn names_and_ids() {
    let table = table(&[("1", "2"), ("2", "1"), ("3", "3"), ("4", "3"), ("5", "n\0x")]);
    for (wanted, found) in [("1", Some(0)), ("2", Some(1)), ("3", Some(2)), ("n", Some(4)), ("6", None)] {
        assert_eq!(table.find_id_or_name(wanted), found, "{wanted}");
    }
    assert_eq!(table.find(None, Some("1")), Some(1));
    assert_eq!(table.find(None, Some("3")), Some(2));
    assert_eq!(table.find(Some("4"), Some("3")), Some(3));
    assert_eq!(table.find(Some("4"), Some("2")), None);
    assert_eq!(table.find(None, None), None);
    assert_eq!(table.entries[4].info(0).name, "n");
}

#[test]
fn generated_ids() {
    for (ids, new) in [
        (&[][..], "1"),
        (&["1", "7"], "8"),
        (&["a"], "1"),
        (&["10x"], "11"),
        (&["0x20"], "1"),
        (&["-5"], "18446744073709551612"),
        (&["99999999999999999999"], "0"),
        (&["18446744073709551614"], "18446744073709551615"),
        (&["+3"], "4"),
        (&[" 4"], "5"),
        (&["007"], "8"),
        (&[""], "1"),
    ] {
        let entries: Vec<_> = ids.iter().map(|id| (*id, "x")).collect();
        assert_eq!(table(&entries).new_id().expect("free"), new.as_bytes(), "{ids:?}");
    }
    assert!(table(&[("18446744073709551615", "x"), ("0", "x")]).new_id().is_err());
}
