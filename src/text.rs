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

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
