//! The rules of `blkdebug`, as options and as a configuration file say them.

use std::collections::BTreeSet;

use super::options::NodeOptions;
use crate::error::{Context, Error, Result};
use crate::storage::{DebugAction, DebugEvent, DebugIoType, DebugRule, Permissions};
use crate::text;
use crate::units::SECTOR;

/// The groups of rules, with the options of each.
const GROUPS: [(&str, &[&str]); 2] = [
    ("inject-error", &["event", "state", "iotype", "errno", "sector", "once", "immediately"]),
    ("set-state", &["event", "state", "new_state"]),
];

/// Longest configuration file in bytes.
const CONFIG_MAX: u64 = 1 << 20;

/// Takes the rules out of the options of a node: `inject-error.0.event` and so on, or without numbers for a single one.
pub(super) fn take_rules(options: &mut NodeOptions) -> Result<Vec<DebugRule>> {
    let mut rules = Vec::new();
    for (group, names) in GROUPS {
        let mut given = options.take_child(group);
        let single = given.map().keys().any(|key| names.contains(&key.as_str()));
        if single {
            rules.push(rule(group, |name| given.take_text(name))?);
            if let Some(rest) = given.first() {
                return Err(Error::invalid(format!("Unknown option '{rest}' for [{group}]")));
            }
            continue;
        }
        for number in 0.. {
            let mut one = given.take_child(&number.to_string());
            if one.is_empty() {
                break;
            }
            let unknown = one.map().keys().find(|key| !names.contains(&key.as_str()));
            if let Some(unknown) = unknown {
                return Err(Error::invalid(format!("[{group}] section doesn't support the option '{unknown}'")));
            }
            rules.push(rule(group, |name| one.take_text(name))?);
        }
        if let Some(rest) = given.first() {
            return Err(Error::invalid(format!("Unused option '{rest}' for [{group}]")));
        }
    }
    Ok(rules)
}

/// Takes out which permissions on the image below are to be used (`take-child-perms`) and refused to others
/// (`unshare-child-perms`) besides those that are needed.
pub(super) fn take_permissions(options: &mut NodeOptions) -> Result<Permissions> {
    let mut all = Permissions::NONE;
    for (key, refused) in [("take-child-perms", false), ("unshare-child-perms", true)] {
        for (index, name) in take_list(options, key)?.into_iter().enumerate() {
            let no_text = || Error::invalid(format!("Invalid parameter type for '[{index}]', expected: string"));
            let name = name.ok_or_else(no_text)?;
            let bad = || Error::invalid(format!("Parameter 'null' does not accept value '{name}'"));
            let (use_it, refuse_it) = Permissions::named(&name).ok_or_else(bad)?;
            all = all.and(if refused { refuse_it } else { use_it });
        }
    }
    Ok(all)
}

/// Takes out a list: `key.0`, `key.1` and so on. `None` stands for what is no string.
fn take_list(options: &mut NodeOptions, key: &str) -> Result<Vec<Option<String>>> {
    let given = options.take_child(key);
    if given.is_empty() {
        return Ok(Vec::new());
    }
    let refuse = |text: String| Err(Error::invalid(text));
    let keys = || given.map().keys().map(String::as_str);
    let heads: BTreeSet<&str> = keys().map(|key| key.split('.').next().unwrap_or(key)).collect();
    if heads.iter().any(|head| given.contains(head) && keys().any(|key| key.starts_with(&format!("{head}.")))) {
        return refuse("Cannot mix scalar and non-scalar keys".into());
    }
    let indices: Vec<i64> = heads.iter().filter_map(|head| head.parse().ok()).collect();
    if indices.is_empty() {
        return refuse("Invalid parameter type for '<anonymous>', expected: array".into());
    }
    if indices.len() != heads.len() {
        return refuse("Cannot mix list and non-list keys".into());
    }
    let (seen, last) = (heads.len(), indices.iter().copied().max().unwrap_or(0));
    if i64::try_from(seen).ok() != last.checked_add(1) {
        return refuse(format!("List indices are not contiguous, saw {seen} elements but {last} largest index"));
    }
    let keys: Vec<_> = (0..seen).map(|index| index.to_string()).collect();
    if let Some(missing) = keys.iter().find(|key| !heads.contains(key.as_str())) {
        return refuse(format!("Missing list index {missing}"));
    }
    Ok(keys.iter().map(|key| given.string(key).map(str::to_owned)).collect())
}

