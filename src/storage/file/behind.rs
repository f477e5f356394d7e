//! Writing back behind a long copy.
//!
//! What is written stays in memory until the kernel writes it to the disk. A copy of far more than fits would push
//! everything else out of memory first, and where memory is limited wait there for the disk. So once much has been
//! written through one file, ranges are sent to the disk as they come, waited for a little later, and their memory is
//! given back. A short copy never gets that far.

use std::collections::VecDeque;
use std::ops::Range;

/// From how much written on it is looked at how much memory there is, in bytes.
const LOOK: u64 = 64 << 20;
/// How much is sent to the disk in one go, at most and at least, in bytes.
const BATCH_MAX: u64 = 32 << 20;
const BATCH_MIN: u64 = 1 << 20;
/// How many batches are on their way to the disk at a time.
const AHEAD: usize = 4;

/// Ranges of the file to send to the disk, or to wait for. Sorted, none touches another.
pub type Batch = Vec<Range<u64>>;

/// What is to be done after a write.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Start writing these ranges back.
    pub start: Batch,
    /// Wait until these are on the disk; their memory is not needed any more.
    pub finish: Batch,
}

/// What was written and has not been written back.
#[derive(Debug)]
pub struct Behind {
    total: u64,
    /// Up to how much is left to the kernel; `None` as long as nobody has looked.
    free: Option<u64>,
    batch: u64,
    gathered: Batch,
    gathered_bytes: u64,
    started: VecDeque<Batch>,
}

impl Default for Behind {
    fn default() -> Self {
        Behind {
            total: 0,
            free: None,
            batch: BATCH_MAX,
            gathered: Batch::new(),
            gathered_bytes: 0,
            started: VecDeque::new(),
        }
    }
}

impl Behind {
    /// Notes that a range has been written. `available` says how much memory there is; it is asked once, and late.
    pub fn wrote(&mut self, range: Range<u64>, available: impl FnOnce() -> Option<u64>) -> Work {
        let len = range.end - range.start;
        self.total = self.total.saturating_add(len);
        if self.total < LOOK {
            return Work::default();
        }
        let free = *self.free.get_or_insert_with(|| {
            let free = available().unwrap_or(u64::MAX) / 4;
            self.batch = (free / 8).clamp(BATCH_MIN, BATCH_MAX);
            free
        });
        if self.total < free {
            return Work::default();
        }
        match self.gathered.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.gathered.push(range),
        }
        self.gathered_bytes += len;
        if self.gathered_bytes < self.batch {
            return Work::default();
        }
        self.gathered_bytes = 0;
        let start = merged(std::mem::take(&mut self.gathered));
        self.started.push_back(start.clone());
        let finish = if self.started.len() > AHEAD { self.started.pop_front() } else { None };
        Work { start, finish: finish.unwrap_or_default() }
    }
}

/// The same ranges in order, with those joined that touch.
fn merged(mut ranges: Batch) -> Batch {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Batch = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_short_copy_is_left_to_the_kernel() {
        let mut behind = Behind::default();
        for at in 0..63 {
            let work = behind.wrote(at * MIB..(at + 1) * MIB, || panic!("nobody needs to know yet"));
            assert_eq!(work, Work::default());
        }
        for at in 63..4095 {
            assert_eq!(behind.wrote(at * MIB..(at + 1) * MIB, || Some(16384 * MIB)), Work::default());
        }
        // From a quarter of the memory on it is not short any more.
        let whole = std::iter::once(4095 * MIB..4127 * MIB).collect();
        let works: Vec<_> = (4095..4127).map(|at| behind.wrote(at * MIB..(at + 1) * MIB, || None)).collect();
        assert!(works[..31].iter().all(|work| *work == Work::default()));
        assert_eq!(works[31], Work { start: whole, finish: Batch::new() });
    }

    #[test]
    fn every_range_is_started_once_and_finished_later() {
        let mut behind = Behind::default();
        let (mut started, mut finished) = (Vec::new(), Vec::new());
        let bytes = |ranges: &Batch| ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        // Workers write neighbours in either order.
        for pair in 0..400 {
            for at in [2 * pair + 1, 2 * pair] {
                let work = behind.wrote(at * MIB..(at + 1) * MIB, || Some(256 * MIB));
                started.extend(work.start);
                finished.extend(work.finish);
                assert!(bytes(&started) - bytes(&finished) <= (AHEAD as u64 + 1) * 8 * MIB);
            }
        }
        // Of a pair on the border between two batches each gets one.
        assert!(started.len() < 300, "neighbours are joined: {}", started.len());
        assert!(started.len() - finished.len() <= 3 * (AHEAD + 1));
        assert_eq!(finished[..], started[..finished.len()]);
        let (all, whole) = (bytes(&started), merged(started));
        assert_eq!(bytes(&whole), all, "nothing is started twice");
        // Of the first and the last pair one half may be out.
        assert!(whole.len() <= 3 && all > (800 - 64 - 8) * MIB, "nothing is left out in between: {whole:?}");
    }

    #[test]
    fn where_memory_is_unknown_the_kernel_decides() {
        let mut behind = Behind::default();
        for at in 0..4096 {
            assert_eq!(behind.wrote(at * MIB..(at + 1) * MIB, || None), Work::default());
        }
    }
}
