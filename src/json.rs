//! Printing JSON exactly as the reference does: 4 spaces, nothing but ASCII, keys in the order of its hash table.

use serde_json::{Number, Value};

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
        Value::Number(number) => out.push_str(&number_text(number)),
        Value::Bool(_) | Value::Null => out.push_str(&value.to_string()),
    }
}

/// A number as text; one with a fraction as C's `%.17g` writes it.
pub fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => float_text(float),
        _ => number.to_string(),
    }
}

fn float_text(float: f64) -> String {
    let scientific = format!("{float:.16e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let Ok(power) = exponent.parse::<i32>() else { return scientific };
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..17).contains(&power) {
        let decimals = (16 - power) as usize; // not negative: the power is at most 16
        trim(&format!("{float:.decimals$}"))
    } else {
        let sign = if power < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(digits), power.abs())
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

/// A string in quotes. What is not ASCII is escaped; what is not UTF-8 becomes U+FFFD.
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for point in text::json_code_points(text) {
        let c = point.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
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
