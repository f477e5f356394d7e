//! The digest of a disk: while it is copied, or by itself.

use std::sync::{Mutex, PoisonError};

use super::Monitor;
use super::plan::{Item, ItemKind, Plan, PlanRules, Task, WINDOW};
use super::source::Source;
use crate::digest::{Algorithm, Digest, Sink};
use crate::error::{Context, Error, Kind, Result};
use crate::storage::AlignedBuf;

/// Passes the bytes of a task on to `sink`. What was loaded is in `window`, which starts with the task; the rest is read.
pub(super) fn feed(source: &Source<'_>, task: &Task, window: &[u8], sink: &mut dyn Sink) -> Result<()> {
    let mut buf = AlignedBuf::new(0);
    for item in &task.items {
        match item.kind {
            ItemKind::Data { .. } => {
                let from = (item.guest - task.start()) as usize;
                sink.bytes(&window[from..from + item.len as usize]);
            }
            ItemKind::Zero | ItemKind::Blank => sink.zeros(item.len),
            // Neither passes through memory on its way.
            ItemKind::Keep | ItemKind::Offload(_) => feed_unread(source, item, &mut buf, sink)?,
        }
    }
    Ok(())
}

fn feed_unread(source: &Source<'_>, item: &Item, buf: &mut AlignedBuf, sink: &mut dyn Sink) -> Result<()> {
    if buf.is_empty() {
        *buf = AlignedBuf::new(WINDOW as usize);
    }
    let extent = match &item.kind {
        ItemKind::Offload(extent) => Some(extent),
        _ => None,
    };
    let mut at = item.guest;
    while at < item.end() {
        // At most the length of the buffer.
        let bytes = &mut buf[..(item.end() - at).min(WINDOW) as usize];
        source.read(item.part, extent, at, bytes).context(|| format!("error while reading at byte {at}"))?;
        sink.bytes(bytes);
        at += bytes.len() as u64;
    }
    Ok(())
}

/// The digest of all of `source`, computed by so many threads.
pub fn run(source: &Source<'_>, algorithm: Algorithm, workers: usize, monitor: &dyn Monitor) -> Result<String> {
    monitor.total(source.size());
    let rules = PlanRules {
        cluster: 1,
        whole_clusters: false,
        blank_from: 0,
        zeros_are_data: false,
        salvage: false,
        everything: true,
    };
    let (plan, failure) = (Mutex::new(Plan::new(source, rules)), Mutex::new(None));
    let run = Run { source, digest: Digest::new(algorithm), plan, failure, monitor };
    std::thread::scope(|scope| {
        // The first worker is this thread; should there be no more, it does everything.
        for _ in 1..workers {
            let _ = std::thread::Builder::new().spawn_scoped(scope, || run.work());
        }
        run.work();
    });
    match run.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(run.digest.finish()),
    }
}

/// What all threads share.
struct Run<'a> {
    source: &'a Source<'a>,
    digest: Digest,
    plan: Mutex<Plan<'a>>,
    /// The error of the earliest task that failed.
    failure: Mutex<Option<(u64, Error)>>,
    monitor: &'a dyn Monitor,
}

impl Run<'_> {
    fn work(&self) {
        let mut task = Task::default();
        if let Err(error) = self.work_through(&mut task) {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            if failure.as_ref().is_none_or(|(index, _)| task.index < *index) {
                *failure = Some((task.index, error));
            }
            drop(failure);
            self.digest.stop();
        }
    }

    fn work_through(&self, task: &mut Task) -> Result<()> {
        let mut window = AlignedBuf::new(WINDOW as usize);
        while self.next(task)? {
            for item in &task.items {
                let ItemKind::Data { extent, origin } = &item.kind else { continue };
                let from = (item.guest - task.start()) as usize;
                let bytes = &mut window[from..from + item.len as usize];
                let read = self.source.read(item.part, extent.as_ref(), item.guest, bytes);
                read.context(|| format!("error while reading at byte {origin}"))?;
            }
            self.digest.add(task.index, task.start(), &mut |sink| feed(self.source, task, &window, sink))?;
            self.monitor.advance(task.end() - task.start());
            self.monitor.reached(task.end(), self.source.size());
        }
        Ok(())
    }

    fn next(&self, task: &mut Task) -> Result<bool> {
        if let Some(signal) = self.monitor.interrupted() {
            return Err(Error::new(Kind::Interrupted(signal)));
        }
        if self.digest.is_stopped() {
            return Ok(false);
        }
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).next(task, |_, _| false)
    }
}
