//! Comparing what two disks show.
//!
//! One thread at a time decides, from the tables of both images, what has to be looked at next; several read and compare.
//! What is handed out is handed out in the order of the disk, so when one of them finds a difference, everything before
//! it is at least being looked at, and the first difference is the smallest one found.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::copy::scan::{is_equal, is_zero};
use crate::copy::{Monitor, Phase};
use crate::error::{Error, Kind, Result};
use crate::image::{Chain, Status};
use crate::storage::AlignedBuf;
use crate::units::{SECTOR, align_down};

/// How much is read at once, in bytes.
const WINDOW: u64 = 2 << 20;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both show the same; where one is longer, it has nothing but zeros there.
    Same,
    /// The first byte that differs is in the sector at this guest offset.
    Differs(u64),
    /// From this guest offset on, equal bytes may be stored in different ways (strict mode only).
    Layout(u64),
}

/// Why it could not be found out.
#[derive(Debug)]
pub enum Failure {
    /// What lies where could not be found out in the first (0) or second (1) image.
    Map(usize, Error),
    /// Reading an image failed at this guest offset.
    Read(usize, u64, Error),
    /// A signal came.
    Interrupted(i32),
}

/// What a worker shall do.
#[derive(Clone, Copy, Debug)]
enum Task {
    /// Both have something there.
    Compare,
    /// Only this image has something: it must be zeros.
    Empty(usize),
}

/// Where the work stands.
struct Cursor {
    at: u64,
    /// Pieces that are done although something before them is not: length by offset. Progress is reported in order.
    done: BTreeMap<u64, u64>,
    /// How far everything is done.
    reported: u64,
    /// The first thing found, by its offset. Ends the work.
    found: Option<(u64, Result<Outcome, Failure>)>,
}

/// A comparison.
pub struct Comparison<'a> {
    /// The two disks.
    pub disks: [&'a Chain; 2],
    /// Whether the layout has to be the same, too.
    pub strict: bool,
    /// Who watches.
    pub monitor: &'a dyn Monitor,
    /// Called once where one image ends before the other, when everything before that was equal.
    pub shorter: &'a (dyn Fn() + Sync),
}

