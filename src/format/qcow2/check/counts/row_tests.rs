use super::*;

/// How many runs of so many clusters, so many apart, are counted so often, and whether a list is enough.
const CASES: &[(usize, usize, usize, u8, bool)] = &[
    (5, 700, 3, 2, true),
    (32, 64, 1, 3, true),
    (33, 63, 1, 1, false),
    (40, 100, 70, 1, false),
    (1, 9, 1, 200, true),
    (1, 4095, 1, 1, true),
];

#[test]
fn a_list_counts_as_plain_bytes_do() {
    for case @ (runs, apart, len, times, few) in CASES {
        let (mut row, mut plain) = (Row::new(), vec![0_u8; PIECE as usize]);
        for round in 0..*times {
            for first in (0..*runs).map(|number| number * apart) {
                assert!(!row.add_all(first..first + len, round), "{case:?}");
                assert!(row.add_all(first..first + len, round + 1), "{case:?}");
                plain[first..first + len].iter_mut().for_each(|count| *count += 1);
            }
        }
        assert_eq!(matches!(row, Row::Few(_)), *few, "{case:?}");
        for first in (0..plain.len()).step_by(32) {
            let found = row.bytes(first..first + 32).unwrap_or(vec![0; 32]);
            assert_eq!(found, plain[first..first + 32], "{case:?} at {first}");
            assert_eq!(row.get(first), plain[first], "{case:?} at {first}");
        }
    }
    assert_eq!(Row::new().bytes(0..PIECE as usize), None);
}
