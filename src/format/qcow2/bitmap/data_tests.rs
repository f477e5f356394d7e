use super::*;

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
