use super::*;

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
