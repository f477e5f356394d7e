//! Which requests fail: rules that events switch on.

use crate::storage::DebugEvent;

/// Kinds of requests a rule can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoType {
    /// Reading bytes.
    Read,
    /// Writing bytes.
    Write,
    /// Writing zeros.
    WriteZeroes,
    /// Giving space back.
    Discard,
    /// Making everything stable.
    Flush,
    /// Asking what lies where.
    BlockStatus,
}

impl IoType {
    /// All of them, by the names that options give them.
    pub const NAMES: [(&'static str, IoType); 6] = [
        ("read", IoType::Read),
        ("write", IoType::Write),
        ("write-zeroes", IoType::WriteZeroes),
        ("discard", IoType::Discard),
        ("flush", IoType::Flush),
        ("block-status", IoType::BlockStatus),
    ];
}

/// What happens when an event comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Requests from then on fail, until an event switches other rules on.
    Inject {
        /// The error number; 0 does not fail anything.
        errno: i32,
        /// Only requests that touch this byte.
        offset: Option<u64>,
        /// Only one request.
        once: bool,
        /// Only requests of this kind; without one all but [`IoType::BlockStatus`].
        kind: Option<IoType>,
    },
    /// The state changes to this one.
    SetState(u64),
}

/// A rule: what happens at an event while a state lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The event; `None` for a rule that needs none.
    pub event: Option<DebugEvent>,
    /// The state; 0 for any.
    pub state: u64,
    /// What happens.
    pub action: Action,
}

/// Rules at work.
#[derive(Debug)]
pub struct Rules {
    /// `None` for a rule that was meant for one request and has had it.
    rules: Vec<Option<Rule>>,
    /// Numbers of the rules that events have switched on.
    active: Vec<usize>,
    state: u64,
}

impl Rules {
    /// Begins in state 1.
    pub fn new(rules: Vec<Rule>) -> Self {
        Rules { rules: rules.into_iter().map(Some).collect(), active: Vec::new(), state: 1 }
    }

    /// An event has come.
    pub fn event(&mut self, event: DebugEvent) {
        let state = self.state;
        let fits = |rule: &Rule| rule.event == Some(event) && (rule.state == 0 || rule.state == state);
        let mut injected = Vec::new();
        for (number, rule) in self.rules.iter().enumerate() {
            let Some(rule) = rule.filter(fits) else { continue };
            match rule.action {
                Action::Inject { .. } => injected.push(number),
                Action::SetState(new) => self.state = new,
            }
        }
        // What an earlier event has switched on is over once a new one switches something on.
        if !injected.is_empty() {
            self.active = injected;
        }
    }

    /// The error number with which a request fails, if it does. `range` is what it touches: offset and length.
    pub fn check(&mut self, kind: IoType, range: Option<(u64, u64)>) -> Option<i32> {
        let state = self.state;
        for number in 0..self.rules.len() {
            let Some(Rule { event, state: wanted, action }) = self.rules[number] else { continue };
            let Action::Inject { errno, offset, once, kind: only } = action else { continue };
            let on = match event {
                Some(_) => self.active.contains(&number),
                None => wanted == 0 || wanted == state,
            };
            let right_kind = only.map_or(kind != IoType::BlockStatus, |only| only == kind);
            let touched =
                offset.is_none_or(|byte| range.is_some_and(|(start, len)| byte >= start && byte - start < len));
            if on && right_kind && touched {
                if once {
                    self.rules[number] = None;
                }
                return (errno != 0).then_some(errno);
            }
        }
        None
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
