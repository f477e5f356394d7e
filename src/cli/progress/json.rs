//! Progress for programs: one JSON object a line.

use std::collections::VecDeque;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How often a line is written at most, besides the first line of a phase and the last of all.
const PAUSE: Duration = Duration::from_millis(100);
/// Over how much of the past the rate is taken.
const RECENT: Duration = Duration::from_secs(5);

/// How the work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All of it is done.
    Done,
    /// It ended before its end, as it should: there was nothing more to find out.
    Stopped,
    /// It failed.
    Failed,
    /// It failed, and per cents say 100 all the same.
    FailedAtEnd,
}

impl Ending {
    /// The ending of work with this result.
    pub fn of<T, E>(result: &Result<T, E>) -> Ending {
        if result.is_ok() { Ending::Done } else { Ending::Failed }
    }

    fn name(self) -> &'static str {
        match self {
            Ending::Done | Ending::Stopped => "done",
            Ending::Failed | Ending::FailedAtEnd => "failed",
        }
    }
}

/// How far the work is, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub done: u64,
    /// `None` while nobody knows.
    pub total: Option<u64>,
}

/// Writes the lines.
pub(super) struct JsonLines {
    out: Box<dyn Write + Send>,
    phase: &'static str,
    start: Instant,
    /// When the last line was written.
    written: Option<Instant>,
    /// How much was done at some moments in the last few seconds, the oldest first.
    recent: VecDeque<(Instant, u64)>,
    /// Where the first phase that moved bytes got to: what the last line tells.
    moved: Option<Count>,
}

impl JsonLines {
    pub fn new(out: Box<dyn Write + Send>, now: Instant) -> Self {
        let recent = VecDeque::from([(now, 0)]);
        JsonLines { out, phase: "start", start: now, written: None, recent, moved: None }
    }

    /// A phase begins; the one before it got as far as `before`.
    pub fn phase(&mut self, name: &'static str, before: Count, now: Instant) {
        self.keep(before);
        self.phase = name;
        self.recent = VecDeque::from([(now, 0)]);
        self.write(Count::default(), now);
    }

    fn keep(&mut self, count: Count) {
        if count.total.is_some() || count.done > 0 {
            self.moved.get_or_insert(count);
        }
    }

    /// A line, unless there has just been one.
    pub fn show(&mut self, count: Count, now: Instant) {
        if self.written.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            return;
        }
        self.recent.push_back((now, count.done));
        while self.recent.len() > 2 && now.saturating_duration_since(self.recent[0].0) > RECENT {
            self.recent.pop_front();
        }
        self.write(count, now);
    }

    /// The last line: what was done in all, how long it took, and how fast that was on average.
    pub fn end(&mut self, count: Count, ending: Ending, now: Instant) {
        self.keep(count);
        let count = self.moved.unwrap_or_default();
        let rate = rate(count.done, now.saturating_duration_since(self.start));
        let left = if ending.name() == "failed" { Value::Null } else { json!(0) };
        self.line(ending.name(), count, rate, left, now);
    }

    fn write(&mut self, count: Count, now: Instant) {
        self.written = Some(now);
        let rate = self
            .recent
            .front()
            .and_then(|(then, done)| rate(count.done.saturating_sub(*done), now.saturating_duration_since(*then)));
        let left = match (count.total, rate) {
            (Some(total), Some(rate)) if rate > 0 => json!(total.saturating_sub(count.done).div_ceil(rate)),
            _ => Value::Null,
        };
        self.line(self.phase, count, rate, left, now);
    }

    /// A whole line in one write. That nobody reads it is not the work's problem.
    fn line(&mut self, phase: &str, count: Count, rate: Option<u64>, left: Value, now: Instant) {
        let seconds = now.saturating_duration_since(self.start).as_secs_f64();
        let line = json!({
            "phase": phase,
            "bytes-done": count.total.map_or(count.done, |total| count.done.min(total)),
            "bytes-total": count.total,
            "bytes-per-second": rate,
            "seconds-left": left,
            "seconds": (seconds * 1000.0).round() / 1000.0,
        });
        let _ = self.out.write_all(format!("{line}\n").as_bytes()).and_then(|()| self.out.flush());
    }
}

/// Bytes per second; `None` where no time has passed.
fn rate(bytes: u64, time: Duration) -> Option<u64> {
    let seconds = time.as_secs_f64();
    // Less than a millisecond says nothing about the next second. A float becomes the nearest number that fits.
    (seconds >= 0.001).then(|| (bytes as f64 / seconds) as u64)
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
