use super::*;

#[test]
fn ranges_of_bits() {
    for (first, last, wanted) in [
        (0, 0, [1, 0, 0, 0]),
        (3, 9, [0xf8, 3, 0, 0]),
        (8, 15, [0, 0xff, 0, 0]),
        (7, 24, [0x80, 0xff, 0xff, 1]),
        (30, u64::MAX, [0, 0, 0, 0xc0]),
        (32, 40, [0; 4]),
    ] {
        let mut bits = [0; 4];
        set_range(&mut bits, first, last);
        assert_eq!(bits, wanted, "{first}..={last}");
    }
}

#[test]
fn table_entries() {
    let geometry = Geometry { cluster_bits: 16, extended_l2: false, refcount_order: 4, external_data: false };
    for (entry, sound) in [
        (0, true),
        (1, true),
        (2, false),
        (0x30000, true),
        (0x30001, false),
        (0x30200, false),
        (1 << 63 | 0x30000, false),
        (1 << 56, false),
    ] {
        assert_eq!(TableEntry(entry).is_sound(geometry), sound, "{entry:#x}");
    }
}
