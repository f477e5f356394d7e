use super::*;

#[test]
fn counts_of_all_sizes() {
    // Cluster, references added, taken back, and the least count demanded afterwards; the result.
    let cases: &[(u64, u64, u64, u64, u64)] = &[
        (0, 0, 0, 0, 0),
        (1, 1, 0, 0, 1),
        (2, 3, 2, 0, 1),
        (PIECE - 1, 253, 0, 0, 253),
        (PIECE, 254, 0, 0, 254),
        (PIECE + 1, 255, 0, 0, 255),
        (PIECE + 2, 256, 2, 0, 254),
        (1 << 40, 300, 0, 7, 300),
        (5, 0, 0, 1, 1),
        (6, 2, 0, 254, 254),
        (7, 2, 0, 255, 255),
        (8, 300, 0, u64::MAX, u64::MAX),
        (9, 4, 0, 3, 4),
    ];
    let mut counts = Counts::default();
    for (cluster, add, undo, least, _) in cases {
        (0..*add).for_each(|number| assert_eq!(counts.add(*cluster), number + 1));
        (0..*undo).for_each(|_| counts.undo(*cluster));
        counts.raise(*cluster, *least);
    }
    for (cluster, .., wanted) in cases {
        assert_eq!(counts.get(*cluster), *wanted, "cluster {cluster}");
    }
    for (first, len, max, done) in [(20, 10, 1, true), (20, 10, 1, false), (20, 10, 2, true), (7, 3, 65535, false)] {
        let before: Vec<_> = (first..first + len).map(|cluster| counts.get(cluster)).collect();
        assert_eq!(counts.add_all(first, len, max), done, "{first} {len} {max}");
        let after = (first..first + len).map(|cluster| counts.get(cluster));
        assert!(after.eq(before.into_iter().map(|count| count + u64::from(done))), "{first} {len} {max}");
    }
    assert_eq!(counts.numbers(), [0, 1, (1 << 40) / PIECE]);
    assert_eq!(counts.get(3 * PIECE), 0, "nothing is counted there");
    assert!(counts.bytes(3 * PIECE, 1).is_none(), "and nothing was made for it");
}
