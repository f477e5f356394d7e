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
fn runs_of_bits() {
    let bits = [0, 0xf0, 0xff, 0x01, 0, 0x80];
    for (from, run) in [
        (0, Some((12, 25))),
        (12, Some((12, 25))),
        (20, Some((20, 25))),
        (25, Some((47, 48))),
        (47, Some((47, 48))),
        (48, None),
    ] {
        assert_eq!(next_run(&bits, from), run, "from {from}");
    }
    assert_eq!(next_run(&[], 0), None);
}

#[test]
fn bitmaps_of_any_granularity_are_merged() {
    // Of a disk of 10 KiB.
    for (target, source, wanted) in [
        // Equal granularity.
        ((&[0x01, 0][..], 10), (&[0x82, 0x02][..], 10), &[0x83, 0x02][..]),
        // A part of a coarse bit sets all of it.
        ((&[0], 12), (&[0x40, 0x00], 10), &[0x02]),
        ((&[0], 12), (&[0x18, 0x00], 10), &[0x03]),
        // All fine bits of a coarse one, as far as the disk goes.
        ((&[0, 0, 0], 9), (&[0x05], 12), &[0xff, 0, 0x0f]),
        // A target that was never written.
        ((&[], 9), (&[0x02], 12), &[0, 0xff, 0]),
    ] {
        let ((bits, target_order), (source, source_order)) = (target, source);
        let mut merged = bits.to_vec();
        merge(&mut merged, target_order, source, source_order, 10 << 10);
        assert_eq!(merged, wanted, "{target:?} with {source:?}");
    }
}
