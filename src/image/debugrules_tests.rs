use super::*;

#[test]
fn configuration_files() {
    let text = "# comment\n[inject-error \"id\"]\nevent = \"l2_load\"\nerrno = \"28\"\nonce = \"on\"\n\n[set-state]\n\
                state = \"1\"\nevent = \"read_aio\"\nnew_state = \"2\"\n";
    let inject = DebugAction::Inject { errno: 28, offset: None, once: true, kind: None };
    assert_eq!(
        parse_config(text).expect("sound"),
        [
            DebugRule { event: Some(DebugEvent::L2Load), state: 0, action: inject },
            DebugRule { event: Some(DebugEvent::ReadAio), state: 1, action: DebugAction::SetState(2) },
        ]
    );
    for (text, error) in [
        ("x\n", "no group defined"),
        ("event = \"none\"\n", "no group defined"),
        ("[bogus]\n", "There is no option group 'bogus'"),
        ("[inject-error]\nevent = none\n", "invalid parameter value: "),
        ("[inject-error]\nerrno = \"x\"\n", "Parameter 'errno' expects a number"),
        ("[inject-error]\nerrno = \"5\"\n", "Missing event name for rule"),
        ("[inject-error]\nevent=\"read_aio\"\n", "Invalid parameter 'event=\"read_aio\"'"),
        ("[set-state]\nevent = \"none\"\nerrno = \"5\"\n", "Invalid parameter 'errno'"),
        ("[inject-error]\nevent = \"nothing\"\n", "invalid parameter value: nothing"),
    ] {
        assert_eq!(parse_config(text).expect_err(text).to_string(), error, "{text}");
    }
}
