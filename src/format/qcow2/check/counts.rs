//! How often each host cluster is used, as found by walking all tables: one byte per cluster, in pieces that exist only
//! where something is used, so that neither a long sparse file nor a hostile header costs memory.

use std::collections::HashMap;

/// Clusters in a piece.
pub(super) const PIECE: u64 = 4096;
/// In a piece: the count is in [`Counts::large`].
const LARGE: u8 = u8::MAX;

/// References counted per cluster.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pieces: Vec<Box<[u8]>>,
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
        let (number, at) = (cluster / PIECE, (cluster % PIECE) as usize);
        let place = match self.last {
            Some((last, place)) if last == number => place,
            _ => self.find_or_insert(number),
        };
        let count = &mut self.pieces[place][at];
        if *count < LARGE - 1 {
            *count += 1;
            return u64::from(*count);
        }
        *count = LARGE;
        let large = self.large.entry(cluster).or_insert(u64::from(LARGE - 1));
        *large += 1;
        *large
    }

    /// Adds one reference to each of some clusters of one piece, if all counts stay small and at most `max`. Says whether
    /// that was done.
    pub fn add_all(&mut self, cluster: u64, len: u64, max: u64) -> bool {
        let (number, at) = (cluster / PIECE, (cluster % PIECE) as usize);
        let place = match self.last {
            Some((last, place)) if last == number => place,
            _ => self.find_or_insert(number),
        };
        let limit = u8::try_from(max).unwrap_or(LARGE).min(LARGE - 1);
        let counts = &mut self.pieces[place][at..at + len as usize];
        let small = counts.iter().all(|count| *count < limit);
        if small {
            counts.iter_mut().for_each(|count| *count += 1);
        }
        small
    }

    /// Takes back one [`Counts::add`].
    pub fn undo(&mut self, cluster: u64) {
        let place = self.find_or_insert(cluster / PIECE);
        let count = &mut self.pieces[place][(cluster % PIECE) as usize];
        if *count == LARGE {
            // It stays there, also where it would fit into a byte again.
            self.large.entry(cluster).and_modify(|large| *large -= 1);
        } else {
            *count -= 1;
        }
    }

    /// Makes a count at least as great as this.
    pub fn raise(&mut self, cluster: u64, least: u64) {
        if self.get(cluster) >= least {
            return;
        }
        let place = self.find_or_insert(cluster / PIECE);
        let count = &mut self.pieces[place][(cluster % PIECE) as usize];
        match u8::try_from(least) {
            Ok(small) if small < LARGE => *count = small,
            _ => {
                *count = LARGE;
                self.large.insert(cluster, least);
            }
        }
    }

    /// The number of references to a cluster.
    pub fn get(&self, cluster: u64) -> u64 {
        match self.piece(cluster / PIECE).map(|piece| piece[(cluster % PIECE) as usize]) {
            None => 0,
            Some(LARGE) => self.large.get(&cluster).copied().unwrap_or(0),
            Some(count) => u64::from(count),
        }
    }

    /// The counts of the clusters from `number * PIECE` on, as bytes of which 255 means "look with [`Counts::get`]";
    /// `None` where nothing is used.
    pub fn piece(&self, number: u64) -> Option<&[u8]> {
        let place = match self.last {
            Some((last, place)) if last == number => place,
            _ => *self.index.get(&number)?,
        };
        Some(&self.pieces[place])
    }

    /// The numbers of the pieces in which something is used, in order.
    pub fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.index.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    fn find_or_insert(&mut self, number: u64) -> usize {
        let pieces = &mut self.pieces;
        let place = *self.index.entry(number).or_insert_with(|| {
            pieces.push(vec![0; PIECE as usize].into_boxed_slice());
            pieces.len() - 1
        });
        self.last = Some((number, place));
        place
    }
}

#[cfg(test)]
#[path = "counts_tests.rs"]
mod tests;
