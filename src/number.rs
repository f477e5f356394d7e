//! Numbers and sizes as people write them: on the command line, in option strings, in `json:` names.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

use crate::error::{Error, Result};

/// Why a number was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberError {
    /// It is not a number (or has a fraction where there can be none).
    Invalid,
    /// It is negative, or does not fit into 64 bits.
    Range,
}

/// A number of bytes: decimal with an optional fraction and suffix (`b k K M G T P E`, in either case, in powers of
/// 1024), or hexadecimal without either.
///
/// A fraction needs a suffix that makes it at least one byte wide and is rounded to whole bytes in the same arithmetic
/// as the reference's, so that both create images of the same size.
pub fn parse_size(text: &str) -> Result<u64, NumberError> {
    let (negative, text) = sign(text);
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return match parse_digits(digits, 16) {
            Ok(value) if !negative => Ok(value),
            Err(NumberError::Range) if !negative => Err(NumberError::Range),
            _ => Err(NumberError::Invalid),
        };
    }
    let (integer, rest) = split_digits(text);
    // Without digits in front of the point this is zero, which there has to be a fraction for.
    let whole = if integer.is_empty() { Ok(0) } else { parse_digits(integer, 10) };
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) if integer.is_empty() || (whole.is_ok() && !negative) => split_digits(rest),
        _ => ("", rest),
    };
    if integer.is_empty() && fraction.is_empty() {
        return Err(NumberError::Invalid);
    }
    let (false, Ok(whole)) = (negative, whole) else {
        return Err(if rest.is_empty() { NumberError::Range } else { NumberError::Invalid });
    };
    let mut suffix = rest.chars();
    let factor = suffix_factor(suffix.next()).ok_or(NumberError::Invalid)?;
    let fraction: f64 = format!("0.{fraction}0").parse().map_err(|_| NumberError::Invalid)?;
    if suffix.next().is_some() || (factor == 1 && fraction != 0.0) {
        return Err(NumberError::Invalid);
    }
    // The fraction is below 1 (or rounded to 1), so this is at most 2^60.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "neither negative nor above 2^60")]
    let bytes = (fraction * factor as f64 + 0.5) as u64;
    whole.checked_mul(factor).and_then(|value| value.checked_add(bytes)).ok_or(NumberError::Range)
}

fn suffix_factor(suffix: Option<char>) -> Option<u64> {
    let Some(suffix) = suffix else { return Some(1) };
    let exponent = ['b', 'k', 'm', 'g', 't', 'p', 'e'].iter().position(|c| *c == suffix.to_ascii_lowercase())?;
    1024_u64.checked_pow(u32::try_from(exponent).ok()?)
}

/// A plain number as C's `strtoull` reads it: decimal, octal behind `0`, hexadecimal behind `0x`; a minus sign wraps
/// around.
pub fn parse_number(text: &str) -> Result<u64, NumberError> {
    let (negative, text) = sign(text);
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    let value = parse_digits(digits, radix)?;
    Ok(if negative { value.wrapping_neg() } else { value })
}

/// Takes off leading white space and a sign; the flag says whether it was a minus.
fn sign(text: &str) -> (bool, &str) {
    let text = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// Nothing but digits, at least one.
fn parse_digits(text: &str, radix: u32) -> Result<u64, NumberError> {
    if text.is_empty() || !text.chars().all(|c| c.is_digit(radix)) {
        return Err(NumberError::Invalid);
    }
    u64::from_str_radix(text, radix).map_err(|_| NumberError::Range)
}

/// The largest size an argument can give: sizes and offsets are signed in the reference and in the system.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// A size as the value of an option or an operand; `what` is what the reference calls it: "image size", "rate limit",
/// "buffer size for sparse output".
pub fn size_argument(what: &str, text: &str) -> Result<u64> {
    in_range(what, text, parse_size(text), 0, MAX_SIZE)
}

/// As [`size_argument`], within limits.
pub fn size_argument_in(what: &str, text: &str, min: u64, max: u64) -> Result<u64> {
    in_range(what, text, parse_size(text), min, max)
}

/// A plain number as the value of an option; `what` is what the reference calls it ("number of coroutines").
pub fn number_argument(what: &str, text: &str, min: u64, max: u64) -> Result<u64> {
    in_range(what, text, parse_number(text), min, max)
}

fn in_range(what: &str, text: &str, value: Result<u64, NumberError>, min: u64, max: u64) -> Result<u64> {
    match value {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        Err(NumberError::Invalid) => Err(Error::invalid(format!("Invalid {what} specified: '{text}'."))),
        _ => Err(Error::invalid(format!("Invalid {what} specified. Must be between {min} and {max}."))),
    }
}

#[cfg(test)]
#[path = "number_tests.rs"]
mod tests;
