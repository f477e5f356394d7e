//! A storage for tests: it records what is done to another one, and makes chosen requests fail.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Limits, MemStorage, RangeKind, Storage, ZeroMode};
use crate::error::{Error, Result};

/// Kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// [`Storage::read_at`].
    Read,
    /// [`Storage::write_at`].
    Write,
    /// [`Storage::zero`].
    Zero,
    /// [`Storage::extent`].
    Extent,
    /// [`Storage::set_len`].
    SetLen,
    /// [`Storage::flush`].
    Flush,
}

const OPS: usize = 6;

/// A request that changed something, or ordered changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes were written.
    Write {
        /// Where.
        offset: u64,
        /// Which.
        data: Vec<u8>,
    },
    /// A range was made zero.
    Zero {
        /// Where.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// How.
        mode: ZeroMode,
    },
    /// The length was set.
    SetLen(u64),
    /// Everything before is stable from here on.
    Flush,
}

impl Event {
    /// Does to `storage` what was recorded.
    pub fn apply(&self, storage: &dyn Storage) -> Result<()> {
        match self {
            Event::Write { offset, data } => storage.write_at(data, *offset),
            Event::Zero { offset, len, mode } => storage.zero(*offset, *len, *mode),
            Event::SetLen(len) => storage.set_len(*len),
            Event::Flush => Ok(()),
        }
    }
}

/// Requests that shall fail.
#[derive(Clone, Copy, Debug)]
struct Fault {
    op: Op,
    /// Counted from 1.
    first: u64,
    last: u64,
    errno: i32,
}

#[derive(Debug, Default)]
struct State {
    counts: [u64; OPS],
    faults: Vec<Fault>,
    /// Each with a number that rises over all storages of the process.
    events: Vec<(u64, Event)>,
}

/// The number of the next event.
static STAMP: AtomicU64 = AtomicU64::new(0);

/// Passes everything on to another storage, records changes, and fails where it is told to.
#[derive(Debug)]
pub struct FaultStorage {
    inner: Arc<dyn Storage>,
    state: Mutex<State>,
}

impl FaultStorage {
    /// Wraps `inner`. Nothing fails until told.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        FaultStorage { inner, state: Mutex::default() }
    }

    /// Wraps an empty storage in memory.
    pub fn in_memory() -> Self {
        Self::new(Arc::new(MemStorage::default()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere leaves the record readable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request of kind `op` that comes `nth` from now (1 is the next one) fails with `errno`.
    pub fn fail(&self, op: Op, nth: u64, errno: i32) {
        self.fail_range(op, nth, nth, errno);
    }

    /// From the `nth` request from now on, all of kind `op` fail with `errno`.
    pub fn fail_from(&self, op: Op, nth: u64, errno: i32) {
        self.fail_range(op, nth, u64::MAX, errno);
    }

    fn fail_range(&self, op: Op, first: u64, last: u64, errno: i32) {
        let mut state = self.state();
        let now = state.counts[op as usize];
        state.faults.push(Fault { op, first: now.saturating_add(first), last: now.saturating_add(last), errno });
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// How many requests of a kind there were, failed ones included.
    pub fn count(&self, op: Op) -> u64 {
        self.state().counts[op as usize]
    }

    /// The changes so far, in the order in which they were made. Failed requests have changed nothing.
    pub fn events(&self) -> Vec<Event> {
        self.stamped_events().into_iter().map(|(_, event)| event).collect()
    }

    /// The same, each with a number by which the changes of several storages can be put in order.
    pub fn stamped_events(&self) -> Vec<(u64, Event)> {
        self.state().events.clone()
    }

    /// Forgets the changes so far.
    pub fn clear_events(&self) {
        self.state().events.clear();
    }

    /// Counts a request and fails it if it is one that shall.
    fn enter(&self, state: &mut State, op: Op) -> Result<()> {
        state.counts[op as usize] += 1;
        let number = state.counts[op as usize];
        let hit = |fault: &&Fault| fault.op == op && (fault.first..=fault.last).contains(&number);
        match state.faults.iter().find(hit) {
            Some(fault) => Err(Error::os(fault.errno)),
            None => Ok(()),
        }
    }

    fn observe(&self, op: Op) -> Result<()> {
        let mut state = self.state();
        self.enter(&mut state, op)
    }

    /// Runs a change under the lock, so that the record has the order in which changes happened.
    fn change(&self, op: Op, event: Event) -> Result<()> {
        let mut state = self.state();
        self.enter(&mut state, op)?;
        match &event {
            Event::Flush => self.inner.flush()?,
            event => event.apply(&*self.inner)?,
        }
        state.events.push((STAMP.fetch_add(1, Ordering::Relaxed), event));
        Ok(())
    }
}

impl Storage for FaultStorage {
    fn len(&self) -> Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.observe(Op::Read)?;
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.change(Op::Write, Event::Write { offset, data: buf.to_vec() })
    }

    fn zero(&self, offset: u64, len: u64, mode: ZeroMode) -> Result<()> {
        self.change(Op::Zero, Event::Zero { offset, len, mode })
    }

    fn extent(&self, offset: u64, len: u64) -> Result<(RangeKind, u64)> {
        self.observe(Op::Extent)?;
        self.inner.extent(offset, len)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change(Op::SetLen, Event::SetLen(len))
    }

    fn flush(&self) -> Result<()> {
        self.change(Op::Flush, Event::Flush)
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
