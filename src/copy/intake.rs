//! Where workers get what they do: tasks in the order of the disk, and the bytes that belong to them.
//!
//! Most sources are disks, of which a [`Plan`] cuts pieces that are read later, by several workers at once. A stream is read
//! by whoever asks for the next task, into that worker's own memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Monitor;
use super::plan::{Item, ItemKind, Plan, PlanRules, Task, WINDOW};
use super::rate::{Rate, RateLimit};
use super::source::Source;
use crate::error::{Context, Error, Kind, Result};
use crate::image::ChainExtent;
use crate::storage::{AlignedBuf, InputStream};
use crate::units::SECTOR;

/// See the module documentation.
pub(super) struct Intake<'a> {
    source: &'a Source<'a>,
    monitor: &'a dyn Monitor,
    rules: PlanRules,
    rate: Option<RateLimit>,
    next: Mutex<Next<'a>>,
    /// Whether an image has announced that it contradicts itself.
    announced: AtomicBool,
}

enum Next<'a> {
    Disk(Plan<'a>),
    Stream {
        stream: &'a InputStream,
        /// Number of the next task.
        index: u64,
    },
}

impl<'a> Intake<'a> {
    /// All of `source`, at most so many bytes per second.
    pub fn new(source: &'a Source<'a>, rules: PlanRules, monitor: &'a dyn Monitor, rate: Option<Rate>) -> Self {
        let next = match source.stream() {
            Some(stream) => Next::Stream { stream, index: 0 },
            None => Next::Disk(Plan::new(source, rules)),
        };
        let (next, announced) = (Mutex::new(next), AtomicBool::new(false));
        Intake { source, monitor, rules, rate: rate.map(RateLimit::new), next, announced }
    }

    /// Fills in the next task, and `window` if the source is a stream; `false` when there is nothing left to do. `offload` as
    /// in [`Plan::next`].
    pub fn next(
        &self,
        task: &mut Task,
        window: &mut AlignedBuf,
        offload: impl Fn(usize, &ChainExtent) -> bool,
    ) -> Result<bool> {
        check_interrupt(self.monitor)?;
        match &mut *self.next.lock().unwrap_or_else(PoisonError::into_inner) {
            Next::Disk(plan) => {
                let more = plan.next(task, offload);
                self.announce(&plan.take_notices());
                for warning in plan.take_warnings() {
                    self.monitor.warn(&warning);
                }
                more
            }
            Next::Stream { stream, index } => {
                if (window.len() as u64) < WINDOW {
                    *window = AlignedBuf::new(WINDOW as usize);
                }
                let part = stream.read(&mut window[..WINDOW as usize])?;
                if part.len == 0 {
                    self.monitor.total(part.start);
                    return Ok(false);
                }
                let kind = ItemKind::Data { extent: None, origin: part.start };
                task.items = vec![Item { guest: part.start, len: part.len as u64, part: 0, kind }];
                task.index = *index;
                *index += 1;
                Ok(true)
            }
        }
    }

    /// Passes on what an image announces about itself; once is enough, as it says itself.
    fn announce(&self, notices: &[String]) {
        if let Some(notice) = notices.first()
            && !self.announced.swap(true, Ordering::Relaxed)
        {
            self.monitor.notice(notice);
        }
    }

    /// Reads an item that is data; with `--salvage`, sector by sector where the whole cannot be read.
    pub fn read(&self, item: &Item, bytes: &mut [u8]) -> Result<()> {
        let ItemKind::Data { extent, origin } = &item.kind else { return Ok(()) };
        if self.source.stream().is_some() {
            return Ok(());
        }
        let read = |guest: u64, bytes: &mut [u8]| match extent {
            Some(_) => self.source.read(item.part, extent.as_ref(), guest, bytes),
            None => self.source.read_across(guest, bytes),
        };
        match read(item.guest, bytes) {
            Err(_) if self.rules.salvage => {}
            result => return result.context(|| format!("error while reading at byte {origin}")),
        }
        for (sector, part) in (item.guest..).step_by(SECTOR as usize).zip(bytes.chunks_mut(SECTOR as usize)) {
            if let Err(error) = read(sector, part) {
                let offset = sector - self.source.part(item.part).start;
                self.announce(error.notices());
                self.monitor.warn(&format!("error while reading offset {offset}: {}", error.errno_text()));
                part.fill(0);
            }
        }
        Ok(())
    }

    /// Waits until the bytes of the task may be moved, or the work is to end early. Each of its items is a request.
    pub fn throttle(&self, task: &Task, stopped: impl Fn() -> bool) -> Result<()> {
        let Some(rate) = &self.rate else { return Ok(()) };
        for item in task.moved() {
            let now = Instant::now();
            let until = now + rate.claim(item.len, now);
            loop {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() || stopped() {
                    break;
                }
                check_interrupt(self.monitor)?;
                std::thread::sleep(left.min(Duration::from_millis(50)));
            }
        }
        Ok(())
    }
}

/// An error if a signal asks this run to end.
pub(super) fn check_interrupt(monitor: &dyn Monitor) -> Result<()> {
    match monitor.interrupted() {
        Some(signal) => Err(Error::new(Kind::Interrupted(signal))),
        None => Ok(()),
    }
}
