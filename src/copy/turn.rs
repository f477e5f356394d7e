//! Workers take turns, in the order of their tasks, to place what they hold: so the layout of the target does not depend on
//! who was faster. The turn is short; reading before it and writing after it run in parallel.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// Whose turn it is. See the module documentation.
#[derive(Debug, Default)]
pub struct Turn {
    next: Mutex<u64>,
    moved: Condvar,
    stopped: AtomicBool,
}

impl Turn {
    /// Waits until it is the turn of task `index`. `false` means that the run has been stopped instead.
    pub fn wait(&self, index: u64) -> bool {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        while *next != index && !self.is_stopped() {
            next = self.moved.wait(next).unwrap_or_else(PoisonError::into_inner);
        }
        !self.is_stopped()
    }

    /// Ends the turn of task `index`.
    pub fn pass(&self, index: u64) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        debug_assert_eq!(*next, index, "only the one whose turn it is can pass it on");
        *next = index + 1;
        self.moved.notify_all();
    }

    /// Ends the run: everybody who waits or will wait returns at once.
    pub fn stop(&self) {
        // Under the lock, so that nobody can have looked at the flag and not yet be waiting.
        let _next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        self.stopped.store(true, Ordering::Release);
        self.moved.notify_all();
    }

    /// Whether the run has been stopped.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

#[cfg(test)]
#[path = "turn_tests.rs"]
mod tests;
