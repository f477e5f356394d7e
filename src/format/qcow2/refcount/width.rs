//! Refcounts of 1 to 64 bits inside a refcount block: reading, writing, and whole ranges at once.
//!
//! Specification: "Host cluster management". Widths below 8 bits fill a byte from its least significant bits up; wider
//! ones are big endian.

use std::ops::Range;

/// The value at `index` of a block whose refcounts are `1 << order` bits wide.
pub(in crate::format::qcow2) fn get(block: &[u8], order: u32, index: usize) -> u64 {
    match order {
        0..=2 => {
            let bits = 1usize << order;
            let per_byte = 8 / bits;
            let shift = (index % per_byte) * bits;
            u64::from(block[index / per_byte] >> shift) & ((1 << bits) - 1)
        }
        3 => u64::from(block[index]),
        4 => u64::from(u16::from_be_bytes(block[index * 2..index * 2 + 2].try_into().expect("2 bytes"))),
        5 => u64::from(u32::from_be_bytes(block[index * 4..index * 4 + 4].try_into().expect("4 bytes"))),
        _ => u64::from_be_bytes(block[index * 8..index * 8 + 8].try_into().expect("8 bytes")),
    }
}

/// Sets the value at `index`; the caller has checked that it fits the width.
pub(in crate::format::qcow2) fn set(block: &mut [u8], order: u32, index: usize, value: u64) {
    match order {
        0..=2 => {
            let bits = 1usize << order;
            let per_byte = 8 / bits;
            let shift = (index % per_byte) * bits;
            let mask = ((1u16 << bits) - 1) as u8;
            let byte = &mut block[index / per_byte];
            *byte = *byte & !(mask << shift) | ((value as u8) & mask) << shift;
        }
        3 => block[index] = value as u8,
        4 => block[index * 2..index * 2 + 2].copy_from_slice(&(value as u16).to_be_bytes()),
        5 => block[index * 4..index * 4 + 4].copy_from_slice(&(value as u32).to_be_bytes()),
        _ => block[index * 8..index * 8 + 8].copy_from_slice(&value.to_be_bytes()),
    }
}

/// Adds `delta` to every value in `range`. Where one would leave `0..=max` nothing is changed and its index is returned.
pub(super) fn add(block: &mut [u8], order: u32, range: Range<usize>, delta: i64, max: u64) -> Result<(), usize> {
    if order == 4 {
        return add_16(block, range, delta);
    }
    for index in range.clone() {
        get(block, order, index).checked_add_signed(delta).filter(|value| *value <= max).ok_or(index)?;
    }
    for index in range {
        let value = get(block, order, index).wrapping_add_signed(delta);
        set(block, order, index, value);
    }
    Ok(())
}

/// The usual width, in loops the compiler vectorises: snapshots of big disks touch every refcount.
fn add_16(block: &mut [u8], range: Range<usize>, delta: i64) -> Result<(), usize> {
    let bytes = &mut block[range.start * 2..range.end * 2];
    let value = |pair: &[u8]| u16::from_be_bytes([pair[0], pair[1]]);
    let fits = |pair: &[u8]| i64::from(value(pair)).checked_add(delta).is_some_and(|sum| (0..=0xffff).contains(&sum));
    if let Some(at) = bytes.chunks_exact(2).position(|pair| !fits(pair)) {
        return Err(range.start + at);
    }
    // Two's complement makes this right for negative deltas too, as nothing over- or underflows.
    let delta = delta as u16;
    for pair in bytes.chunks_exact_mut(2) {
        pair.copy_from_slice(&value(pair).wrapping_add(delta).to_be_bytes());
    }
    Ok(())
}

/// The first index in `range` whose value is zero (`used == false`) or not zero (`used == true`).
pub(super) fn find(block: &[u8], order: u32, range: Range<usize>, used: bool) -> Option<usize> {
    if order == 4 {
        let bytes = &block[range.start * 2..range.end * 2];
        return bytes.chunks_exact(2).position(|pair| (pair != [0, 0]) == used).map(|at| range.start + at);
    }
    range.into_iter().find(|&index| (get(block, order, index) != 0) == used)
}

/// How many values from the start of `range` on equal the first one.
pub(super) fn equal_run(block: &[u8], order: u32, range: Range<usize>) -> usize {
    if order == 4 {
        let mut pairs = block[range.start * 2..range.end * 2].chunks_exact(2);
        let first = pairs.clone().next();
        return pairs.position(|pair| Some(pair) != first).unwrap_or(range.len());
    }
    let first = get(block, order, range.start);
    range.clone().take_while(|&index| get(block, order, index) == first).count()
}
