//! Key-value strings: `name=value,outer.inner=value`, the language of `--object`.
//!
//! Stricter than option lists ([`super::optlist`]): every name needs a value, and names are checked. Dots nest, as in
//! JSON objects.

#![deny(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
// No number that the text gives is calculated with: the only sums are of positions in a text in memory.

use serde_json::{Map, Value};

use super::optlist;
use crate::error::{Error, Result};

/// What a key-value string says.
#[derive(Debug, Default, PartialEq)]
pub struct KeyVal {
    /// Names and values; nested names are nested objects, values are strings.
    pub values: Map<String, Value>,
    /// Whether `help` or `?` stood somewhere in place of a name and value.
    pub help: bool,
}

/// The longest part of a name between dots.
const MAX_FRAGMENT: usize = 127;

/// Reads a key-value string. A first word without `=` is the value of `implied`.
pub fn parse(text: &str, implied: &str) -> Result<KeyVal> {
    let mut found = KeyVal::default();
    let mut rest = text;
    let mut implied = Some(implied);
    while !rest.is_empty() {
        let end = rest.find(['=', ',']).unwrap_or(rest.len());
        let (key, behind) = rest.split_at(end);
        let implied = implied.take();
        if let Some(behind) = behind.strip_prefix('=') {
            let value;
            (value, rest) = optlist::value(behind);
            set(&mut found.values, key, value)?;
        } else if matches!(key, "help" | "?") {
            found.help = true;
            rest = behind;
        } else if let Some(implied) = implied.filter(|_| !key.is_empty()) {
            // Unlike other values, this one ends at the first comma.
            set(&mut found.values, implied, key.to_owned())?;
            rest = behind;
        } else {
            check_key(key)?;
            return Err(Error::invalid(format!("Expected '=' after parameter '{key}'")));
        }
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    check_lists(&found.values, "")?;
    Ok(found)
}

fn set(values: &mut Map<String, Value>, key: &str, value: String) -> Result<()> {
    let fragments = check_key(key)?;
    let mut place = values;
    let mut path = String::new();
    let (last, outer) = fragments.split_last().expect("a key has at least one part");
    for fragment in outer {
        path.push_str(fragment);
        let inner = place.entry(*fragment).or_insert_with(|| Value::Object(Map::new()));
        place = inner.as_object_mut().ok_or_else(|| inconsistent(&path))?;
        path.push('.');
    }
    if place.get(*last).is_some_and(Value::is_object) {
        return Err(inconsistent(key));
    }
    place.insert((*last).to_owned(), Value::String(value));
    Ok(())
}

fn inconsistent(path: &str) -> Error {
    Error::invalid(format!("Parameters '{path}.*' used inconsistently"))
}

/// The parts of a name between dots: words, or numbers behind the first.
fn check_key(key: &str) -> Result<Vec<&str>> {
    let mut fragments = Vec::new();
    let mut rest = key;
    loop {
        let len = fragment_len(rest, fragments.is_empty());
        let (fragment, behind) = rest.split_at(len);
        if len == 0 || !(behind.is_empty() || behind.starts_with('.')) {
            return Err(Error::invalid(format!("Invalid parameter '{key}'")));
        }
        if len > MAX_FRAGMENT {
            let path = &key[..key.len() - behind.len()];
            let s = if behind.is_empty() { "" } else { "s" };
            let star = if behind.is_empty() { "" } else { ".*" };
            return Err(Error::invalid(format!("Parameter{s} '{path}{star}' is too long")));
        }
        fragments.push(fragment);
        match behind.strip_prefix('.') {
            Some(behind) => rest = behind,
            None => return Ok(fragments),
        }
    }
}

/// How far the part of a name at the start of `text` goes; 0 if there is none. Vendors' own names start with `__`, a
/// domain name and `_`.
fn fragment_len(text: &str, first: bool) -> usize {
    let run = |text: &str, more: &[char]| {
        text.find(|c: char| !(c.is_ascii_alphanumeric() || more.contains(&c))).unwrap_or(text.len())
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if digits > 0 {
        return if first { 0 } else { digits };
    }
    let mut at = 0;
    if let Some(domain) = text.strip_prefix("__") {
        at = 2 + run(domain, &['.', '-']);
        if !text[at..].starts_with('_') {
            return 0;
        }
        at += 1;
    }
    match text[at..].starts_with(|c: char| c.is_ascii_alphabetic()) {
        true => at + run(&text[at..], &['-', '_']),
        false => 0,
    }
}

/// Objects whose names are numbers are lists, which must start at 0, have no gaps and no other names.
fn check_lists(values: &Map<String, Value>, path: &str) -> Result<()> {
    for (key, value) in values {
        if let Value::Object(inner) = value {
            check_lists(inner, &format!("{path}{key}."))?;
        }
    }
    let is_number = |key: &String| key.starts_with(|c: char| c.is_ascii_digit());
    let numbers = values.keys().filter(|key| is_number(key)).count();
    let path = path.trim_end_matches('.');
    if numbers == 0 {
        return Ok(());
    }
    if numbers < values.len() {
        return Err(inconsistent(path));
    }
    match (0..numbers).find(|number| !values.contains_key(&number.to_string())) {
        Some(number) => Err(Error::invalid(format!("Parameter '{path}.{number}' missing"))),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "keyval_tests.rs"]
mod tests;
