//! The counts of some thousand neighbouring clusters, as a list where few of them are used.

use std::ops::Range;

use super::piece::{PIECE, Piece};

/// Counts in a list; more of them are packed.
const FEW: usize = 32;
/// The number of clusters fits into the numbers of a list.
const _: () = assert!(PIECE <= u16::MAX as u64);

/// Counts that fit into a byte each.
#[derive(Debug)]
pub(super) enum Row {
    /// Those that are not zero, with their places. Where entries of a damaged table point all over a long file, each costs
    /// some dozen bytes.
    Few(Vec<(u16, u8)>),
    Packed(Piece),
}

impl Row {
    /// Nothing is used.
    pub fn new() -> Self {
        Row::Few(Vec::new())
    }

    /// The count of the cluster at `at`.
    pub fn get(&self, at: usize) -> u8 {
        match self {
            Row::Few(list) => list.iter().find(|(place, _)| usize::from(*place) == at).map_or(0, |(_, count)| *count),
            Row::Packed(piece) => piece.get(at),
        }
    }

    /// Sets the count of the cluster at `at`.
    pub fn set(&mut self, at: usize, count: u8) {
        if let Row::Few(list) = self {
            if let Some((_, there)) = list.iter_mut().find(|(place, _)| usize::from(*place) == at) {
                *there = count;
                return;
            }
            if list.len() < FEW {
                list.push((at as u16, count));
                return;
            }
        }
        self.pack().set(at, count);
    }

    /// Adds one to each of these counts, if all of them are below `limit`. Says whether that was done.
    pub fn add_all(&mut self, range: Range<usize>, limit: u8) -> bool {
        if matches!(self, Row::Packed(_)) || range.len() > FEW {
            return self.pack().add_all(range, limit);
        }
        let small = range.clone().all(|at| self.get(at) < limit);
        if small {
            range.for_each(|at| self.set(at, self.get(at) + 1));
        }
        small
    }

    /// The counts of some clusters, a byte each; `None` where it is known that nothing is used.
    pub fn bytes(&self, range: Range<usize>) -> Option<Vec<u8>> {
        let list = match self {
            Row::Few(list) => list,
            Row::Packed(piece) => return Some(piece.bytes(range)),
        };
        let mut inside = list.iter().filter(|(place, _)| range.contains(&usize::from(*place))).peekable();
        inside.peek()?;
        let mut counts = vec![0; range.len()];
        inside.for_each(|(place, count)| counts[usize::from(*place) - range.start] = *count);
        Some(counts)
    }

    fn pack(&mut self) -> &mut Piece {
        if let Row::Few(list) = self {
            let mut piece = Piece::new();
            list.iter().for_each(|(place, count)| piece.set(usize::from(*place), *count));
            *self = Row::Packed(piece);
        }
        match self {
            Row::Packed(piece) => piece,
            Row::Few(_) => unreachable!("it has just been packed"),
        }
    }
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