/// Reads a configuration file: groups in brackets, and lines of the form `name = "value"`.
pub(super) fn read_config(filename: &str) -> Result<Vec<DebugRule>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(text::to_os(filename))
        .and_then(|file| file.take(CONFIG_MAX).read_to_end(&mut bytes))
        .map_err(Error::from)
        .context(|| "Could not read blkdebug config file")?;
    parse_config(&text::from_bytes(&bytes))
}

fn parse_config(content: &str) -> Result<Vec<DebugRule>> {
    type Group = (&'static str, &'static [&'static str], Vec<(String, String)>);
    let mut groups: Vec<Group> = Vec::new();
    for line in content.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if let Some(rest) = line.strip_prefix('[') {
            let head = rest.split(']').next().unwrap_or(rest);
            // A name in quotes may follow.
            let (name, id) = head.split_once(" \"").unwrap_or((head, "x"));
            let found = GROUPS.into_iter().find(|(group, _)| *group == name && rest.contains(']'));
            let (group, names) = found.ok_or_else(|| Error::invalid(format!("There is no option group '{name}'")))?;
            check_id(id.trim_end_matches('"'))?;
            groups.push((group, names, Vec::new()));
            continue;
        }
        let Some((_, names, options)) = groups.last_mut() else {
            return Err(Error::invalid("no group defined"));
        };
        let (name, value) = match line.split_once(" = ") {
            Some((name, value)) => (name.trim(), value.trim_start_matches('"').split('"').next().unwrap_or_default()),
            None => (line.trim(), ""),
        };
        if !names.contains(&name) {
            return Err(Error::invalid(format!("Invalid parameter '{name}'")));
        }
        let quoted = line.split_once(" = ").is_some_and(|(_, value)| value.starts_with('"'));
        options.push((name.to_owned(), if quoted { value } else { "" }.to_owned()));
    }
    let one = |(group, _, options): Group| {
        let value = |name: &str| options.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        rule(group, value)
    };
    groups.into_iter().map(one).collect()
}

fn check_id(id: &str) -> Result<()> {
    let start = id.starts_with(|c: char| c.is_ascii_alphabetic());
    if start && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')) {
        return Ok(());
    }
    let error = Error::invalid("Parameter 'id' expects an identifier");
    Err(error.hint("Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."))
}

/// One rule from its options.
fn rule(group: &str, mut option: impl FnMut(&str) -> Option<String>) -> Result<DebugRule> {
    // In this form numbers and switches are read as everywhere.
    let mut values = NodeOptions::default();
    for name in GROUPS.iter().flat_map(|(_, names)| *names) {
        if let Some(value) = option(name) {
            values.set(name, value);
        }
    }
    let bad = |value: &str| Error::invalid(format!("invalid parameter value: {value}"));
    let state = values.take_number("state")?.unwrap_or(0);
    let errno = values.take_number("errno")?;
    let sector = values.take_number("sector")?;
    let once = values.take_bool("once")?.unwrap_or(false);
    // Requests fail when they are made in any case.
    values.take_bool("immediately")?;
    let new_state = values.take_number("new_state")?.unwrap_or(0);
    let event = values.take_text("event").ok_or_else(|| Error::invalid("Missing event name for rule"))?;
    let event = match &*event {
        "none" => None,
        name => Some(DebugEvent::find(name).ok_or_else(|| bad(name))?),
    };
    let kind = match values.take_text("iotype") {
        None => None,
        Some(name) => {
            let found = DebugIoType::NAMES.into_iter().find(|(known, _)| *known == name);
            Some(found.ok_or_else(|| bad(&name))?.1)
        }
    };
    let action = match group {
        "set-state" => DebugAction::SetState(new_state),
        _ => DebugAction::Inject {
            // The reference keeps 32 bits, and takes errors as numbers above zero.
            errno: errno.map_or(libc::EIO, |number| number as i32),
            offset: sector.filter(|sector| *sector != u64::MAX).map(|sector| sector.saturating_mul(SECTOR)),
            once,
            kind,
        },
    };
    Ok(DebugRule { event, state, action })
}

#[cfg(test)]
#[path = "debugrules_tests.rs"]
mod tests;
