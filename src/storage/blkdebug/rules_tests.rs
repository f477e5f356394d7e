use super::*;

fn inject(event: Option<DebugEvent>, state: u64, errno: i32) -> Rule {
    Rule { event, state, action: Action::Inject { errno, offset: None, once: false, kind: None } }
}

#[test]
fn events_switch_rules_on() {
    let mut rules =
        Rules::new(vec![inject(Some(DebugEvent::ReadAio), 0, 5), inject(Some(DebugEvent::WriteAio), 0, 28)]);
    assert_eq!(rules.check(IoType::Read, None), None);
    rules.event(DebugEvent::L2Load);
    assert_eq!(rules.check(IoType::Read, None), None);
    rules.event(DebugEvent::ReadAio);
    assert_eq!(rules.check(IoType::Write, None), Some(5), "whatever request comes next");
    rules.event(DebugEvent::L2Load);
    assert_eq!(rules.check(IoType::Read, None), Some(5), "until other rules are switched on");
    rules.event(DebugEvent::WriteAio);
    assert_eq!(rules.check(IoType::Read, None), Some(28));
    assert_eq!(rules.check(IoType::BlockStatus, None), None);
}

#[test]
fn states_choose_rules() {
    let set = |event, state, new| Rule { event: Some(event), state, action: Action::SetState(new) };
    let mut rules = Rules::new(vec![
        set(DebugEvent::L2Load, 1, 2),
        inject(Some(DebugEvent::ReadAio), 2, 5),
        inject(None, 3, 6),
        set(DebugEvent::WriteAio, 2, 3),
    ]);
    rules.event(DebugEvent::ReadAio);
    assert_eq!(rules.check(IoType::Read, None), None, "state 1");
    rules.event(DebugEvent::L2Load);
    assert_eq!(rules.check(IoType::Read, None), None, "the event is still to come");
    rules.event(DebugEvent::WriteAio);
    assert_eq!(rules.check(IoType::Read, None), Some(6), "no event needed in state 3");
}

#[test]
fn places_and_kinds_choose_requests() {
    let action = Action::Inject { errno: 5, offset: Some(1024), once: true, kind: Some(IoType::Write) };
    let mut rules = Rules::new(vec![Rule { event: None, state: 0, action }]);
    for (kind, range) in [
        (IoType::Read, Some((0, 4096))),
        (IoType::Write, Some((0, 1024))),
        (IoType::Write, Some((1025, 1024))),
        (IoType::Write, None),
        (IoType::Discard, Some((0, 4096))),
    ] {
        assert_eq!(rules.check(kind, range), None, "{kind:?} {range:?}");
    }
    assert_eq!(rules.check(IoType::Write, Some((1024, 1))), Some(5));
    assert_eq!(rules.check(IoType::Write, Some((1024, 1))), None, "only once");
}
