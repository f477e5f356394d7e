use super::*;

#[test]
fn snapshots_are_named_or_described() {
    let exact = |id: Option<&str>, name: Option<&str>| SnapshotChoice::Exact {
        id: id.map(str::to_owned),
        name: name.map(str::to_owned),
    };
    let cases = [
        ("1", Ok(SnapshotChoice::Any("1".to_owned()))),
        ("", Ok(SnapshotChoice::Any(String::new()))),
        ("snapshot.id=1", Ok(exact(Some("1"), None))),
        ("snapshot.id=1,snapshot.name=a,,b", Ok(exact(Some("1"), Some("a,b")))),
        ("snapshot.x=1", Err("Invalid parameter 'snapshot.x'")),
    ];
    for (text, expected) in cases {
        match (parse_snapshot(text), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(message)) => assert_eq!(error.to_string(), message),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }
}
