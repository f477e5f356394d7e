use super::*;

#[test]
fn strings_are_read() {
    let cases: &[(&str, &str)] = &[
        ("", "{}"),
        ("secret,id=s", r#"{"type":"secret","id":"s"}"#),
        ("type=secret,id=s", r#"{"type":"secret","id":"s"}"#),
        ("id=s", r#"{"id":"s"}"#),
        ("x,a=b,,c,d=", r#"{"type":"x","a":"b,c","d":""}"#),
        ("x,a=1,a=2,", r#"{"type":"x","a":"2"}"#),
        ("x.y,a.b=1,a.c-d_e=2", r#"{"type":"x.y","a":{"b":"1","c-d_e":"2"}}"#),
        ("x,a.0=1,a.1.b=2", r#"{"type":"x","a":{"0":"1","1":{"b":"2"}}}"#),
    ];
    for (text, expected) in cases {
        let found = parse(text, "type").unwrap();
        assert_eq!(Value::Object(found.values).to_string(), *expected, "{text}");
        assert!(!found.help);
    }
    for text in ["help", "?", "x,help", "x,a=b,?,c=d"] {
        assert!(parse(text, "type").unwrap().help, "{text}");
    }
    assert!(!parse("x,help=1", "type").unwrap().help);
}

#[test]
fn mistakes_get_the_references_messages() {
    let long = "a".repeat(200);
    let cases: &[(&str, &str)] = &[
        (",id=s", "Invalid parameter ''"),
        ("x,,id=s", "Invalid parameter ''"),
        ("x,bogus", "Expected '=' after parameter 'bogus'"),
        ("x,=abc", "Invalid parameter ''"),
        ("x,.x=abc", "Invalid parameter '.x'"),
        ("x,x.=abc", "Invalid parameter 'x.'"),
        ("x,a.=1,b", "Invalid parameter 'a.'"),
        ("x,1=abc", "Invalid parameter '1'"),
        ("x,a b=abc", "Invalid parameter 'a b'"),
        ("x,_x=1", "Invalid parameter '_x'"),
        ("x,-x=1", "Invalid parameter '-x'"),
        ("x,__x=1", "Invalid parameter '__x'"),
        ("x,\u{e9}=1", "Invalid parameter '\u{e9}'"),
        ("x,x:y=1", "Invalid parameter 'x:y'"),
        ("x,a.1=abc", "Parameter 'a.0' missing"),
        ("x,a=1,a.b=2", "Parameters 'a.*' used inconsistently"),
        ("x,a.b=2,a=1", "Parameters 'a.*' used inconsistently"),
        ("x,a.0=1,a.x=2", "Parameters 'a.*' used inconsistently"),
        (&format!("x,{long}=1"), &format!("Parameter '{long}' is too long")),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(text, "type").unwrap_err().to_string(), *expected, "{text}");
    }
    assert!(parse("x,__x.y_z=1", "type").is_ok());
}
