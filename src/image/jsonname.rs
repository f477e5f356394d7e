//! Reading the text behind `json:` in a file name.
//!
//! The language is JSON with strings in single quotes allowed, too. The parser is our own because its messages are the
//! reference's, and because names come from untrusted images: nesting is limited to what neither exhausts the stack
//! nor takes much memory.

#![deny(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
// No number that the text gives is calculated with: the only sums are of positions in a text in memory.

use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};
use crate::text;

/// How deep arrays and objects may nest. (The reference allows 1024; no tree of nodes that can be opened comes near.)
const MAX_DEPTH: usize = 128;

/// What may stand between tokens.
const BLANK: [char; 4] = [' ', '\t', '\n', '\r'];

/// Reads the text of one JSON value.
pub fn parse(text: &str) -> Result<Value> {
    // Bytes that are not UTF-8 are invalid in JSON, and so are the characters that carry them.
    let mut parser = Parser { text, at: 0 };
    let Some(first) = parser.token()? else { return Err(Error::invalid("Expecting a JSON value")) };
    let value = parser.value(first, 0)?;
    match parser.rest().trim_start_matches(BLANK) {
        "" => Ok(value),
        _ => Err(Error::invalid("Expecting at most one JSON value")),
    }
}

enum Token {
    Punctuation(char),
    Value(Value),
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

fn error(text: &str) -> Error {
    Error::invalid(format!("JSON parse error, {text}"))
}

fn too_early() -> Error {
    error("premature EOI")
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn token(&mut self) -> Result<Option<Token>> {
        let trimmed = self.rest().trim_start_matches(BLANK);
        self.at = self.text.len() - trimmed.len();
        let Some(first) = trimmed.chars().next() else { return Ok(None) };
        match first {
            '{' | '}' | '[' | ']' | ',' | ':' => {
                self.at += 1;
                Ok(Some(Token::Punctuation(first)))
            }
            '"' | '\'' => self.string(first).map(|text| Some(Token::Value(Value::String(text)))),
            'a'..='z' => self.keyword().map(|value| Some(Token::Value(value))),
            '-' | '0'..='9' => self.number().map(|value| Some(Token::Value(value))),
            _ => Err(stray(&trimmed[..first.len_utf8()])),
        }
    }

    /// As [`Parser::token`], where there must be one.
    fn expect(&mut self) -> Result<Token> {
        self.token()?.ok_or_else(too_early)
    }

    fn keyword(&mut self) -> Result<Value> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
        self.at += end;
        match &rest[..end] {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            "null" => Ok(Value::Null),
            other => Err(error(&format!("invalid keyword '{}'", cut(other)))),
        }
    }

    fn number(&mut self) -> Result<Value> {
        let rest = self.rest();
        let len = number_len(rest)?;
        self.at += len;
        let digits = &rest[..len];
        let integer = !digits.contains(['.', 'e', 'E']);
        if integer && let Ok(number) = digits.parse::<i64>() {
            return Ok(number.into());
        }
        if integer && let Ok(number) = digits.parse::<u64>() {
            return Ok(number.into());
        }
        let float = digits.parse::<f64>().ok().and_then(Number::from_f64);
        Ok(float.map_or(Value::Null, Value::Number))
    }

