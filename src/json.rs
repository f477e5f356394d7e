//! Printing JSON exactly as the reference does: 4 spaces, nothing but ASCII, keys in the order of its hash table.

use serde_json::Value;

use crate::image::in_reference_order;
use crate::text;

/// A value over several lines, as `--output=json` prints it; without a newline at the end.
pub fn pretty(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, &in_reference_order(value.clone()), Some(0));
    out
}

/// A value on one line, as it is put into `json:{...}` file names.
pub fn one_line(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, &in_reference_order(value.clone()), None);
    out
}

/// Writes a value; `level` is how deep its lines are indented, `None` if there shall be no lines.
fn write(out: &mut String, value: &Value, level: Option<usize>) {
    match value {
        Value::Object(object) => {
            let pair = |out: &mut String, (key, value): (&String, &Value), level| {
                quote(out, key);
                out.push_str(": ");
                write(out, value, level);
            };
            list(out, ['{', '}'], object.iter(), level, pair);
        }
        Value::Array(values) => list(out, ['[', ']'], values.iter(), level, write),
        Value::String(text) => quote(out, text),
        simple => out.push_str(&simple.to_string()),
    }
}

fn list<T>(
    out: &mut String,
    [open, close]: [char; 2],
    values: impl Iterator<Item = T>,
    level: Option<usize>,
    write: impl Fn(&mut String, T, Option<usize>),
) {
    let line = |out: &mut String, level: Option<usize>| {
        if let Some(level) = level {
            out.push('\n');
            out.extend(std::iter::repeat_n("    ", level));
        }
    };
    let inner = level.map(|level| level + 1);
    out.push(open);
    for (at, value) in values.enumerate() {
        if at > 0 {
            out.push_str(if level.is_some() { "," } else { ", " });
        }
        line(out, inner);
        write(out, value, inner);
    }
    line(out, level);
    out.push(close);
}

/// A string in quotes. What is not ASCII is escaped; bytes that are not UTF-8 become U+FFFD.
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            c if text::is_carried(c) => out.push_str("\\uFFFD"),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04X}"));
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
