use super::*;

/// Compares with a plain list, at and around every border.
fn check(pushes: &[Range<u64>]) {
    let mut set = ClusterSet::default();
    let mut plain: Vec<u64> = Vec::new();
    for numbers in pushes {
        set.push(numbers.clone());
        plain.extend(numbers.clone());
        plain.dedup();
    }
    assert_eq!(set.len(), plain.len() as u64, "{pushes:?}");
    let mut places: Vec<u64> = pushes.iter().flat_map(|range| [range.start, range.end]).collect();
    places.extend([0, BITS, 2 * BITS, 3 * BITS]);
    let places: Vec<u64> = places.iter().flat_map(|at| [at.saturating_sub(1), *at, at + 1]).collect();
    for &start in &places {
        assert_eq!(set.rank(start), plain.partition_point(|number| *number < start) as u64, "{pushes:?} {start}");
        for &end in places.iter().filter(|end| **end >= start) {
            let found: Vec<u64> = set.runs(start..end).flatten().collect();
            let (from, to) =
                (plain.partition_point(|number| *number < start), plain.partition_point(|number| *number < end));
            assert_eq!(found, plain[from..to], "{pushes:?} {start}..{end}");
        }
    }
}

#[test]
fn sets_hold_what_was_pushed() {
    let cases: [&[Range<u64>]; 9] = [
        &[],
        &[0..1, 1..1],
        &[5..9, 8..9, 9..12, 20..21],
        &[0..BITS, BITS..BITS],
        &[3..3 + BITS, 3 + BITS..9000, 9000..9001],
        &[10..20, 30..BITS + 50],
        &[0..100, 100..BITS, BITS..BITS + 7],
        &[1..2, 3..4, 2 * BITS..4 * BITS, 5 * BITS..5 * BITS + 1],
        &[7..2 * BITS, 2 * BITS + 1..2 * BITS + 90, 3 * BITS..3 * BITS + 5, 5 * BITS..6 * BITS],
    ];
    for pushes in cases {
        check(pushes);
    }
}

#[test]
fn long_runs_take_no_memory_however_they_come() {
    let mut set = ClusterSet::default();
    for window in 0..100_000 {
        set.push(window * 32..(window + 1) * 32);
    }
    assert_eq!(set.chunks.len(), 1);
    set.push(1 << 40..1 << 50);
    assert_eq!(set.chunks.len(), 2);
    assert_eq!(set.rank(u64::MAX), 3_200_000 + (1 << 50) - (1 << 40));
}
