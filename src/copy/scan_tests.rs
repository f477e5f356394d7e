use super::*;

#[test]
fn one_byte_anywhere_is_found() {
    for len in [0, 1, 63, 255, 256, 257, 4096, 5000] {
        let mut bytes = vec![0; len];
        assert!(is_zero(&bytes));
        let zeros = bytes.clone();
        assert!(is_equal(&bytes, &zeros) && !is_equal(&bytes, &vec![0; len + 1]));
        for at in (0..len).step_by(61).chain(len.checked_sub(1)) {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "byte {at} of {len}");
            assert!(!is_equal(&bytes, &zeros) && !is_equal(&zeros, &bytes), "byte {at} of {len}");
            bytes[at] = 0;
        }
    }
}

#[test]
fn units_follow_the_option() {
    let cases = [
        (4096, 1, 4096),
        (4096, 4096, 4096),
        (512, 1, 512),
        (512, 4096, 4096),
        (12288, 1, 8192),
        (1 << 20, 512, 1 << 20),
    ];
    for (min, alignment, unit) in cases {
        assert_eq!(SparseRule::new(min, alignment), SparseRule { unit, min });
    }
}

/// Splits a disk given as one character per 512 bytes.
fn split(rule: SparseRule, guest: u64, picture: &str) -> String {
    let bytes: Vec<u8> = picture.bytes().flat_map(|c| [u8::from(c == b'x'); 512]).collect();
    let mut edits = Vec::new();
    rule.split(guest * 512, &bytes, EditKind::Zero, &mut edits);
    let mut text = String::new();
    for edit in edits {
        let mark = if edit.kind == EditKind::Data { "x" } else { "." };
        text.push_str(&mark.repeat((edit.len / 512) as usize));
    }
    text
}

#[test]
fn runs_are_cut_at_units() {
    let rule = SparseRule::new(2048, 1);
    // guest sector, picture, result
    let cases = [
        (0, "........", "........"),
        (0, "xxxxxxxx", "xxxxxxxx"),
        (0, "x.......", "xxxx...."),
        (0, ".......x", "....xxxx"),
        (0, "..xx....xx..", "xxxx....xxxx"),
        // The part of a unit at the start stands for itself.
        (3, ".xxxx....", ".xxxx...."),
        (2, "..x.x.", "..xxxx"),
        // So does the part at the end.
        (0, "xxxx..", "xxxx.."),
    ];
    for (guest, picture, expected) in cases {
        assert_eq!(split(rule, guest, picture), expected, "{picture} at {guest}");
    }
}

#[test]
fn short_runs_between_data_are_data() {
    // Units of 4 sectors, runs of 6 at least.
    let rule = SparseRule::new(3072, 1);
    let cases = [
        ("xxxx....xxxx", "xxxxxxxxxxxx"),
        ("xxxx........xxxx", "xxxx........xxxx"),
        ("....xxxx....", "....xxxx...."),
        ("xxxx....xxxx....xxxx", "xxxxxxxxxxxxxxxxxxxx"),
    ];
    for (picture, expected) in cases {
        assert_eq!(split(rule, 0, picture), expected, "{picture}");
    }
}
