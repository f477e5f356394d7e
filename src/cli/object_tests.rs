use super::*;

fn defined(definitions: &[&str]) -> Result<Secrets> {
    match define(definitions)? {
        Objects::Secrets(secrets) => Ok(secrets),
        Objects::Help(help) => panic!("{help}"),
    }
}

#[test]
fn secrets_are_defined() {
    let cases: &[(&str, &[u8])] = &[
        ("secret,id=s,data=abc", b"abc"),
        ("qom-type=secret,id=s,data=abc", b"abc"),
        ("id=s,data=abc,qom-type=secret", b"abc"),
        ("secret,id=s,data=a,,b", b"a,b"),
        ("secret,id=s,data=", b""),
        ("secret,id=s,data=a,data=b,", b"b"),
        ("secret,id=s,format=raw,data=\u{e9}", "\u{e9}".as_bytes()),
        ("secret,id=s,data=YWJj,format=base64", b"abc"),
        ("secret,id=s,data=abc,iv=!!", b"abc"),
        (r#"{"qom-type":"secret","id":"s","data":"abc"}"#, b"abc"),
        (r#"{"qom-type":"secret","id":"s","data":"YWJj","format":"base64"} "#, b"abc"),
        ("{'qom-type':'secret','id':'s','data':'abc'}", b"abc"),
    ];
    for (text, expected) in cases {
        assert_eq!(defined(&[text]).unwrap().get("s").unwrap().bytes(), *expected, "{text}");
    }
    let not_utf8 = format!("secret,id=s,data={}", text::from_bytes(b"a\xff"));
    assert_eq!(defined(&[&not_utf8]).unwrap().get("s").unwrap().bytes(), b"a\xff");
}

#[test]
fn secrets_come_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("pw"), "abc\n").unwrap();
    let with_file = |name: &str| defined(&[&format!("secret,id=s,file={}", path(name))]);
    assert_eq!(with_file("pw").unwrap().get("s").unwrap().bytes(), b"abc\n");
    let missing = path("none");
    assert_eq!(
        with_file("none").unwrap_err().to_string(),
        format!("Unable to read {missing}: Failed to open file \u{201c}{missing}\u{201d}: No such file or directory")
    );
    let directory = path("");
    assert_eq!(
        with_file("").unwrap_err().to_string(),
        format!("Unable to read {directory}: Error reading file \u{201c}{directory}\u{201d}: Is a directory")
    );
}

#[test]
fn secrets_are_decrypted_by_earlier_ones() {
    let master = "secret,id=m,data=a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=,format=base64";
    let iv = "iv=aWlpaWlpaWlpaWlpaWlpaQ==";
    let sealed = format!("secret,id=s,keyid=m,data=01xx/AFMmT3jfTf5c1LDjQ==,format=base64,{iv}");
    let secrets = defined(&[master, &sealed]).unwrap();
    assert_eq!(secrets.get("s").unwrap().bytes(), b"secretpw");
    assert_eq!(defined(&[&sealed, master]).unwrap_err().to_string(), "No secret with id 'm'");
}

#[test]
fn mistakes_get_the_references_messages() {
    let id = "Parameter 'id' expects an identifier";
    let cases: &[(&str, &str)] = &[
        ("", "Parameter 'qom-type' is missing"),
        ("x", "Parameter 'qom-type' does not accept value 'x'"),
        ("id=s,data=abc", "Parameter 'qom-type' is missing"),
        ("secret,qom-type=foo,id=s", "Parameter 'qom-type' does not accept value 'foo'"),
        ("secret", "Parameter 'id' is missing"),
        ("secret,bogus=1", "Parameter 'id' is missing"),
        ("secret,id=s", "Either 'file' or 'data' must be provided"),
        ("secret,id=s,data=a,file=pw", "'file' and 'data' are mutually exclusive"),
        ("secret,id=s,data=x,a", "Expected '=' after parameter '...'"),
        ("secret,id=,data=abc", id),
        ("secret,id=1,data=abc", id),
        ("secret,id=1", id),
        ("secret,id=1,format=foo", "Parameter 'format' does not accept value 'foo'"),
        ("secret,id=1,bogus=1", "Parameter 'bogus' is unexpected"),
        ("secret,id=s,format=foo,data.x=1", "Parameter 'format' does not accept value 'foo'"),
        ("secret,id=s,data.x=abc", "Parameters 'data.*' are unexpected"),
        ("secret,id.x=s,data=abc", "Parameters 'id.*' are unexpected"),
        ("secret,id=s,bb.a=1,data=x", "Parameter 'bb' is unexpected"),
        ("secret,id=s,data=abc,keyid=m", "No secret with id 'm'"),
        ("secret,id=s,data=abc,keyid=s", "Secret with id 's' has no data"),
        ("secret,id=s,data=YW Jj,format=base64", "Base64 data contains invalid characters"),
        (r#"{"id":"s"}"#, "Parameter 'qom-type' is missing"),
        ("{", "JSON parse error, premature EOI"),
        (r#"{"a"}"#, "JSON parse error, missing : in object pair"),
        (r#"{"qom-type":"secret","id":"s","data":"x","id":"t"}"#, "JSON parse error, duplicate key"),
        (r#"{"qom-type":1}"#, "Invalid parameter type for 'qom-type', expected: string"),
        (r#"{"qom-type":"secret","id":"s","data":null}"#, "Invalid parameter type for 'data', expected: string"),
        (r#"{"qom-type":"secret","id":"s","data":"x","bogus":1}"#, "Parameter 'bogus' is unexpected"),
    ];
    for (text, expected) in cases {
        assert_eq!(defined(&[text]).unwrap_err().to_string(), *expected, "{text}");
    }
    let twice = defined(&["secret,id=s,data=a", "secret,id=s,data=b"]).unwrap_err().to_string();
    assert_eq!(twice, "attempt to add duplicate property 's' to object (type 'container')");
}

#[test]
fn help_is_offered() {
    for (text, heading) in [("help", "List of user"), ("?", "List of user"), ("secret,?", "secret options:")] {
        assert!(matches!(define(&[text]), Ok(Objects::Help(help)) if help.starts_with(heading)), "{text}");
    }
}
