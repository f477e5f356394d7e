//! Bits of a bitmap: the first in the least significant bit of the first byte. What lies behind the last byte is zero.

/// Sets the bits `first..=last`, as far as there are such bits.
pub fn set_range(bits: &mut [u8], first: u64, last: u64) {
    let end = (bits.len() as u64 * 8).min(last.saturating_add(1));
    let mut bit = first;
    while bit < end {
        let byte = (bit / 8) as usize;
        if bit.is_multiple_of(8) && end - bit >= 8 {
            let whole = ((end - bit) / 8) as usize;
            bits[byte..byte + whole].fill(0xff);
            bit += whole as u64 * 8;
        } else {
            bits[byte] |= 1 << (bit % 8);
            bit += 1;
        }
    }
}

/// The first run of set bits at or behind `from`: its first bit, and the bit behind its last one.
fn next_run(bits: &[u8], from: u64) -> Option<(u64, u64)> {
    let is_set = |bit: u64| bits[(bit / 8) as usize] & (1 << (bit % 8)) != 0;
    let end = bits.len() as u64 * 8;
    // Whole bytes of the same kind are passed over at once.
    let skip = |mut bit: u64, unwanted: u8| {
        while bit < end && is_set(bit) == (unwanted != 0) {
            let same = bits[(bit / 8) as usize] == unwanted;
            bit = if bit.is_multiple_of(8) && same { bit + 8 } else { bit + 1 };
        }
        bit
    };
    let first = skip(from, 0);
    (first < end).then(|| (first, skip(first, 0xff)))
}

/// Adds to `target`, one bit of which stands for `1 << target_order` bytes of a disk of `size` bytes, what is set in
/// `source`.
pub fn merge(target: &mut Vec<u8>, target_order: u32, source: &[u8], source_order: u32, size: u64) {
    // Callers have read or will write as many bits; they fit into memory.
    let len = size.div_ceil(1 << target_order).div_ceil(8) as usize;
    if target.len() < len {
        target.resize(len, 0);
    }
    if target_order == source_order {
        target.iter_mut().zip(source).for_each(|(to, from)| *to |= from);
        return;
    }
    let mut at = 0;
    while let Some((first, end)) = next_run(source, at) {
        let (start, stop) = (first << source_order, (end << source_order).min(size));
        if start >= stop {
            break;
        }
        set_range(target, start >> target_order, (stop - 1) >> target_order);
        at = end;
    }
}

#[cfg(test)]
#[path = "bits_tests.rs"]
mod tests;
