//! Finding out the format of an image from its first bytes.

use crate::format::{FORMATS, Format};

/// The format that claims these first bytes most surely; raw if none does.
pub fn probe(head: &[u8]) -> &'static Format {
    let mut best = FORMATS[FORMATS.len() - 1];
    let mut score = 0;
    for format in FORMATS {
        let claim = (format.probe)(head);
        if claim > score {
            (best, score) = (format, claim);
        }
    }
    best
}
