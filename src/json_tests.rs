use serde_json::json;

use super::{one_line, pretty};
use crate::text;

#[test]
fn one_line_has_blanks_and_the_reference_s_order() {
    let value =
        json!({"file": {"filename": "a", "driver": "file"}, "driver": "raw", "offset": "512", "x": [1, true], "y": {}});
    assert_eq!(
        one_line(&value),
        r#"{"x": [1, true], "offset": "512", "driver": "raw", "y": {}, "file": {"driver": "file", "filename": "a"}}"#
    );
}

#[test]
fn pretty_uses_four_spaces_and_breaks_empty_lists() {
    let value = json!({"children": [], "data": {}, "name": ["x", 2]});
    assert_eq!(
        pretty(&value),
        "{\n    \"name\": [\n        \"x\",\n        2\n    ],\n    \"children\": [\n    ],\n    \"data\": {\n    }\n}"
    );
}

#[test]
fn strings_are_ascii() {
    let name = format!("ä\"\\\n\u{1}\u{7f}😀{}", text::from_bytes(b"\xff"));
    assert_eq!(one_line(&json!(name)), r#""\u00E4\"\\\n\u0001\u007F\uD83D\uDE00\uFFFD""#);
}

#[test]
fn fractions_are_written_as_c_does() {
    let cases = [
        (512.0, "512"),
        (512.5, "512.5"),
        (1e20, "1e+20"),
        (1e-7, "9.9999999999999995e-08"),
        (0.1, "0.10000000000000001"),
        (-2.5e300, "-2.5000000000000001e+300"),
    ];
    for (value, expected) in cases {
        assert_eq!(one_line(&json!(value)), expected);
    }
}
