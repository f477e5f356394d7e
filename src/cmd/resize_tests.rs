use super::*;

#[test]
fn sizes_are_absolute_or_relative() {
    let cases = [
        ("1M", 10, Some(1 << 20)),
        ("+1M", 10, Some((1 << 20) + 10)),
        ("-5", 10, Some(5)),
        ("-10", 10, None),
        ("-11", 10, None),
        ("0", 10, None),
        ("8E", 10, None),
        ("+7E", 1 << 60, None),
        ("+15E", 1 << 60, None),
    ];
    for (text, current, expected) in cases {
        assert_eq!(NewSize::parse(text).expect("a size").apply(current).ok(), expected, "{text}");
    }
    for text in ["", "x", "+-1", "--1", "+", "16E", "1Q"] {
        assert!(NewSize::parse(text).is_err(), "{text}");
    }
}
