//! How far long work is: for people on a terminal, for programs on a pipe, and for whoever sends SIGUSR1.

mod json;

use std::fs::{File, Metadata};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::{Error, Result};
use crate::storage::remove_unfinished;
use crate::sys::{descriptor, signal};
use json::{Count, JsonLines};

pub use json::Ending;

/// What progress shall be shown.
#[derive(Clone, Debug)]
pub enum Form {
    /// None.
    None,
    /// What `-p` shows, on standard output.
    Plain,
    /// The same on standard error.
    PlainOnStderr,
    /// JSON lines on this descriptor, or on standard error.
    Json(Option<Descriptor>),
}

/// An open descriptor to write to.
#[derive(Clone, Debug)]
pub struct Descriptor(Arc<File>);

impl Descriptor {
    /// Whether this leads to the open file that `info` describes.
    fn leads_to(&self, info: &Metadata) -> bool {
        self.0.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (info.dev(), info.ino()))
    }
}

impl Form {
    /// Whether lines for programs would go where `info` describes.
    pub fn writes_into(&self, info: &Metadata) -> bool {
        match self {
            Form::Json(Some(descriptor)) => descriptor.leads_to(info),
            Form::Json(None) => descriptor::duplicate_for_writing(libc::STDERR_FILENO)
                .is_some_and(|file| Descriptor(Arc::new(file)).leads_to(info)),
            Form::None | Form::Plain | Form::PlainOnStderr => false,
        }
    }
}

/// The value of `--progress-fd`. The descriptor is looked at now, before this process opens files that could get its number.
pub fn descriptor(text: &str) -> Result<Descriptor> {
    let number = text.parse().ok().filter(|number| *number >= 0);
    let file = number.and_then(descriptor::duplicate_for_writing);
    file.map(|file| Descriptor(Arc::new(file))).ok_or_else(|| {
        Error::invalid(format!("--progress-fd expects the number of a descriptor open for writing, not '{text}'"))
    })
}

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
    /// Whether somebody has counted the total.
    counted: AtomicBool,
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
    Json(JsonLines),
}

impl std::fmt::Debug for Display {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Display::Off => "Off",
            Display::Lines { .. } => "Lines",
            Display::Bar(_) => "Bar",
            Display::Json(_) => "Json",
        })
    }
}

impl Progress {
    /// Begins: shows the first line if there shall be any, and from now on answers SIGUSR1 on standard error and takes
    /// signals that ask to end the run (see [`signal::watch`]).
    pub fn new(form: Form) -> Result<Self> {
        let display = match form {
            Form::None => Display::Off,
            Form::Plain if io::stdout().is_terminal() => Display::Bar(bar(ProgressDrawTarget::stdout())),
            Form::PlainOnStderr if io::stderr().is_terminal() => Display::Bar(bar(ProgressDrawTarget::stderr())),
            Form::PlainOnStderr => Display::Lines { out: Box::new(io::stderr()), shown: 0.0 },
            Form::Plain => Display::Lines { out: Box::new(io::stdout()), shown: 0.0 },
            Form::Json(out) => Display::Json(JsonLines::new(
                match out {
                    Some(Descriptor(file)) => Box::new(file),
                    None => Box::new(io::stderr()),
                },
                Instant::now(),
            )),
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
        let counted = AtomicBool::new(false);
        Progress { state: Arc::new(State { total, done, next, counted, display: Mutex::new(display) }) }
    }

    /// A new phase of the work begins, which counts anew. Only programs are told.
    pub fn phase(&self, name: &'static str) {
        let state = &*self.state;
        if let Display::Json(lines) = &mut *state.display() {
            lines.phase(name, state.count(), Instant::now());
            state.counted.store(false, Ordering::Relaxed);
            state.total.store(0, Ordering::Relaxed);
            state.done.store(0, Ordering::Relaxed);
            // Until a total is known, that something has been done is news.
            state.next.store(0, Ordering::Relaxed);
        }
    }

    /// Says how many bytes there are to do.
    pub fn set_total(&self, bytes: u64) {
        self.state.total.store(bytes, Ordering::Relaxed);
        self.state.counted.store(true, Ordering::Relaxed);
        self.state.next.store(bytes / 100, Ordering::Relaxed);
        match &*self.state.display() {
            Display::Bar(bar) => {
                bar.set_length(bytes);
                bar.reset_eta();
            }
            Display::Json(_) => self.state.next.store(0, Ordering::Relaxed),
            Display::Off | Display::Lines { .. } => {}
        }
    }

    /// Says that nobody knows how many bytes there are to do.
    pub fn set_total_unknown(&self) {
        let state = &*self.state;
        state.total.store(0, Ordering::Relaxed);
        if let Display::Bar(bar) = &*state.display() {
            bar.unset_length();
            bar.set_style(style("    {bytes} {bytes_per_sec} {elapsed}"));
            state.next.store(0, Ordering::Relaxed);
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

    /// For work whose total nobody has counted: it has got as far as `position` of `size`, which is 0 if nobody knows. Not to be mixed with
    /// [`Progress::advance`] where that is shown.
    pub fn reached(&self, position: u64, size: u64) {
        if self.state.counted.load(Ordering::Relaxed) || size == 0 {
            return;
        }
        self.state.total.store(size, Ordering::Relaxed);
        let done = self.state.done.fetch_max(position, Ordering::Relaxed).max(position);
        if done >= self.state.next.load(Ordering::Relaxed) {
            self.state.show();
        }
    }

    /// The work is over.
    pub fn finish(&self, ending: Ending) {
        let count = self.state.count();
        let success = matches!(ending, Ending::Done | Ending::FailedAtEnd);
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
            Display::Json(mut lines) => lines.end(count, ending, Instant::now()),
        }
    }
}

impl Drop for Progress {
    /// Work that was not finished has failed. Does nothing after [`Progress::finish`].
    fn drop(&mut self) {
        self.finish(Ending::Failed);
    }
}

impl State {
    fn display(&self) -> std::sync::MutexGuard<'_, Display> {
        self.display.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> Count {
        let total = Some(self.total.load(Ordering::Relaxed));
        let total = total.filter(|total| *total > 0 || self.counted.load(Ordering::Relaxed));
        Count { done: self.done.load(Ordering::Relaxed), total }
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
                let done = self.done.load(Ordering::Relaxed);
                bar.set_position(if bar.length().is_some() { done.min(total) } else { done });
                // The bar itself limits how often it is drawn.
                self.next.store(0, Ordering::Relaxed);
            }
            Display::Json(lines) => {
                lines.show(self.count(), Instant::now());
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

fn bar(place: ProgressDrawTarget) -> ProgressBar {
    ProgressBar::with_draw_target(Some(0), place)
        .with_style(style("    ({percent_precise}/100%) [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}"))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).map_or_else(|_| ProgressStyle::default_bar(), |s| s.progress_chars("=> "))
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
