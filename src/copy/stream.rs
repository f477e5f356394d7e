//! Copying into an image that is written as a stream.
//!
//! Two passes. The first finds out where the source has data, from its extents alone unless zeros are to be looked for
//! (`-S`), so that the image can be laid out; the second reads the source once, by several threads, which take turns to
//! write. Memory is what the layout takes and one window a thread.

use std::sync::{Mutex, PoisonError};

use super::intake::Intake;
use super::plan::{Item, ItemKind, PlanRules, Task, WINDOW};
use super::rate::Rate;
use super::scan::{SparseRule, is_zero};
use super::source::Source;
use super::turn::Turn;
use super::walk::{self, Visitor};
use super::{Monitor, Phase, digest};
use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::image::{Chain, Edit, EditKind, Layout, Range, StreamImage};
use crate::storage::AlignedBuf;
use crate::units::align_up;

/// One copy.
#[derive(Clone, Copy)]
pub struct StreamJob<'a> {
    /// What is copied.
    pub source: &'a Source<'a>,
    /// What the image will lie on.
    pub backing: Option<&'a Chain>,
    /// Number of workers; at least 1.
    pub workers: usize,
    /// Zeros are looked for in data, too, in runs of at least so many bytes. With 0 all zeros are written like data, also where
    /// the source has none stored.
    pub sparse: Option<u64>,
    /// Write zeros where the source cannot be read.
    pub salvage: bool,
    /// Bytes per second at most.
    pub rate: Option<Rate>,
    /// Who watches.
    pub monitor: &'a dyn Monitor,
    /// What computes the digest of the source on the way.
    pub digest: Option<&'a Digest>,
}

/// Copies, and writes all of `image`.
pub fn run(job: &StreamJob<'_>, image: &mut dyn StreamImage) -> Result<()> {
    let monitor = job.monitor;
    let is_stream = job.source.stream().is_some();
    let payload = if is_stream || !(image.is_laid_out() || monitor.wants_total()) {
        0
    } else {
        monitor.phase(Phase::Scan);
        announce(job, image)?
    };
    image.begin()?;
    monitor.phase(Phase::Copy);
    if is_stream {
        monitor.total_unknown();
    } else if monitor.wants_total() {
        monitor.total(if job.digest.is_some() { job.source.size() } else { payload });
    }
    let intake = Intake::new(job.source, job.rules(image.granule(), job.digest.is_some()), monitor, job.rate);
    let writing = Writing { job, image: &*image, turn: Turn::default() };
    walk::run(&intake, true, job.workers, &writing)?;
    image.finish()
}

impl StreamJob<'_> {
    fn rules(&self, cluster: u64, everything: bool) -> PlanRules {
        PlanRules {
            cluster,
            whole_clusters: false,
            blank_from: self.backing.map_or(0, Chain::size),
            zeros_are_data: self.sparse == Some(0),
            salvage: self.salvage,
            everything,
        }
    }
}

/// Tells the image what it will get. Returns how many bytes will be read.
fn announce(job: &StreamJob<'_>, image: &mut dyn StreamImage) -> Result<u64> {
    let granule = image.granule();
    let monitor = OnlySignals(job.monitor);
    let rules = job.rules(granule, false);
    let intake = Intake::new(job.source, rules, &monitor, None);
    let sparse = job.sparse.filter(|min| *min > 0 && image.is_laid_out());
    // Only whole granules can be left out.
    let rule = sparse.map(|min| SparseRule { unit: granule, min: min.min(granule) });
    let survey =
        Survey { rule, granule, blank_from: rules.blank_from, image: Mutex::new((image, 0)), turn: Turn::default() };
    walk::run(&intake, sparse.is_some(), if sparse.is_some() { job.workers } else { 1 }, &survey)?;
    Ok(survey.image.into_inner().unwrap_or_else(PoisonError::into_inner).1)
}

/// The first pass.
struct Survey<'a> {
    rule: Option<SparseRule>,
    granule: u64,
    blank_from: u64,
    /// The image, and how many bytes will be read.
    image: Mutex<(&'a mut dyn StreamImage, u64)>,
    turn: Turn,
}

