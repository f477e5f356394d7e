//! Names that are bytes, carried in strings.
//!
//! File names, backing file names and snapshot names are bytes that need not be UTF-8, while the rest of the program
//! works on `str`. So a byte that is not part of valid UTF-8 travels as a character of its own, in a private-use range
//! (U+10FF80 to U+10FFFF stands for bytes 0x80 to 0xFF), and becomes that byte again where the string leaves the
//! program: as a path, or as printed text. A genuine character of that range is carried as its four bytes, which makes
//! the mapping one to one.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The character that stands for byte 0 of the scheme; only bytes from 0x80 are ever carried this way.
const CARRIER: u32 = 0x10_FF00;

/// The first byte of every such character in UTF-8. Texts without it, which nearly all are, are their own bytes.
const CARRIER_START: u8 = 0xF4;

fn carry(byte: u8) -> char {
    // Byte 0xFF gives U+10FFFF, the last character there is.
    char::from_u32(CARRIER + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character carries, if it is one of ours.
fn carried(c: char) -> Option<u8> {
    u8::try_from(u32::from(c).checked_sub(CARRIER)?).ok().filter(|byte| *byte >= 0x80)
}

/// Bytes as a string; [`to_bytes`] gives back exactly these bytes.
pub fn from_bytes(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !bytes.contains(&CARRIER_START)
    {
        return text.to_owned();
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if carried(c).is_some() {
                let mut buf = [0; 4];
                text.extend(c.encode_utf8(&mut buf).bytes().map(carry));
            } else {
                text.push(c);
            }
        }
        text.extend(chunk.invalid().iter().copied().map(carry));
    }
    text
}

/// The reverse of [`from_bytes`].
pub fn to_bytes(text: &str) -> Vec<u8> {
    if !text.as_bytes().contains(&CARRIER_START) {
        return text.as_bytes().to_vec();
    }
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match carried(c) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// An argument or path as a string.
pub fn from_os(text: &OsStr) -> String {
    from_bytes(text.as_bytes())
}

/// A string as a path.
pub fn to_os(text: &str) -> OsString {
    OsString::from_vec(to_bytes(text))
}

/// Whether a character stands for a byte that is not valid UTF-8.
pub fn is_carried(c: char) -> bool {
    carried(c).is_some()
}

/// The code points of a text as the reference's JSON printer sees them; `None` stands for a sequence of bytes that is not
/// one. A sequence cut short is one mistake, not one for each byte; surrogates and noncharacters are mistakes; `C0 80` is
/// a zero.
pub fn json_code_points(text: &str) -> Vec<Option<u32>> {
    let bytes = to_bytes(text);
    let mut points = Vec::with_capacity(bytes.len());
    let mut rest = bytes.as_slice();
    while let [first, behind @ ..] = rest {
        let (point, used) = code_point(*first, behind);
        points.push(point);
        rest = &behind[used..];
    }
    points
}

/// The code point that starts with `first`, and how many of the bytes behind it belong to it.
fn code_point(first: u8, behind: &[u8]) -> (Option<u32>, usize) {
    let (bits, more, least) = match first {
        0..=0x7f => return (Some(first.into()), 0),
        0xc0..=0xdf => (first & 0x1f, 1, 0x80),
        0xe0..=0xef => (first & 0x0f, 2, 0x800),
        0xf0..=0xf7 => (first & 0x07, 3, 0x1_0000),
        0xf8..=0xfb => (first & 0x03, 4, 0x20_0000),
        0xfc..=0xfd => (first & 0x01, 5, 0x400_0000),
        _ => return (None, 0),
    };
    let used = behind.iter().take(more).take_while(|byte| **byte & 0xc0 == 0x80).count();
    if used < more {
        return (None, used);
    }
    let point = behind[..more].iter().fold(u32::from(bits), |point, byte| point << 6 | u32::from(byte & 0x3f));
    let zero = (first, behind[0]) == (0xc0, 0x80);
    let wrong = (point < least && !zero)
        || char::from_u32(point).is_none()
        || (0xfdd0..=0xfdef).contains(&point)
        || point & 0xfffe == 0xfffe;
    ((!wrong).then_some(point), more)
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