    fn string(&mut self, quote: char) -> Result<String> {
        let rest = self.rest();
        let mut out = String::new();
        let mut chars = rest[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.at += 1 + at + 1;
                    return Ok(out);
                }
                '\0'..='\x1f' => return Err(stray(&rest[..1 + at + 1])),
                _ if text::is_carried(c) => return Err(stray(&rest[..1 + at + c.len_utf8()])),
                '\\' => {
                    let escaped = &rest[1 + at + 1..];
                    let (c, len) = escape(escaped)?;
                    match c {
                        // No name can hold a zero byte; the reference makes two bytes of it that are not UTF-8.
                        '\0' => out.push_str(&text::from_bytes(&[0xc0, 0x80])),
                        c => out.push(c),
                    }
                    // The rest of the escape sequence is ASCII.
                    for _ in 0..len {
                        chars.next();
                    }
                }
                _ => out.push(c),
            }
        }
        Err(stray(rest))
    }

    fn value(&mut self, first: Token, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            return Err(Error::invalid("JSON nesting depth limit exceeded"));
        }
        match first {
            Token::Value(value) => Ok(value),
            Token::Punctuation('{') => self.object(depth),
            Token::Punctuation('[') => self.array(depth),
            Token::Punctuation(_) => Err(error("expecting value")),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value> {
        let mut values = Vec::new();
        let mut token = self.expect()?;
        if matches!(token, Token::Punctuation(']')) {
            return Ok(Value::Array(values));
        }
        loop {
            values.push(self.value(token, depth + 1)?);
            match self.expect()? {
                Token::Punctuation(']') => return Ok(Value::Array(values)),
                Token::Punctuation(',') => token = self.expect()?,
                _ => return Err(error("expected separator in list")),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value> {
        let mut object = Map::new();
        let mut token = self.expect()?;
        if matches!(token, Token::Punctuation('}')) {
            return Ok(Value::Object(object));
        }
        loop {
            let Value::String(key) = self.value(token, depth + 1)? else {
                return Err(error("key is not a string in object"));
            };
            if !matches!(self.expect()?, Token::Punctuation(':')) {
                return Err(error("missing : in object pair"));
            }
            let first = self.expect()?;
            let value = self.value(first, depth + 1)?;
            if object.contains_key(&key) {
                return Err(error("duplicate key"));
            }
            object.insert(key, value);
            match self.expect()? {
                Token::Punctuation('}') => return Ok(Value::Object(object)),
                Token::Punctuation(',') => token = self.expect()?,
                _ => return Err(error("expected separator in dict")),
            }
        }
    }
}

/// Text that begins like a token and is none.
fn stray(text: &str) -> Error {
    error(&format!("stray '{}'", cut(text)))
}

/// The beginning of a text, so that messages do not repeat a name of gigantic length.
fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

/// The character that an escape sequence (behind its backslash) stands for, and the sequence's length.
fn escape(rest: &str) -> Result<(char, usize)> {
    let simple = match rest.bytes().next() {
        Some(c @ (b'"' | b'\'' | b'\\' | b'/')) => char::from(c),
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode_escape(rest),
        Some(_) => return Err(error("invalid escape sequence in string")),
        None => return Err(stray("\\")),
    };
    Ok((simple, 1))
}

/// `u` and four digits; a pair of such sequences for characters beyond the first 65536.
fn unicode_escape(rest: &str) -> Result<(char, usize)> {
    let bad = || {
        let shown: String = rest.chars().take(5).collect();
        error(&format!("\\{shown} is not a valid Unicode character"))
    };
    let unit = |text: Option<&str>| match text {
        Some(digits) if digits.bytes().all(|c| c.is_ascii_hexdigit()) => u32::from_str_radix(digits, 16).ok(),
        _ => None,
    };
    let first = unit(rest.get(1..5)).ok_or_else(bad)?;
    if (0xd800..0xdc00).contains(&first) {
        let second = match rest.get(5..7) {
            Some("\\u") => unit(rest.get(7..11)),
            _ => None,
        };
        let second = second.filter(|unit| (0xdc00..0xe000).contains(unit)).ok_or_else(bad)?;
        let c = char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or_else(bad)?;
        return Ok((c, 11));
    }
    Ok((char::from_u32(first).ok_or_else(bad)?, 5))
}

/// The length of the number that a text starts with.
fn number_len(text: &str) -> Result<usize> {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|c| c.is_ascii_digit()).count();
    let bad = |at: usize| {
        let end = text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
        stray(&text[..end])
    };
    let mut at = usize::from(bytes[0] == b'-');
    match digits(at) {
        0 => return Err(bad(at)),
        count if count > 1 && bytes[at] == b'0' => return Err(bad(at + 1)),
        count => at += count,
    }
    if bytes.get(at) == Some(&b'.') {
        match digits(at + 1) {
            0 => return Err(bad(at + 1)),
            count => at += 1 + count,
        }
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        match digits(at) {
            0 => return Err(bad(at)),
            count => at += count,
        }
    }
    Ok(at)
}

#[cfg(test)]
#[path = "jsonname_tests.rs"]
mod tests;
