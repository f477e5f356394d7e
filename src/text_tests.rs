use super::*;

#[test]
fn bytes_come_back() {
    let cases: &[&[u8]] = &[
        b"",
        b"plain",
        "gr\u{fc}n \u{1d11e}".as_bytes(),
        b"n\xff\xfe.raw",
        b"\x80",
        b"cut \xe2\x82",
        "\u{10ffff}\u{10ff80}\u{10ff7f}".as_bytes(),
    ];
    for bytes in cases {
        assert_eq!(to_bytes(&from_bytes(bytes)), *bytes, "{bytes:?}");
    }
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(to_bytes(&from_bytes(&all)), all);
}

#[test]
fn valid_text_is_unchanged() {
    assert_eq!(from_bytes("gr\u{fc}n".as_bytes()), "gr\u{fc}n");
    assert!(from_bytes(b"a\xffb").chars().filter(|c| is_carried(*c)).count() == 1);
}

#[test]
fn code_points_are_the_references() {
    let cases: &[(&[u8], &[Option<u32>])] = &[
        (b"a\x7f", &[Some(0x61), Some(0x7f)]),
        ("\u{e9}\u{1d11e}".as_bytes(), &[Some(0xe9), Some(0x1d11e)]),
        (b"\xff\xc3(", &[None, None, Some(0x28)]),
        (b"\xed\xa0\x80", &[None]),
        (b"\xc0\x80", &[Some(0)]),
        (b"\xc1\x80", &[None]),
        (b"\xf4\x90\x80\x80", &[None]),
        (b"\xef\xbf\xbe\xef\xbf\xbf\xef\xb7\x90", &[None, None, None]),
        (b"\xf8\x88\x80\x80\x80", &[None]),
        (b"\xe2\x82 \xf0\x9f\x92 \xc3", &[None, Some(0x20), None, Some(0x20), None]),
        (b"\x80\x80", &[None, None]),
    ];
    for (bytes, expected) in cases {
        assert_eq!(json_code_points(&from_bytes(bytes)), *expected, "{bytes:x?}");
    }
}
