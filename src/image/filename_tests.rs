use super::{protocol_prefix, resolve_backing, strip_protocol};

#[test]
fn protocols_stand_before_the_first_slash() {
    let cases = [
        ("nbd://x", Some("nbd")),
        ("file:x", Some("file")),
        (":x", Some("")),
        ("./a:b", None),
        ("/a:b", None),
        ("ab", None),
        ("", None),
    ];
    for (name, expected) in cases {
        assert_eq!(protocol_prefix(name), expected, "{name}");
    }
}

#[test]
fn stripped_names_are_paths() {
    assert_eq!(strip_protocol("file:a", "file"), "a");
    assert_eq!(strip_protocol("file:a:b", "file"), "./a:b");
    assert_eq!(strip_protocol("file:/a:b", "file"), "/a:b");
    assert_eq!(strip_protocol("a", "file"), "a");
}

#[test]
fn backing_names_are_relative_to_the_image() {
    let cases = [
        ("a.qcow2", "b", "b"),
        ("sub/a.qcow2", "../b", "sub/../b"),
        ("./a", "b", "./b"),
        ("/x/y/a", "b", "/x/y/b"),
        ("sub/a", "/b", "/b"),
        ("sub/a", "nbd://h/b", "nbd://h/b"),
        ("sub/a", "json:{}", "json:{}"),
        ("sub/a", "", ""),
    ];
    for (image, backing, expected) in cases {
        assert_eq!(resolve_backing(image, backing).unwrap(), expected, "{image} {backing}");
    }
    let error = resolve_backing("json:{}", "b").unwrap_err();
    assert_eq!(error.to_string(), "Cannot use relative backing file names for 'json:{}'");
}
