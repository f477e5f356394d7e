//! The digest of a disk: while it is copied, or by itself.

use super::intake::Intake;
use super::plan::{Item, ItemKind, PlanRules, Task, WINDOW};
use super::source::Source;
use super::walk::{self, Visitor};
use super::{Monitor, Phase};
use crate::digest::{Algorithm, Digest, Sink};
use crate::error::{Context, Result};
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
    monitor.phase(Phase::Digest);
    monitor.total(source.size());
    let rules = PlanRules {
        cluster: 1,
        whole_clusters: false,
        blank_from: 0,
        zeros_are_data: false,
        salvage: false,
        everything: true,
    };
    let reading = Reading { source, digest: Digest::new(algorithm), monitor };
    walk::run(&Intake::new(source, rules, monitor, None), true, workers, &reading)?;
    Ok(reading.digest.finish())
}

struct Reading<'a> {
    source: &'a Source<'a>,
    digest: Digest,
    monitor: &'a dyn Monitor,
}

impl Visitor for Reading<'_> {
    fn visit(&self, task: &Task, window: &mut AlignedBuf) -> Result<()> {
        let window = &*window;
        self.digest.add(task.index, task.start(), &mut |sink| feed(self.source, task, window, sink))?;
        self.monitor.advance(task.end() - task.start());
        self.monitor.reached(task.end(), self.source.size());
        Ok(())
    }

    fn stop(&self) {
        self.digest.stop();
    }

    fn is_stopped(&self) -> bool {
        self.digest.is_stopped()
    }
}
