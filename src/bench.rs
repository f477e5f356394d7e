//! A simple benchmark: requests of one size at growing offsets of a disk, a number of them in flight at any time.
//!
//! One thread per request in flight takes the next offset, does the request, and takes the next one. Flushes come after
//! a number of requests, either when all of them have returned or, on a thread of their own, while others go on.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::error::{Error, Result};
use crate::image::Chain;
use crate::storage::{AlignedBuf, PAGE};

/// Most threads, whatever depth is asked for.
const THREADS_MAX: u32 = 1024;

/// What shall be measured.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// Write with bytes of this value; `None` reads.
    pub write: Option<u8>,
    /// How many requests there are, at least 1.
    pub count: u32,
    /// How many are in flight at a time, at least 1.
    pub depth: u32,
    /// How many bytes each has.
    pub size: usize,
    /// Where the first one begins.
    pub offset: u64,
    /// How many bytes behind the beginning of a request the next one begins; at the end of the disk it goes on at its
    /// beginning.
    pub step: u64,
    /// Flush after this many requests; 0 for not at all.
    pub flush_interval: u32,
    /// Wait for all requests in flight before a flush, and for the flush before the next request.
    pub drain: bool,
    /// Every write has to be stable before it counts as done.
    pub writethrough: bool,
}

/// A request.
#[derive(Clone, Copy, Debug)]
struct Request {
    offset: u64,
    /// What it may change, if it writes.
    span: (u64, u64),
    /// A flush has to follow that is not waited for.
    flush: bool,
}

#[derive(Debug)]
struct State {
    remaining: u32,
    in_flight: u32,
    offset: u64,
    /// No request may begin before all have returned and what they wrote has been flushed.
    draining: bool,
    /// What writes in flight change, each as its first byte and the byte behind it ([`Chain::write_span`]): where two of
    /// them share a cluster that is yet to be allocated, both would complete it with what was there before.
    busy: Vec<(u64, u64)>,
    failed: Option<Error>,
}

impl Bench {
    /// Does it.
    pub fn run(&self, chain: &Chain) -> Result<()> {
        let state = State {
            remaining: self.count,
            in_flight: 0,
            offset: self.offset,
            draining: false,
            busy: Vec::new(),
            failed: None,
        };
        let run = Run { bench: self, chain, state: Mutex::new(state), changed: Condvar::new() };
        let payload = match self.write {
            Some(byte) => {
                let mut payload = buffer(self.size)?;
                payload.fill(byte);
                Some(payload)
            }
            None => None,
        };
        run.all(payload.as_deref())?;
        match run.state().failed.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// A buffer for one request.
fn buffer(size: usize) -> Result<AlignedBuf> {
    // What cannot be had is to be an error, not the end of the program.
    Vec::<u8>::new().try_reserve_exact(size.saturating_add(PAGE)).map_err(|_| Error::os(libc::ENOMEM))?;
    Ok(AlignedBuf::new(size))
}

/// A benchmark at work.
struct Run<'a> {
    bench: &'a Bench,
    chain: &'a Chain,
    state: Mutex<State>,
    changed: Condvar,
}

impl Run<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self, payload: Option<&[u8]>) -> Result<()> {
        let threads = self.bench.depth.min(self.bench.count).min(THREADS_MAX);
        thread::scope(|scope| {
            let (flushes, wanted) = channel::<()>();
            if self.bench.flush_interval > 0 && !self.bench.drain {
                let flusher = move || wanted.iter().for_each(|()| self.note(self.flush()));
                thread::Builder::new().spawn_scoped(scope, flusher)?;
            }
            for number in 0..threads {
                let flushes = flushes.clone();
                let worker = move || self.work(payload, &flushes);
                match thread::Builder::new().spawn_scoped(scope, worker) {
                    Ok(_) => {}
                    // Fewer than wished for are better than none.
                    Err(_) if number > 0 => break,
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        })
    }

    fn work(&self, payload: Option<&[u8]>, flushes: &Sender<()>) {
        let mut own = match payload {
            Some(_) => None,
            None => match buffer(self.bench.size) {
                Ok(buffer) => Some(buffer),
                Err(error) => return self.note(Err(error)),
            },
        };
        while let Some(request) = self.next() {
            let done = match (payload, own.as_deref_mut()) {
                (Some(bytes), _) => self.write(request.offset, bytes),
                (None, Some(buffer)) => self.read(request.offset, buffer),
                (None, None) => Ok(()),
            };
            if request.flush && done.is_ok() {
                // Nobody listens any more only when everything has failed.
                let _ = flushes.send(());
            }
            self.finish(request, done);
        }
    }

    /// The next request, as soon as it may begin; `None` when there is none any more.
    fn next(&self) -> Option<Request> {
        let mut state = self.state();
        loop {
            if state.failed.is_some() || state.remaining == 0 {
                return None;
            }
            if !state.draining {
                let span = self.span(state.offset);
                if state.busy.iter().all(|busy| busy.1 <= span.0 || span.1 <= busy.0) {
                    return Some(self.take(&mut state, span));
                }
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn take(&self, state: &mut State, span: (u64, u64)) -> Request {
        let offset = state.offset;
        state.remaining -= 1;
        state.in_flight += 1;
        state.offset = match self.chain.size() {
            0 => 0,
            size => offset.saturating_add(self.bench.step) % size,
        };
        if self.bench.write.is_some() {
            state.busy.push(span);
        }
        let interval = self.bench.flush_interval;
        let due = interval > 0 && state.remaining.is_multiple_of(interval);
        state.draining = due && self.bench.drain;
        Request { offset, span, flush: due && !self.bench.drain }
    }

    /// What a request at `offset` may change.
    fn span(&self, offset: u64) -> (u64, u64) {
        match self.bench.write {
            Some(_) => self.chain.write_span(offset, self.bench.size as u64),
            None => (offset, offset),
        }
    }

    fn finish(&self, request: Request, done: Result<()>) {
        let mut state = self.state();
        state.in_flight -= 1;
        if self.bench.write.is_some()
            && let Some(at) = state.busy.iter().position(|busy| *busy == request.span)
        {
            state.busy.swap_remove(at);
        }
        let flush = state.draining && state.in_flight == 0 && done.is_ok();
        drop(state);
        self.note(done);
        if flush {
            self.note(self.flush());
            self.state().draining = false;
        }
        self.changed.notify_all();
    }

    /// Keeps the first error, which ends the run.
    fn note(&self, result: Result<()>) {
        if let Err(error) = result {
            self.state().failed.get_or_insert(error);
            self.changed.notify_all();
        }
    }

    fn flush(&self) -> Result<()> {
        self.chain.top().layer.flush()
    }

    fn check(&self, offset: u64) -> Result<()> {
        match offset.checked_add(self.bench.size as u64) {
            Some(end) if end <= self.chain.size() => Ok(()),
            _ => Err(Error::os(libc::EIO)),
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(offset)?;
        self.chain.read(offset, buffer)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check(offset)?;
        self.chain.write(offset, bytes)?;
        if self.bench.writethrough { self.flush() } else { Ok(()) }
    }
}
