use super::*;

const HEADING: &str =
    "Snapshot list:\nID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT\n";

fn snapshot(id: &str, name: &str) -> SnapshotInfo {
    SnapshotInfo {
        id: id.into(),
        name: name.into(),
        vm_state_size: 0,
        date_sec: 0,
        date_nsec: 999_999_999,
        vm_clock_nsec: 0,
        icount: Some(0),
        disk_size: 0,
    }
}

/// The table of one snapshot without the heading, and with the date, which depends on the zone, replaced.
fn row(snapshot: SnapshotInfo) -> String {
    let date = local_time(snapshot.date_sec).to_string();
    let text = snapshot_table(&[snapshot]);
    text.strip_prefix(HEADING).expect("a heading").replace(&date, "YYYY-MM-DD hh:mm:ss")
}

#[test]
fn nothing_for_no_snapshots() {
    assert!(snapshot_table(&[]).is_empty());
}

#[test]
fn columns_overflow_to_the_right() {
    let tail = "     0 B YYYY-MM-DD hh:mm:ss  0000:00:00.000          0\n";
    for (id, name, start) in [
        ("1", "one", "1       one              "),
        ("1234567", "n", "1234567 n                "),
        ("123456789", "1234567890123456", "123456789 1234567890123456 "),
        ("1", "12345678901234567", "1       12345678901234567 "),
        ("1", "t\u{e4}g", "1       t\u{e4}g             "),
        ("", "", "                         "),
    ] {
        assert_eq!(row(snapshot(id, name)), format!("{start}{tail}"));
    }
}

#[test]
fn clocks_and_counts() {
    for (nsec, text) in [
        (999_999, " 0000:00:00.000"),
        (61_001_000_000, " 0000:01:01.001"),
        (100 * 3_600_000_000_000, " 0100:00:00.000"),
        (10_000 * 3_600_000_000_000, "10000:00:00.000"),
        (u64::MAX, "5124095:34:33.709"),
    ] {
        let text = format!("ss {text}          0\n");
        let row = row(SnapshotInfo { vm_clock_nsec: nsec, ..snapshot("1", "x") });
        assert!(row.ends_with(&text), "{row:?} should end with {text:?}");
    }
    for (count, text) in
        [(None, "        --\n"), (Some(12_345_678_901), " 12345678901\n"), (Some(1 << 63), " -9223372036854775808\n")]
    {
        let row = row(SnapshotInfo { icount: count, ..snapshot("1", "x") });
        assert!(row.ends_with(text), "{row:?} should end with {text:?}");
    }
}

#[test]
fn vm_state_sizes() {
    let row = row(SnapshotInfo { vm_state_size: 1023, ..snapshot("2", "vm") });
    assert!(row.starts_with("2       vm               0.999 KiB YYYY"), "{row:?}");
}
