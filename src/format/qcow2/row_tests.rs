use super::*;

const COPIED: u64 = 1 << 63;
/// The largest offset.
const LAST: u64 = 0x00ff_ffff_ffff_f000;
const CLUSTER: u64 = 0x1000;

/// Words that lie as far apart as `stride` says, with something else between them.
fn bytes(words: &[u64], stride: usize) -> Vec<u8> {
    words.iter().flat_map(|word| [&word.to_be_bytes()[..], &[0x5a; 8][..stride - 8]].concat()).collect()
}

fn one_by_one(words: &[u64], step: u64) -> usize {
    let expected = |count: usize| words[0].checked_add(count as u64 * step).filter(|next| (next ^ words[0]) >> 56 == 0);
    words.iter().enumerate().take_while(|(count, word)| expected(*count) == Some(**word)).count()
}

#[test]
fn rows_of_every_length_end_where_they_end() {
    for stride in [8, 16] {
        for step in [0, CLUSTER] {
            for first in [0, 0x5000, 0x5000 | COPIED, 1, LAST - 20 * CLUSTER + COPIED] {
                for len in 1..40 {
                    let mut words: Vec<u64> = (0..len).map(|count| first.wrapping_add(count * step)).collect();
                    let whole = row(&bytes(&words, stride), stride, step);
                    assert_eq!(whole, one_by_one(&words, step), "{stride} {step} {first:#x} {len}");
                    // In a row of eight and more one that differs in any bit, at any place.
                    for bit in [0, 12, 55, 56, 63] {
                        let at = (len / 2) as usize;
                        words[at] ^= 1 << bit;
                        let found = row(&bytes(&words, stride), stride, step);
                        assert_eq!(found, one_by_one(&words, step), "{stride} {step} {first:#x} {len} {bit}");
                        words[at] ^= 1 << bit;
                    }
                }
            }
        }
    }
}

#[test]
fn the_end_of_offsets_ends_a_row() {
    for stride in [8, 16] {
        assert_eq!(row(&bytes(&[LAST, LAST + CLUSTER], stride), stride, CLUSTER), 1);
        assert_eq!(row(&bytes(&[LAST | COPIED, 0], stride), stride, CLUSTER), 1);
        assert_eq!(row(&bytes(&[u64::MAX; 9], stride), stride, 0), 9);
        assert_eq!(row(&[], stride, CLUSTER), 0);
    }
}

#[test]
fn the_second_words_of_entries_are_a_row_of_their_own() {
    let entries: Vec<u8> = (0..20_u64).flat_map(|raw| [raw.to_be_bytes(), 7_u64.to_be_bytes()].concat()).collect();
    assert_eq!(row(&entries[8..], 16, 0), 20);
    assert_eq!(row(&entries, 16, 1), 20);
}

#[test]
fn flags_are_set_in_the_first_words_alone() {
    for stride in [8, 16] {
        let words: Vec<u64> = (0..21).map(|at| at * CLUSTER + if at % 3 == 0 { COPIED } else { 0 }).collect();
        let before = bytes(&words, stride);
        for copied in [false, true] {
            let mut entries = before.clone();
            assert!(set_copied(&mut entries, stride, copied));
            let expected: Vec<u64> = words.iter().map(|word| (word & !COPIED) + (u64::from(copied) << 63)).collect();
            assert_eq!(entries, bytes(&expected, stride));
            assert!(!set_copied(&mut entries, stride, copied), "they are right by now");
        }
    }
}
