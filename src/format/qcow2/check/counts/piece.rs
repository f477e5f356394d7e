//! The counts of some thousand neighbouring clusters, packed.

use std::ops::Range;

/// Clusters in a piece.
pub(in super::super) const PIECE: u64 = 4096;
/// How many counts of a piece may be kept beside the others.
const ODD_MAX: usize = 16;
/// Bits in a word.
const WORD: usize = u64::BITS as usize;

/// Counts that fit into a byte each, stored as what they are above the lowest, in 1, 2, 4 or 8 bits. A few may be out of the
/// range of the others: where all clusters are used by two snapshots, but for a table that was given back.
#[derive(Debug)]
pub(super) struct Piece {
    low: u8,
    /// Bits per cluster.
    bits: usize,
    words: Box<[u64]>,
    /// Places and counts of those that do not fit into the bits, which are 0 there.
    odd: Vec<(u16, u8)>,
}

impl Piece {
    /// Nothing is used.
    pub fn new() -> Self {
        Piece { low: 0, bits: 1, words: words(1), odd: Vec::new() }
    }

    /// The count of the cluster at `at`.
    pub fn get(&self, at: usize) -> u8 {
        match self.odd.iter().find(|(place, _)| usize::from(*place) == at) {
            Some((_, count)) => *count,
            None => self.packed(at),
        }
    }

    /// Sets the count of the cluster at `at`.
    pub fn set(&mut self, at: usize, count: u8) {
        self.odd.retain(|(place, _)| usize::from(*place) != at);
        match count.checked_sub(self.low).map(u64::from) {
            Some(above) if above <= self.mask() => self.put(at, above),
            _ if self.odd.len() < ODD_MAX => {
                self.put(at, 0);
                self.odd.push((at as u16, count));
            }
            _ => self.pack_anew(at, count),
        }
    }

    /// Adds one to each of these counts, if all of them are below `limit`. Says whether that was done.
    pub fn add_all(&mut self, range: Range<usize>, limit: u8) -> bool {
        if self.bits == 1 && !self.all_low(range.clone()) {
            self.raise_low();
        }
        if self.bits == 1 && self.low < limit && self.all_low(range.clone()) {
            parts(range).for_each(|(word, mask)| self.words[word] |= mask);
            return true;
        }
        let small = range.clone().all(|at| self.get(at) < limit);
        if small {
            range.for_each(|at| self.set(at, self.get(at) + 1));
        }
        small
    }

    /// The counts of some clusters, a byte each.
    pub fn bytes(&self, range: Range<usize>) -> Vec<u8> {
        if self.bits == 1 && self.all_low(range.clone()) {
            return vec![self.low; range.len()];
        }
        let mut counts: Vec<u8> = range.clone().map(|at| self.packed(at)).collect();
        for (place, count) in self.odd.iter().filter(|(place, _)| range.contains(&usize::from(*place))) {
            counts[usize::from(*place) - range.start] = *count;
        }
        counts
    }

    /// Where nearly all counts are one above the lowest, that becomes the lowest, and the others are kept beside; of pieces
    /// with one bit per cluster.
    fn raise_low(&mut self) {
        let above: usize = self.words.iter().map(|word| word.count_ones() as usize).sum();
        if above < PIECE as usize - ODD_MAX || self.low == u8::MAX {
            return;
        }
        let below = (0..PIECE as usize).filter(|at| self.packed(*at) == self.low);
        self.odd = below.map(|at| (at as u16, self.get(at))).collect();
        self.low += 1;
        self.words.fill(0);
    }

    /// Whether all of these counts are the lowest; of pieces with one bit per cluster.
    fn all_low(&self, range: Range<usize>) -> bool {
        self.odd.iter().all(|(place, _)| !range.contains(&usize::from(*place)))
            && parts(range).all(|(word, mask)| self.words[word] & mask == 0)
    }

    /// What the bits of a cluster say.
    fn packed(&self, at: usize) -> u8 {
        let (word, shift) = self.position(at);
        // At most eight bits are left.
        self.low + (self.words[word] >> shift & self.mask()) as u8
    }

    /// The greatest value of a cluster's bits.
    fn mask(&self) -> u64 {
        (1 << self.bits) - 1
    }

    fn position(&self, at: usize) -> (usize, usize) {
        (at * self.bits / WORD, at * self.bits % WORD)
    }

    fn put(&mut self, at: usize, above: u64) {
        let ((word, shift), mask) = (self.position(at), self.mask());
        self.words[word] = self.words[word] & !(mask << shift) | above << shift;
    }

    /// Sets a count that fits neither into the bits there are nor beside them. That happens once for every new highest or
    /// lowest count, so seldom.
    fn pack_anew(&mut self, at: usize, count: u8) {
        let mut counts = self.bytes(0..PIECE as usize);
        counts[at] = count;
        let (low, high) = counts.iter().fold((u8::MAX, 0), |(low, high), count| (low.min(*count), high.max(*count)));
        let bits = [1, 2, 4].into_iter().find(|bits| u64::from(high - low) < 1 << bits).unwrap_or(8);
        *self = Piece { low, bits, words: words(bits), odd: Vec::new() };
        for (at, count) in counts.into_iter().enumerate() {
            self.put(at, u64::from(count - low));
        }
    }
}

/// Words for all clusters of a piece.
fn words(bits: usize) -> Box<[u64]> {
    vec![0; PIECE as usize * bits / WORD].into_boxed_slice()
}

/// The words that a range of single bits touches, and which bits of them.
fn parts(range: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let words = if range.is_empty() { 0..0 } else { range.start / WORD..range.end.div_ceil(WORD) };
    words.map(move |word| {
        let first = word * WORD;
        let from = range.start.max(first) - first;
        let len = range.end.min(first + WORD) - first - from;
        (word, u64::MAX >> (WORD - len) << from)
    })
}

#[cfg(test)]
#[path = "piece_tests.rs"]
mod tests;
