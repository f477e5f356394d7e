use super::*;

fn warned(value: &str) -> Vec<String> {
    parse(value).unwrap().warnings.into_iter().map(|(place, text)| format!("{place}: {text}")).collect()
}

#[test]
fn no_event_exists() {
    assert_eq!(warned("foo"), ["qemu-img: trace event 'foo' does not exist"]);
    assert_eq!(warned("enable=-foo,id=x"), ["qemu-img: trace event 'foo' does not exist"]);
    assert_eq!(warned("foo,enable=bar"), ["qemu-img: trace event 'bar' does not exist"]);
    for quiet in ["", "*", "foo*", "x*y", "file=x"] {
        assert!(warned(quiet).is_empty(), "{quiet}");
    }
    assert!(parse("help").unwrap().help && parse("?").unwrap().help);
    for (wrong, name) in [("bogus=1", "bogus"), ("foo,bar", "bar"), ("foo,help", "help")] {
        assert_eq!(parse(wrong).unwrap_err().to_string(), format!("Invalid parameter '{name}'"));
    }
}

#[test]
fn events_come_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ev").to_str().unwrap().to_owned();
    assert!(parse(&format!("events={file}")).is_err());
    std::fs::write(&file, "foo\n#c\n\n bar\n*\n-baz\nqux*\n").unwrap();
    let expected = [(1, "foo"), (4, " bar"), (6, "baz")]
        .map(|(line, name)| format!("qemu-img:{file}:{line}: trace event '{name}' does not exist"));
    assert_eq!(warned(&format!("events={file}")), expected);
}
