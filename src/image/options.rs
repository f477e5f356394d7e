//! Run-time options while an image is being opened: flat, with dots for nested nodes.

use serde_json::Value;

use super::keyorder::ordered_keys;
use super::spec::Options;
use crate::error::{Error, Result};
use crate::json::number_text;
use crate::number::{NumberError, parse_number, parse_size};

/// The options of a node and of the nodes below it. Values are strings, numbers, booleans, nulls, or empty arrays and
/// objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeOptions(Options);

impl NodeOptions {
    /// Flattens nested objects and arrays. Where a name is given both nested and with dots, nested wins.
    pub fn new(options: Options) -> Self {
        let mut flat = Options::new();
        let (nested, plain): (Vec<_>, Vec<_>) = options.into_iter().partition(|(_, value)| children(value) > 0);
        flat.extend(plain);
        for (key, value) in nested {
            flatten(&mut flat, &key, value);
        }
        NodeOptions(flat)
    }

    /// Options that are flat already.
    pub fn from_pairs<const N: usize>(pairs: [(&str, Value); N]) -> Self {
        NodeOptions(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// Adds options that have not been given yet.
    pub fn add_defaults(&mut self, other: NodeOptions) {
        for (key, value) in other.0 {
            self.0.entry(key).or_insert(value);
        }
    }

    /// Sets an option.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// Whether there are no options.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an option is there.
    pub fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Whether anything is said about the child `name`.
    pub fn has_child(&self, name: &str) -> bool {
        let prefix = format!("{name}.");
        self.string(name).is_some() || self.0.keys().any(|key| key.starts_with(&prefix))
    }

    /// The value of an option.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// The value of an option if it is a string.
    pub fn string(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str)
    }

    /// Takes an option out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.0.shift_remove(key)
    }

    /// Takes out all options of the child `name`, that is those that start with the name and a dot, without it.
    pub fn take_child(&mut self, name: &str) -> NodeOptions {
        let prefix = format!("{name}.");
        let (mine, rest): (Options, Options) =
            std::mem::take(&mut self.0).into_iter().partition(|(key, _)| key.starts_with(&prefix));
        self.0 = rest;
        NodeOptions(mine.into_iter().map(|(key, value)| (key[prefix.len()..].to_owned(), value)).collect())
    }

    /// The name of the option that the reference meets first.
    pub fn first(&self) -> Option<&str> {
        ordered_keys(&self.0).first().copied()
    }

    /// The options, nested again, for formats.
    pub fn into_map(self) -> Options {
        self.0
    }

    /// All options as they are.
    pub fn map(&self) -> &Options {
        &self.0
    }

    /// An option as text, in the form that all simple values have: numbers in decimal, `on` and `off`.
    fn text(&self, key: &str) -> Option<String> {
        match self.0.get(key)? {
            Value::String(text) => Some(text.clone()),
            Value::Bool(on) => Some(if *on { "on" } else { "off" }.to_owned()),
            Value::Number(number) => Some(number_text(number)),
            // The reference takes no notice of these here.
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// Takes out a string.
    pub fn take_text(&mut self, key: &str) -> Option<String> {
        let text = self.text(key);
        self.remove(key);
        text
    }

    /// Takes out an `on` or `off`.
    pub fn take_bool(&mut self, key: &str) -> Result<Option<bool>> {
        let Some(text) = self.take_text(key) else { return Ok(None) };
        parse_bool(&text).map(Some).ok_or_else(|| Error::invalid(format!("Parameter '{key}' expects 'on' or 'off'")))
    }

    /// Takes out a size.
    pub fn take_size(&mut self, key: &str) -> Result<Option<u64>> {
        let Some(text) = self.take_text(key) else { return Ok(None) };
        parse_size(&text).map(Some).map_err(|error| match error {
            NumberError::Range => out_of_range(key, &text),
            NumberError::Invalid => {
                Error::invalid(format!("Parameter '{key}' expects a non-negative number below 2^64"))
                    .hint("Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-")
                    .hint("and exabytes, respectively.")
            }
        })
    }

    /// Takes out a plain number.
    pub fn take_number(&mut self, key: &str) -> Result<Option<u64>> {
        let Some(text) = self.take_text(key) else { return Ok(None) };
        parse_number(&text).map(Some).map_err(|error| match error {
            NumberError::Range => out_of_range(key, &text),
            NumberError::Invalid => Error::invalid(format!("Parameter '{key}' expects a number")),
        })
    }
}

fn out_of_range(key: &str, text: &str) -> Error {
    Error::invalid(format!("Value '{text}' is out of range for parameter '{key}'"))
}

/// The value of a switch.
pub fn as_bool(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(on) => Some(*on),
        Value::String(text) => parse_bool(text),
        _ => None,
    }
}

/// `on` and `off` and their other spellings.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

/// How many values a value holds; simple ones hold none.
fn children(value: &Value) -> usize {
    match value {
        Value::Object(object) => object.len(),
        Value::Array(values) => values.len(),
        _ => 0,
    }
}

fn flatten(flat: &mut Options, key: &str, value: Value) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (name, value) in object {
                flatten(flat, &format!("{key}.{name}"), value);
            }
        }
        Value::Array(values) if !values.is_empty() => {
            for (at, value) in values.into_iter().enumerate() {
                flatten(flat, &format!("{key}.{at}"), value);
            }
        }
        simple => {
            flat.insert(key.to_owned(), simple);
        }
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
