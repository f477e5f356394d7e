//! Finding zeros and differences.
//!
//! Measured: a fold that ORs a few hundred bytes at a time and stops at the first that are not zero runs at the speed of
//! memory, as the compiler turns it into vector instructions; comparing byte by byte is ten times slower.

use crate::image::{Edit, EditKind};

/// Bytes that are folded before looking at the result.
const FOLD: usize = 256;

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let mut blocks = bytes.chunks_exact(FOLD);
    blocks.all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && blocks.remainder().iter().fold(0, |all, byte| all | byte) == 0
}

/// Whether two pieces of the same length are equal. The C library's comparison, which `==` calls, goes byte by byte in
/// musl.
pub fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let differs = |one: &[u8], other: &[u8]| one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) != 0;
    let (blocks, others) = (one.chunks_exact(FOLD), other.chunks_exact(FOLD));
    one.len() == other.len()
        && !differs(blocks.remainder(), others.remainder())
        && !blocks.zip(others).any(|(one, other)| differs(one, other))
}

/// What counts as a zero run worth leaving out (`-S`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SparseRule {
    /// Zeros are looked for in units of this many bytes, a power of two, at guest offsets that are multiples of it.
    pub unit: u64,
    /// A zero run between data that is shorter than this is written like data.
    pub min: u64,
}

impl SparseRule {
    /// The rule of `-S min_sparse` (bytes, not zero) onto a target that takes requests aligned to `alignment`, a power of
    /// two.
    pub fn new(min_sparse: u64, alignment: u64) -> Self {
        let floor = 1 << (63 - min_sparse.max(1).leading_zeros());
        SparseRule { unit: alignment.max(floor), min: min_sparse }
    }

    /// Splits the bytes at `guest` into data and zeros and adds them to `edits`, the zeros as `zero`. Parts of a unit at
    /// either end are units of their own.
    pub fn split(self, guest: u64, bytes: &[u8], zero: EditKind, edits: &mut Vec<Edit>) {
        let end = guest + bytes.len() as u64;
        let first = edits.len();
        let mut at = guest;
        while at < end {
            let border = (at - at % self.unit + self.unit).min(end);
            let unit = &bytes[(at - guest) as usize..(border - guest) as usize];
            let kind = if is_zero(unit) { zero } else { EditKind::Data };
            self.push(edits, first, Edit { guest: at, len: border - at, kind });
            at = border;
        }
    }

    /// Adds a unit to the edits from `first` on. A short zero run becomes data when data follows on both sides.
    fn push(self, edits: &mut Vec<Edit>, first: usize, edit: Edit) {
        if let Some(last) = edits[first..].last_mut()
            && last.kind == edit.kind
        {
            last.len += edit.len;
            return;
        }
        if edit.kind == EditKind::Data && edits.len() - first >= 2 && edits[edits.len() - 1].len < self.min {
            let run = edits.pop().map_or(0, |run| run.len);
            if let Some(last) = edits.last_mut() {
                last.len += run + edit.len;
            }
            return;
        }
        edits.push(edit);
    }
}

/// Splits the bytes at `guest` into what `other` has, too ([`EditKind::Keep`]), zeros (as `zero`) and other data, in units
/// of `unit` bytes at guest offsets that are multiples of it, and adds them to `edits`.
pub fn split_differences(guest: u64, bytes: &[u8], other: &[u8], unit: u64, zero: EditKind, edits: &mut Vec<Edit>) {
    let end = guest + bytes.len() as u64;
    let first = edits.len();
    let mut at = guest;
    while at < end {
        let border = (at - at % unit + unit).min(end);
        let range = (at - guest) as usize..(border - guest) as usize;
        let (old, new) = (&bytes[range.clone()], &other[range]);
        let kind = if is_equal(old, new) {
            EditKind::Keep
        } else if is_zero(old) {
            zero
        } else {
            EditKind::Data
        };
        match edits[first..].last_mut() {
            Some(last) if last.kind == kind => last.len += border - at,
            _ => edits.push(Edit { guest: at, len: border - at, kind }),
        }
        at = border;
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
