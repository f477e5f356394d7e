//! How often each host cluster is used, as found by walking all tables. The counts are kept in pieces that exist only where
//! something is used, each with as few bits per cluster as its counts need: one where every cluster is used once or not
//! at all, or by every snapshot and perhaps once more. Neither a large image nor a long sparse file costs much memory.

mod piece;
mod row;

use std::collections::HashMap;

pub(super) use piece::PIECE;
use row::Row;

/// In a piece: the count is in [`Counts::large`].
const LARGE: u8 = u8::MAX;

/// References counted per cluster.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pieces: Vec<Row>,
    /// Which piece counts the clusters from `key * PIECE` on.
    index: HashMap<u64, usize>,
    /// The piece that was used last: number and place.
    last: Option<(u64, usize)>,
    /// Counts that do not fit into a byte.
    large: HashMap<u64, u64>,
}

impl Counts {
    /// Adds one reference and returns the new count.
    pub fn add(&mut self, cluster: u64) -> u64 {
        let (piece, at) = self.find_or_insert(cluster);
        let count = piece.get(at);
        if count < LARGE - 1 {
            piece.set(at, count + 1);
            return u64::from(count) + 1;
        }
        piece.set(at, LARGE);
        let large = self.large.entry(cluster).or_insert(u64::from(LARGE - 1));
        *large += 1;
        *large
    }

    /// Adds one reference to each of some clusters of one piece, if all counts stay small and at most `max`. Says whether
    /// that was done.
    pub fn add_all(&mut self, cluster: u64, len: u64, max: u64) -> bool {
        let (piece, at) = self.find_or_insert(cluster);
        let limit = u8::try_from(max).unwrap_or(LARGE).min(LARGE - 1);
        piece.add_all(at..at + len as usize, limit)
    }

    /// Takes back one [`Counts::add`].
    pub fn undo(&mut self, cluster: u64) {
        let (piece, at) = self.find_or_insert(cluster);
        match piece.get(at) {
            // It stays there, also where it would fit into a byte again.
            LARGE => drop(self.large.entry(cluster).and_modify(|large| *large -= 1)),
            count => piece.set(at, count - 1),
        }
    }

    /// Makes a count at least as great as this.
    pub fn raise(&mut self, cluster: u64, least: u64) {
        if self.get(cluster) >= least {
            return;
        }
        let (piece, at) = self.find_or_insert(cluster);
        match u8::try_from(least) {
            Ok(small) if small < LARGE => piece.set(at, small),
            _ => {
                piece.set(at, LARGE);
                self.large.insert(cluster, least);
            }
        }
    }

    /// The number of references to a cluster.
    pub fn get(&self, cluster: u64) -> u64 {
        match self.piece(cluster / PIECE).map(|piece| piece.get((cluster % PIECE) as usize)) {
            None => 0,
            Some(LARGE) => self.large.get(&cluster).copied().unwrap_or(0),
            Some(count) => u64::from(count),
        }
    }

    /// The counts of `len` clusters from `cluster` on, all of one piece, as bytes of which 255 means "look with
    /// [`Counts::get`]"; `None` where nothing is used.
    pub fn bytes(&self, cluster: u64, len: usize) -> Option<Vec<u8>> {
        let at = (cluster % PIECE) as usize;
        self.piece(cluster / PIECE)?.bytes(at..at + len)
    }

    /// The numbers of the pieces in which something is used, in order.
    pub fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.index.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    fn piece(&self, number: u64) -> Option<&Row> {
        let place = match self.last {
            Some((last, place)) if last == number => place,
            _ => *self.index.get(&number)?,
        };
        Some(&self.pieces[place])
    }

    /// The piece that counts a cluster, and the cluster's place in it.
    fn find_or_insert(&mut self, cluster: u64) -> (&mut Row, usize) {
        let (number, at) = (cluster / PIECE, (cluster % PIECE) as usize);
        let place = match self.last {
            Some((last, place)) if last == number => place,
            _ => *self.index.entry(number).or_insert_with(|| {
                self.pieces.push(Row::new());
                self.pieces.len() - 1
            }),
        };
        self.last = Some((number, place));
        (&mut self.pieces[place], at)
    }
}

#[cfg(test)]
#[path = "counts_tests.rs"]
mod tests;
