use super::EditKind::{Blank, Data, Keep, Zero};
use super::*;

fn edits(parts: &[(u64, EditKind)]) -> Vec<Edit> {
    let mut guest = 0;
    let mut list = Vec::new();
    for &(len, kind) in parts {
        list.push(Edit { guest, len, kind });
        guest += len;
    }
    list
}

fn ranges(list: &[(u64, u64)]) -> Vec<Range> {
    list.iter().map(|&(guest, len)| Range { guest, len }).collect()
}

type Case<'a> = (&'a [(u64, EditKind)], &'a [(u64, u64)], &'a [(u64, u64)], &'a [(u64, u64)]);

#[test]
fn layouts_of_granules_of_16() {
    // edits, write, zero, fill
    let cases: &[Case<'_>] = &[
        (&[(64, Data)], &[(0, 64)], &[], &[]),
        (&[(64, Zero)], &[], &[(0, 64)], &[]),
        (&[(64, Blank)], &[], &[], &[]),
        (&[(64, Keep)], &[], &[], &[]),
        (&[(4, Keep), (56, Data), (4, Keep)], &[(0, 64)], &[], &[(0, 4), (60, 4)]),
        (&[(4, Keep), (56, Zero), (4, Keep)], &[(0, 16), (48, 16)], &[(16, 32)], &[(0, 4), (60, 4)]),
        (&[(4, Data), (56, Zero), (4, Data)], &[(0, 16), (48, 16)], &[(16, 32)], &[]),
        (&[(4, Data), (56, Blank), (4, Keep)], &[(0, 16)], &[], &[]),
        (&[(20, Blank), (1, Data), (19, Blank)], &[(16, 16)], &[], &[]),
        (&[(20, Zero), (1, Data), (19, Zero)], &[(16, 16)], &[(0, 16), (32, 8)], &[]),
        (&[(16, Data), (16, Keep), (16, Data)], &[(0, 16), (32, 16)], &[], &[]),
        // The image ends inside a granule.
        (&[(32, Keep), (5, Data)], &[(32, 5)], &[], &[]),
        (&[(33, Keep), (5, Zero)], &[(32, 6)], &[], &[(32, 1)]),
    ];
    for (input, write, zero, fill) in cases {
        let layout = Layout::new(&edits(input), 16);
        assert_eq!(layout.write, ranges(write), "write of {input:?}");
        assert_eq!(layout.zero, ranges(zero), "zero of {input:?}");
        assert_eq!(layout.fill, ranges(fill), "fill of {input:?}");
    }
}

#[test]
fn bytewise_layers_take_edits_as_they_are() {
    let layout = Layout::new(&edits(&[(3, Keep), (5, Data), (7, Zero), (2, Data), (9, Blank)]), 1);
    assert_eq!(layout.write, ranges(&[(3, 5), (15, 2)]));
    assert_eq!(layout.zero, ranges(&[(8, 7)]));
    assert!(layout.fill.is_empty());
}

/// Every layout agrees with a byte-by-byte model.
#[test]
fn layouts_agree_with_a_model() {
    let mut state = 0x1234_5678_9abc_def0u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..2000 {
        let count = 1 + random(9);
        let parts: Vec<_> =
            (0..count).map(|_| (1 + random(40), [Data, Zero, Blank, Keep][random(4) as usize])).collect();
        let list = edits(&parts);
        let layout = Layout::new(&list, 16);
        let end = list.last().unwrap().end();
        let kind_at = |at: u64| list.iter().find(|edit| edit.guest <= at && at < edit.end()).unwrap().kind;
        let holds = |ranges: &[Range], at: u64| ranges.iter().any(|range| range.guest <= at && at < range.end());
        for at in 0..end {
            let first = at / 16 * 16;
            let kinds: Vec<_> = (first..(first + 16).min(end)).map(kind_at).collect();
            let has = |kind| kinds.contains(&kind);
            let write = has(Data) || has(Zero) && has(Keep);
            assert_eq!(holds(&layout.write, at), write);
            assert_eq!(holds(&layout.zero, at), !write && has(Zero));
            assert_eq!(holds(&layout.fill, at), write && kind_at(at) == Keep);
            assert_eq!(holds(&layout.payload, at), write && matches!(kind_at(at), Keep | Data));
        }
    }
}