impl Comparison<'_> {
    /// Compares with so many threads.
    pub fn run(&self, workers: usize) -> Result<Outcome, Failure> {
        let [short, long] = self.sizes();
        self.monitor.phase(Phase::Compare);
        self.monitor.total(long);
        self.range(0, short, workers)?.map_or_else(
            || {
                if short < long {
                    (self.shorter)();
                }
                Ok(self.range(short, long, workers)?.unwrap_or(Outcome::Same))
            },
            Ok,
        )
    }

    /// The smaller and the larger size.
    fn sizes(&self) -> [u64; 2] {
        let sizes = self.disks.map(Chain::size);
        [sizes[0].min(sizes[1]), sizes[0].max(sizes[1])]
    }

    /// Compares `start..end`; `None` where there is no difference.
    fn range(&self, start: u64, end: u64, workers: usize) -> Result<Option<Outcome>, Failure> {
        let cursor = Mutex::new(Cursor { at: start, done: BTreeMap::new(), reported: start, found: None });
        std::thread::scope(|scope| {
            // The first worker is this thread; should there be no more, it does everything.
            for _ in 1..workers {
                let _ = std::thread::Builder::new().spawn_scoped(scope, || self.work(&cursor, end));
            }
            self.work(&cursor, end);
        });
        let found = cursor.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).found;
        found.map(|(_, result)| result).transpose()
    }

    fn work(&self, cursor: &Mutex<Cursor>, end: u64) {
        let mut buffers = [AlignedBuf::new(WINDOW as usize), AlignedBuf::new(WINDOW as usize)];
        while let Some((at, len, task)) = self.next(cursor, end) {
            let result = match task {
                Task::Compare => self.compare(at, len, &mut buffers),
                Task::Empty(disk) => self.expect_zeros(disk, at, len, &mut buffers[0]),
            };
            match result {
                Ok(None) => self.finish(&mut lock(cursor), at, len),
                Ok(Some(offset)) => note(cursor, offset, Ok(Outcome::Differs(offset))),
                Err(failure) => note(cursor, at, Err(failure)),
            }
        }
    }

    /// The next thing to do: guest offset, length, and what.
    fn next(&self, cursor: &Mutex<Cursor>, end: u64) -> Option<(u64, u64, Task)> {
        let mut cursor = lock(cursor);
        loop {
            if cursor.found.is_some() || cursor.at >= end {
                return None;
            }
            if let Some(signal) = self.monitor.interrupted() {
                cursor.found = Some((0, Err(Failure::Interrupted(signal))));
                return None;
            }
            let at = cursor.at;
            match self.look(at, end) {
                Ok((len, Some(task))) => {
                    cursor.at += len;
                    return Some((at, len, task));
                }
                Ok((len, None)) => {
                    cursor.at += len;
                    self.finish(&mut cursor, at, len);
                }
                Err(result) => cursor.found = Some((at, result)),
            }
        }
    }

    /// The piece at `at` is done.
    fn finish(&self, cursor: &mut Cursor, at: u64, len: u64) {
        cursor.done.insert(at, len);
        while let Some(len) = cursor.done.remove(&cursor.reported) {
            cursor.reported += len;
            self.monitor.advance(len);
        }
    }

    /// What has to be done at `at`: for how many bytes, and what, if anything.
    fn look(&self, at: u64, end: u64) -> Result<(u64, Option<Task>), Result<Outcome, Failure>> {
        let mut found: [Option<Status<'_>>; 2] = [None, None];
        for (disk, status) in found.iter_mut().enumerate() {
            let chain = self.disks[disk];
            if at < chain.size() {
                let here = chain.status(at, chain.size() - at);
                *status = Some(here.map_err(|error| Err(Failure::Map(disk, error)))?);
            }
        }
        let len = found.iter().flatten().map(|status| status.len).fold(end - at, u64::min);
        let task = match &found {
            [Some(first), Some(second)] => {
                if self.strict && self.kind(0, first) != self.kind(1, second) {
                    return Err(Ok(Outcome::Layout(at)));
                }
                match (has_bytes(first), has_bytes(second)) {
                    (true, true) => Some(Task::Compare),
                    (true, false) => Some(Task::Empty(0)),
                    (false, true) => Some(Task::Empty(1)),
                    (false, false) => None,
                }
            }
            [Some(only), None] if has_bytes(only) => Some(Task::Empty(0)),
            [None, Some(only)] if has_bytes(only) => Some(Task::Empty(1)),
            _ => None,
        };
        Ok((if task.is_some() { len.min(WINDOW) } else { len }, task))
    }

    /// What strict mode compares: everything but the places.
    fn kind(&self, disk: usize, status: &Status<'_>) -> [bool; 6] {
        let last = status.start + status.len == self.disks[disk].size();
        [status.present, status.zero, status.data, status.compressed, status.place.is_some(), last]
    }

    fn read(&self, disk: usize, at: u64, buf: &mut [u8]) -> Result<(), Failure> {
        self.disks[disk].read(at, buf).map_err(|error| Failure::Read(disk, at, error))
    }

    fn compare(&self, at: u64, len: u64, buffers: &mut [AlignedBuf; 2]) -> Result<Option<u64>, Failure> {
        let [first, second] = buffers;
        let (first, second) = (&mut first[..len as usize], &mut second[..len as usize]);
        self.read(0, at, first)?;
        self.read(1, at, second)?;
        if is_equal(first, second) {
            return Ok(None);
        }
        let differing = first.iter().zip(second.iter()).position(|(a, b)| a != b);
        Ok(differing.map(|index| at + align_down(index as u64, SECTOR)))
    }

    fn expect_zeros(&self, disk: usize, at: u64, len: u64, buffer: &mut AlignedBuf) -> Result<Option<u64>, Failure> {
        let buffer = &mut buffer[..len as usize];
        self.read(disk, at, buffer)?;
        if is_zero(buffer) {
            return Ok(None);
        }
        let differing = buffer.iter().position(|byte| *byte != 0);
        Ok(differing.map(|index| at + align_down(index as u64, SECTOR)))
    }
}

/// Whether there is something to read.
fn has_bytes(status: &Status<'_>) -> bool {
    status.data && !status.zero
}

fn lock(cursor: &Mutex<Cursor>) -> std::sync::MutexGuard<'_, Cursor> {
    cursor.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Keeps what comes first on the disk.
fn note(cursor: &Mutex<Cursor>, at: u64, result: Result<Outcome, Failure>) {
    let mut cursor = lock(cursor);
    if cursor.found.as_ref().is_none_or(|(offset, _)| at < *offset) {
        cursor.found = Some((at, result));
    }
}

impl Failure {
    /// The error, in the words for images of these names, and the exit code for it.
    pub fn explain(self, names: [&str; 2]) -> (Error, i32) {
        match self {
            Failure::Map(disk, error) => {
                (error.context(format!("Sector allocation test failed for {}", names[disk])), 3)
            }
            Failure::Read(disk, at, error) => {
                (error.context(format!("Error while reading offset {at} of {}", names[disk])), 4)
            }
            Failure::Interrupted(signal) => (Error::new(Kind::Interrupted(signal)), 128),
        }
    }
}
