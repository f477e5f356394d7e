use serde_json::json;

use super::parse;

#[test]
fn reads_values() {
    let cases = [
        (r#" {"a": 1, 'b' : [true,null,-5, 1.5e2]} "#, json!({"a": 1, "b": [true, null, -5, 150.0]})),
        (r#"{"\u0041\n": "\ud83d\ude00'"}"#, json!({"A\n": "😀'"})),
        ("[]", json!([])),
        ("{}", json!({})),
        ("18446744073709551615", json!(u64::MAX)),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(text).unwrap(), expected, "{text}");
    }
}

#[test]
fn mistakes_have_the_words_of_the_reference() {
    let cases = [
        ("", "Expecting a JSON value"),
        ("{", "JSON parse error, premature EOI"),
        (r#"{"a":1"#, "JSON parse error, premature EOI"),
        (r#"{"a":1}x"#, "Expecting at most one JSON value"),
        (r#"{"a":1}1"#, "Expecting at most one JSON value"),
        (r#"{"a":1,}"#, "JSON parse error, expecting value"),
        ("}", "JSON parse error, expecting value"),
        (r#"{"a":tru}"#, "JSON parse error, invalid keyword 'tru'"),
        (r#"{"a":-}"#, "JSON parse error, stray '-}'"),
        (r#"{"a":01}"#, "JSON parse error, stray '01'"),
        (r#"{"a":%d}"#, "JSON parse error, stray '%'"),
        (r#"{"a":"\x"}"#, "JSON parse error, invalid escape sequence in string"),
        (r#"{"a":"\u00zz"}"#, r"JSON parse error, \u00zz is not a valid Unicode character"),
        (r#"{"a":""#, "JSON parse error, stray '\"'"),
        (r#"["a"#, "JSON parse error, stray '\"a'"),
        (r#"{"a" 1}"#, "JSON parse error, missing : in object pair"),
        (r#"{"a":1,"a":2}"#, "JSON parse error, duplicate key"),
        (r"{1:2}", "JSON parse error, key is not a string in object"),
        (r"{a:1}", "JSON parse error, invalid keyword 'a'"),
        ("[1 2]", "JSON parse error, expected separator in list"),
    ];
    for (text, message) in cases {
        assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
    }
}

#[test]
fn deep_nesting_and_damaged_texts_are_refused() {
    for open in ["[", r#"{"a":"#] {
        let error = parse(&open.repeat(100_000)).unwrap_err().to_string();
        assert_eq!(error, "JSON nesting depth limit exceeded");
    }
    let good = r#"{"driver":"qcow2","file":{"driver":"file","filename":"\u0041ä😀"},"x":[1.5e-3,null]}"#;
    for at in (0..good.len()).filter(|at| good.is_char_boundary(*at)) {
        assert!(parse(&good[..at]).is_err());
        for junk in ["\\", "\"", "{", "\0", "\u{10ffff}", "-", "9e", "\\ud800"] {
            let _ = parse(&format!("{}{junk}{}", &good[..at], &good[at..]));
        }
    }
}