impl Visitor for Survey<'_> {
    fn visit(&self, task: &Task, window: &mut AlignedBuf) -> Result<()> {
        let mut edits = Vec::new();
        for item in &task.items {
            let Item { guest, len, .. } = *item;
            let kind = match item.kind {
                ItemKind::Keep => EditKind::Keep,
                ItemKind::Blank => EditKind::Blank,
                ItemKind::Zero => EditKind::Zero,
                ItemKind::Data { .. } | ItemKind::Offload(_) => EditKind::Data,
            };
            match self.rule.filter(|_| kind == EditKind::Data) {
                Some(rule) => {
                    let from = (guest - task.start()) as usize;
                    let zero = if guest >= self.blank_from { EditKind::Blank } else { EditKind::Zero };
                    rule.split(guest, &window[from..from + len as usize], zero, &mut edits);
                }
                None => edits.push(Edit { guest, len, kind }),
            }
        }
        let layout = Layout::new(&edits, self.granule);
        if self.turn.wait(task.index) {
            let mut image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
            image.0.announce(&layout);
            image.1 += task.payload();
            self.turn.pass(task.index);
        }
        Ok(())
    }

    fn stop(&self) {
        self.turn.stop();
    }

    fn is_stopped(&self) -> bool {
        self.turn.is_stopped()
    }
}

/// The second pass.
struct Writing<'a> {
    job: &'a StreamJob<'a>,
    image: &'a dyn StreamImage,
    turn: Turn,
}

impl Writing<'_> {
    /// Whether the task is written out of its window. Long runs of zeros are not: they are written with whatever comes next.
    fn is_written(&self, task: &Task) -> bool {
        let range = Range { guest: task.start(), len: task.end() - task.start() };
        task.is_buffered() || (range.len <= WINDOW && !self.image.places(range).is_empty())
    }

    /// Completes the window: what the task does not read, up to the end of the last granule.
    fn complete(&self, task: &Task, window: &mut [u8]) -> Result<()> {
        let start = task.start();
        for item in &task.items {
            let range = Range { guest: item.guest, len: item.len };
            let bytes = &mut window[(item.guest - start) as usize..(item.end() - start) as usize];
            match item.kind {
                ItemKind::Data { .. } | ItemKind::Offload(_) => self.check_unplaced(range, bytes)?,
                ItemKind::Zero | ItemKind::Blank => bytes.fill(0),
                ItemKind::Keep => {
                    let Some(backing) = self.job.backing else { continue };
                    for part in self.image.places(range) {
                        let from = (part.guest - item.guest) as usize;
                        let read = backing.read(part.guest, &mut bytes[from..from + part.len as usize]);
                        read.context(|| format!("error while reading at byte {}", part.guest))?;
                    }
                }
            }
        }
        window[(task.end() - start) as usize..].fill(0);
        Ok(())
    }

    /// What has no place must read as zeros.
    fn check_unplaced(&self, range: Range, bytes: &[u8]) -> Result<()> {
        let places = self.image.places(range);
        let ends = places.iter().map(Range::end);
        let starts = places.iter().map(|place| place.guest).chain([range.end()]);
        for (from, to) in std::iter::once(range.guest).chain(ends).zip(starts) {
            if from < to && !is_zero(&bytes[(from - range.guest) as usize..(to - range.guest) as usize]) {
                return Err(Error::invalid(format!("The source has changed at byte {from} while it was read")));
            }
        }
        Ok(())
    }
}

impl Visitor for Writing<'_> {
    fn visit(&self, task: &Task, window: &mut AlignedBuf) -> Result<()> {
        let job = self.job;
        if let Some(digest) = job.digest {
            let window = &*window;
            digest.add(task.index, task.start(), &mut |sink| digest::feed(job.source, task, window, sink))?;
        }
        let written = self.is_written(task);
        let end = align_up(task.end(), self.image.granule()).unwrap_or(u64::MAX);
        if written {
            // Windows start and end on borders of granules, and a granule is never longer than a window.
            let bytes = &mut window[..(end - task.start()) as usize];
            self.complete(task, bytes)?;
            self.image.encode(task.start(), bytes)?;
        }
        if self.turn.wait(task.index) {
            if written {
                self.image.write(task.start(), &window[..(end - task.start()) as usize])?;
            }
            self.turn.pass(task.index);
            let all = job.digest.is_some();
            job.monitor.advance(if all { task.end() - task.start() } else { task.payload() });
            job.monitor.reached(task.end(), job.source.size());
        }
        Ok(())
    }

    fn stop(&self) {
        self.turn.stop();
        if let Some(digest) = self.job.digest {
            digest.stop();
        }
    }

    fn is_stopped(&self) -> bool {
        self.turn.is_stopped()
    }
}

/// What goes wrong in the first pass is told by the second.
struct OnlySignals<'a>(&'a dyn Monitor);

impl Monitor for OnlySignals<'_> {
    fn interrupted(&self) -> Option<i32> {
        self.0.interrupted()
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
