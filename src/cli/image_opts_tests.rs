use super::*;

fn pairs(text: &str) -> String {
    let (options, _) = parse(text).unwrap();
    options.iter().map(|(name, value)| format!("{name}={};", value.as_str().unwrap())).collect()
}

#[test]
fn options_are_read() {
    let cases: &[(&str, &str)] = &[
        ("", ""),
        ("driver=raw,file.filename=a.raw", "driver=raw;file.filename=a.raw;"),
        ("driver=raw,file.filename=a,,b", "driver=raw;file.filename=a,b;"),
        ("driver=raw,,file.filename=a.raw", "driver=raw,file.filename=a.raw;"),
        ("file.filename=a.raw,driver=raw,", "file.filename=a.raw;driver=raw;"),
        ("a.raw", "file=a.raw;"),
        ("nofile", "file=nofile;"),
        ("help", "file=help;"),
        ("a,,b", "file=a,b;"),
        (",driver=raw", "file=;driver=raw;"),
        ("driver=raw,driver=qcow2", "driver=qcow2;"),
        ("driver=raw,read-only", "driver=raw;read-only=on;"),
        ("driver=raw,noread-only", "driver=raw;read-only=off;"),
        ("driver=raw,=x", "driver=raw;=x;"),
        ("driver=a=b", "driver=a=b;"),
    ];
    for (text, expected) in cases {
        assert_eq!(pairs(text), *expected, "{text}");
    }
}

#[test]
fn flags_without_a_value_are_warned_about() {
    let (_, warnings) = parse("driver=raw,read-only,nocache.direct").unwrap();
    assert_eq!(
        warnings,
        [
            "short-form boolean option 'read-only' deprecated\nPlease use read-only=on instead",
            "short-form boolean option 'nocache.direct' deprecated\nPlease use cache.direct=off instead",
        ]
    );
}

#[test]
fn ids_are_checked() {
    assert_eq!(pairs("id=x-1._y,driver=raw"), "id=x-1._y;driver=raw;");
    for text in ["id=", "id=1x", "driver=raw,id=a b"] {
        assert_eq!(parse(text).unwrap_err().to_string(), "Parameter 'id' expects an identifier", "{text}");
    }
}
