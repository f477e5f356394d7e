//! Rows of table entries: most entries of a large disk are those before them plus a cluster, or the same again. Telling
//! so is much less work than finding out what each of them means.

/// The upper bits of an entry, above those of an offset.
const FLAGS: u64 = 0xff << 56;
/// In an entry of the L1 or an L2 table: the refcount is exactly one.
const COPIED: u64 = 1 << 63;
/// How many entries are compared without a look at the result in between.
const BLOCK: usize = 8;

/// Looks at the big-endian words that lie `stride` (8 or 16) bytes apart, the first of them at the start of `bytes`: how many,
/// from that one on, are `step` more than the one before. One that would be more than an offset can be ends the row.
pub fn row(bytes: &[u8], stride: usize, step: u64) -> usize {
    if stride == 8 { row_of::<8>(bytes, step) } else { row_of::<16>(bytes, step) }
}

fn row_of<const STRIDE: usize>(bytes: &[u8], step: u64) -> usize {
    if bytes.len() < 8 {
        return 0;
    }
    let first = word(bytes);
    let fit = (bytes.len() - 8) / STRIDE + 1;
    let most = (!FLAGS - (first & !FLAGS)).checked_div(step).map_or(fit, |steps| fit.min(steps as usize + 1));
    let mut count = 0;
    while count + BLOCK <= most {
        let expected = first + count as u64 * step;
        let block = &bytes[count * STRIDE..][..(BLOCK - 1) * STRIDE + 8];
        let differs = |at: usize| word(&block[at * STRIDE..]) ^ (expected + at as u64 * step);
        if (0..BLOCK).fold(0, |bits, at| bits | differs(at)) != 0 {
            break;
        }
        count += BLOCK;
    }
    while count < most && word(&bytes[count * STRIDE..]) == first + count as u64 * step {
        count += 1;
    }
    count
}

/// Sets or clears, in entries of `stride` bytes, the flag that says that a refcount is exactly one. Returns whether one of
/// them was different.
pub fn set_copied(entries: &mut [u8], stride: usize, copied: bool) -> bool {
    if stride == 8 { set_copied_of::<1>(entries, copied) } else { set_copied_of::<2>(entries, copied) }
}

fn set_copied_of<const WORDS: usize>(entries: &mut [u8], copied: bool) -> bool {
    // In the order of bytes on disk: nothing else of the entries is looked at.
    let mask = COPIED.to_be();
    let flag = if copied { mask } else { 0 };
    let mut differ = 0;
    for entry in entries.as_chunks_mut::<8>().0.chunks_exact_mut(WORDS) {
        let word = u64::from_ne_bytes(entry[0]);
        differ |= (word & mask) ^ flag;
        entry[0] = ((word & !mask) | flag).to_ne_bytes();
    }
    differ != 0
}

/// The first word of an entry.
pub fn word(entry: &[u8]) -> u64 {
    u64::from_be_bytes(entry[..8].try_into().expect("eight bytes"))
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
