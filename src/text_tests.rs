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
