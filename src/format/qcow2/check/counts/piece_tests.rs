use super::*;

/// Does the same with a piece and with plain bytes, in an order that makes counts rise together, apart, and fall again.
#[test]
fn counts_are_kept_as_plain_bytes_would_keep_them() {
    let mut plain = vec![0_u8; PIECE as usize];
    let mut piece = Piece::new();
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let mut widths = std::collections::BTreeSet::new();
    for round in 0..4000 {
        let at = random(plain.len());
        // Sometimes all of them at once, which is how snapshots count.
        let range = if round % 200 == 1 { 0..plain.len() } else { at..(at + 1 + random(500)).min(plain.len()) };
        match round % 10 {
            0..=3 => {
                let limit = [1, 2, 254][random(3)];
                let small = plain[range.clone()].iter().all(|count| *count < limit);
                assert_eq!(piece.add_all(range.clone(), limit), small, "{range:?} below {limit}");
                plain[range].iter_mut().for_each(|count| *count += u8::from(small));
            }
            4 => {
                let count = [0, 1, 3, 9, 254, 255][random(2 + 5 * round / 4000)];
                (plain[at], _) = (count, piece.set(at, count));
            }
            _ => {
                let count = plain[at].saturating_sub(1);
                (plain[at], _) = (count, piece.set(at, count));
            }
        }
        widths.insert(piece.bits);
        assert_eq!(piece.get(at), plain[at], "round {round}");
        if round % 50 == 0 {
            assert_eq!(piece.bytes(0..plain.len()), plain, "round {round}");
            assert_eq!(piece.bytes(7..77), plain[7..77], "round {round}");
        }
    }
    assert_eq!(piece.bytes(0..plain.len()), plain);
    assert!(widths.len() >= 3, "{widths:?}");
}

#[test]
fn clusters_that_are_all_used_alike_take_a_bit_each() {
    let mut piece = Piece::new();
    for round in 0..100 {
        assert!(piece.add_all(0..PIECE as usize, 254));
        assert_eq!((piece.bits, piece.get(0), piece.get(4095)), (1, round + 1, round + 1));
    }
}

/// As where a table was moved when a snapshot was taken: everything is used by each snapshot, but for one cluster.
#[test]
fn a_few_clusters_that_are_used_otherwise_take_no_further_bits() {
    let mut piece = Piece::new();
    for round in 0..100 {
        assert!(piece.add_all(0..700, 254) && piece.add_all(701..PIECE as usize, 254));
        assert_eq!((piece.bits, piece.get(699), piece.get(700), piece.get(701)), (1, round + 1, 0, round + 1));
        assert_eq!(piece.bytes(699..702), [round + 1, 0, round + 1]);
    }
    assert!(!piece.add_all(0..PIECE as usize, 100), "most of them are 100");
    piece.set(700, 100);
    assert!(piece.add_all(0..PIECE as usize, 101));
    assert_eq!((piece.bits, piece.get(700), piece.get(701)), (1, 101, 101));
}
