//! How far long work is: for people on a terminal, for programs on a pipe, and for whoever sends SIGUSR1.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::Result;
use crate::storage::remove_unfinished;
use crate::sys::signal;

/// The progress of one run. May be used from many threads.
///
/// Programs parse what a pipe gets (`    (12.34/100%)` and a carriage return, each in one write), so it is exactly what
/// the reference writes: a line at the start, one whenever more than a hundredth has been done since the last, and a
/// line feed at the end, also after a failure.
#[derive(Debug)]
pub struct Progress {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes to do; 0 until it is known.
    total: AtomicU64,
    done: AtomicU64,
    /// From so many bytes on there is something new to show.
    next: AtomicU64,
    display: Mutex<Display>,
}

/// Where progress is shown.
enum Display {
    Off,
    /// The reference's lines, and the percentage of the last one.
    Lines {
        out: Box<dyn Write + Send>,
        shown: f64,
    },
    Bar(ProgressBar),
}

impl std::fmt::Debug for Display {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Display::Off => "Off",
            Display::Lines { .. } => "Lines",
            Display::Bar(_) => "Bar",
        })
    }
}

impl Progress {
    /// Begins: shows the first line if `enabled`, and from now on answers SIGUSR1 on standard error and takes signals
    /// that ask to end the run (see [`signal::watch`]).
    pub fn new(enabled: bool) -> Result<Self> {
        let display = if !enabled {
            Display::Off
        } else if io::stdout().is_terminal() {
            Display::Bar(bar())
        } else {
            Display::Lines { out: Box::new(io::stdout()), shown: 0.0 }
        };
        let progress = Progress::on(display);
        let state = Arc::clone(&progress.state);
        let report = move || {
            let _ = io::stderr().write_all(format!("    ({:.2}/100%)\n", state.percent()).as_bytes());
        };
        signal::watch(report, remove_unfinished)?;
        Ok(progress)
    }

    fn on(mut display: Display) -> Self {
        if let Display::Lines { out, .. } = &mut display {
            write_line(out, 0.0);
        }
        let (total, done, next) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Progress { state: Arc::new(State { total, done, next, display: Mutex::new(display) }) }
    }

    /// Says how many bytes there are to do.
    pub fn set_total(&self, bytes: u64) {
        self.state.total.store(bytes, Ordering::Relaxed);
        self.state.next.store(bytes / 100, Ordering::Relaxed);
        if let Display::Bar(bar) = &*self.state.display() {
            bar.set_length(bytes);
            bar.reset_eta();
        }
    }

    /// So many bytes more are done.
    pub fn advance(&self, bytes: u64) {
        let state = &*self.state;
        let done = state.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if done >= state.next.load(Ordering::Relaxed) {
            state.show();
        }
    }

    /// For work whose total nobody has counted: it has got as far as `position` of `size`.
    pub fn reached(&self, position: u64, size: u64) {
        self.state.total.store(size, Ordering::Relaxed);
        self.state.done.fetch_max(position, Ordering::Relaxed);
    }

    /// The work is over, with success or without.
    pub fn finish(&self, success: bool) {
        if success {
            let total = self.state.total.load(Ordering::Relaxed).max(1);
            self.state.total.store(total, Ordering::Relaxed);
            self.state.done.store(total, Ordering::Relaxed);
        }
        // Whoever advances late has nothing to show any more.
        self.state.next.store(u64::MAX, Ordering::Relaxed);
        match std::mem::replace(&mut *self.state.display(), Display::Off) {
            Display::Off => {}
            Display::Lines { mut out, .. } => {
                if success {
                    write_line(&mut out, 100.0);
                }
                let _ = out.write_all(b"\n").and_then(|()| out.flush());
            }
            Display::Bar(bar) if success => bar.finish(),
            Display::Bar(bar) => bar.abandon(),
        }
    }
}

impl Drop for Progress {
    /// Work that was not finished has failed. Does nothing after [`Progress::finish`].
    fn drop(&mut self) {
        self.finish(false);
    }
}

impl State {
    fn display(&self) -> std::sync::MutexGuard<'_, Display> {
        self.display.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn percent(&self) -> f64 {
        let total = self.total.load(Ordering::Relaxed);
        let done = self.done.load(Ordering::Relaxed);
        if total == 0 { 0.0 } else { (done as f64 / total as f64 * 100.0).min(100.0) }
    }

    /// Shows how far the work is, unless another thread has just done so.
    fn show(&self) {
        let mut display = self.display();
        let total = self.total.load(Ordering::Relaxed);
        match &mut *display {
            Display::Off => self.next.store(u64::MAX, Ordering::Relaxed),
            Display::Bar(bar) => {
                bar.set_position(self.done.load(Ordering::Relaxed).min(total));
                // The bar itself limits how often it is drawn.
                self.next.store(0, Ordering::Relaxed);
            }
            Display::Lines { out, shown } => {
                let percent = self.percent();
                if percent > *shown + 1.0 || (percent >= 100.0 && *shown < 100.0) {
                    write_line(out, percent);
                    *shown = percent;
                }
                let next = (*shown + 1.0) / 100.0 * total as f64;
                self.next.store((next as u64).min(total), Ordering::Relaxed);
                if *shown >= 100.0 {
                    self.next.store(u64::MAX, Ordering::Relaxed);
                }
            }
        }
    }
}

/// A whole update in one write. That nobody reads it is not the work's problem.
fn write_line(out: &mut impl Write, percent: f64) {
    let line = format!("    ({percent:.2}/100%)\r");
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

fn bar() -> ProgressBar {
    let style = "    ({percent_precise}/100%) [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style =
        ProgressStyle::with_template(style).map_or_else(|_| ProgressStyle::default_bar(), |s| s.progress_chars("=> "));
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stdout()).with_style(style)
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
