//! Waiting for images that somebody else holds.

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use super::OpenContext;
use crate::error::{Error, Kind, Result};
use crate::sys::holders::{Holder, LockedByte, held_by_this_process, holders};
use crate::sys::signal;

/// How long the first pause between two attempts is; each is half as long again as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// How long a pause becomes.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// How many holders are named.
const NAMED: usize = 4;

impl OpenContext {
    /// Runs `attempt`, which opens images from scratch, until nobody is in the way or the time is over
    /// ([`OpenContext::lock_timeout`]). Nothing stays open between two attempts: what was read while somebody else was
    /// writing is not to be relied on, and who waits holds nothing that another one waits for.
    ///
    /// A refusal names who holds the image, where the system tells.
    pub(super) fn patiently<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        if self.lock_timeout.is_zero() {
            return attempt().map_err(name_holders);
        }
        // A time that the clock cannot name does not come.
        let end = Instant::now().checked_add(self.lock_timeout);
        self.remember_warnings(true);
        let result = wait(end, &mut attempt);
        self.remember_warnings(false);
        result.map_err(name_holders)
    }
}

fn wait<T>(end: Option<Instant>, attempt: &mut dyn FnMut() -> Result<T>) -> Result<T> {
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match attempt() {
            Err(error) if waiting_may_help(&error) => error,
            result => return result,
        };
        let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Err(error);
        }
        thread::sleep(left.min(uneven(pause)));
        if let Some(signal) = signal::requested() {
            return Err(Error::new(Kind::Interrupted(signal)));
        }
        pause = LONGEST_PAUSE.min(pause * 3 / 2);
    }
}

/// Whether somebody else is in the way; this process would wait for itself.
fn waiting_may_help(error: &Error) -> bool {
    matches!(error.kind(), Kind::Locked { byte: Some(byte), .. } if !held_by_this_process(*byte))
}

/// Between three quarters and five quarters of a pause, so that two who wait do not meet again and again.
fn uneven(pause: Duration) -> Duration {
    let part = u32::try_from(RandomState::new().hash_one(()) % 32).unwrap_or_default();
    pause * (48 + part) / 64
}

/// Adds who is in the way to a refusal.
fn name_holders(error: Error) -> Error {
    let line = match error.kind() {
        Kind::Locked { byte: Some(byte), .. } => holders_line(*byte),
        _ => None,
    };
    match line {
        Some(line) => error.advise(line),
        None => error,
    }
}

/// `The image is held by qemu-nbd (process 1234).`
fn holders_line(byte: LockedByte) -> Option<String> {
    let found = holders(byte);
    if found.is_empty() {
        return None;
    }
    let name = |holder: &Holder| match holder.is_this_process() {
        true => "this command itself".to_owned(),
        false => format!("{} (process {})", holder.command, holder.pid),
    };
    let mut names: Vec<_> = found.iter().take(NAMED).map(name).collect();
    if found.len() > NAMED {
        names.push("others".to_owned());
    }
    Some(format!("The image is held by {}.", names.join(", ")))
}
