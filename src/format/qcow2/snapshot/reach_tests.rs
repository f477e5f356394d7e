use super::*;

const GEOMETRY: Geometry = Geometry { cluster_bits: 12, extended_l2: false, refcount_order: 4, external_data: false };
const COPIED: u64 = 1 << 63;
const ZERO: u64 = 1;
/// The offset of the last cluster that an entry can name.
const LAST: u64 = 0x00ff_ffff_ffff_f000;

/// An entry beginning a row: its raw form, and how many of the following ones continue it.
const ROWS: &[(u64, usize)] = &[
    (0x5000, 3),
    (0, 2),
    (0x8000 | COPIED, 4),
    // The next cluster, but another flag.
    (0xc000, 1),
    (0xd000 | COPIED, 2),
    (0xf000 | ZERO, 2),
    (ZERO, 3),
    // Back to clusters that were there before.
    (0x5000, 2),
    (0x7000 | COPIED, 1),
    (LAST | COPIED, 1),
    (0x5000 | COPIED, 5),
];

fn entries() -> Vec<u64> {
    let row = |&(raw, len): &(u64, usize)| {
        let step = if raw & LAST == 0 { 0 } else { GEOMETRY.cluster_size() };
        (0..len as u64).map(move |number| raw + number * step)
    };
    ROWS.iter().flat_map(row).collect()
}

fn bytes(entries: &[u64], extended: bool) -> Vec<u8> {
    let bitmap: &[u8] = if extended { &[0xff; 8] } else { &[] };
    entries.iter().flat_map(|raw| [&raw.to_be_bytes(), bitmap].concat()).collect()
}

/// What entries use one by one, with neighbours joined.
fn one_by_one(entries: &[u64], table: HostOffset, geometry: Geometry) -> Vec<Run> {
    let mut runs = vec![Run { first: table.0 >> geometry.cluster_bits, clusters: 1 }];
    for raw in entries {
        let (Mapping::Normal(host) | Mapping::Zero(Some(host))) =
            (L2Entry { raw: *raw, bitmap: 0 }).mapping(geometry).unwrap()
        else {
            continue;
        };
        let first = host.0 >> geometry.cluster_bits;
        match runs.last_mut() {
            Some(last) if last.end() == first => last.clusters += 1,
            _ => runs.push(Run { first, clusters: 1 }),
        }
    }
    runs
}

#[test]
fn rows_are_what_their_entries_are_one_by_one() {
    for extended_l2 in [false, true] {
        let geometry = Geometry { extended_l2, ..GEOMETRY };
        let entries: Vec<_> = entries().into_iter().filter(|raw| !extended_l2 || raw & ZERO == 0).collect();
        let (table, mut runs) = (HostOffset(0x4000), vec![Run { first: 7, clusters: 7 }]);
        let compressed = collect_runs(geometry, table, &bytes(&entries, extended_l2), &mut runs).unwrap();
        assert_eq!(compressed, Compressed::default());
        assert_eq!(runs, one_by_one(&entries, table, geometry));
    }
}

#[test]
fn a_row_ends_where_flags_differ_and_offsets_end() {
    let entries = entries();
    let mut at = 0;
    for (raw, len) in ROWS.iter().filter(|(raw, _)| raw & LAST != 0) {
        at += entries[at..].iter().position(|entry| entry == raw).unwrap();
        assert_eq!(clusters_in_row(GEOMETRY, &bytes(&entries[at..], false)), *len, "{raw:#x}");
        at += len;
    }
    // What would follow the last offset has a bit that is reserved.
    let over = [LAST, LAST + 0x1000];
    assert_eq!(clusters_in_row(GEOMETRY, &bytes(&over, false)), 1);
    assert_eq!(clusters_in_row(GEOMETRY, &bytes(&[LAST | COPIED, 0], false)), 1);
}
