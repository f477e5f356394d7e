//! Cutting the work into tasks.
//!
//! One cursor runs over the source and hands out windows of at most 2 MiB that start and end on borders of the target's
//! clusters, so that no two tasks share a cluster. It asks for extents as it goes, never for the whole disk: a disk of
//! 16 TiB of holes costs a few calls and no memory.

use super::source::{Found, Source, Status};
use crate::error::{Context, Result};
use crate::image::{ChainExtent, Extent, ExtentKind};
use crate::units::{MIB, SECTOR, align_down};

/// The length of a window, and of one read, in bytes.
pub const WINDOW: u64 = 2 * MIB;
/// How much of a long run without payload (zeros to write, ranges that the kernel copies) one task takes, in bytes.
const LONG: u64 = 1 << 30;
/// How far an extent is followed at most, in bytes, so that no call takes long.
const ASK: u64 = 64 << 30;

/// What a task does with a part of its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    /// Read it, look for zeros, write the rest.
    Data {
        /// The extent to read out of; `None` to ask again (ranges that had to be merged into a whole cluster).
        extent: Option<ChainExtent>,
        /// Guest offset named in messages: where the read starts that this belongs to.
        origin: u64,
    },
    /// Have the kernel copy it, all of it.
    Offload(ChainExtent),
    /// Make it read as zeros.
    Zero,
    /// It reads as zeros already.
    Blank,
    /// The backing file of the target has it.
    Keep,
}

/// A part of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Guest offset.
    pub guest: u64,
    /// Length in bytes, at least 1.
    pub len: u64,
    /// The part of the source it lies in.
    pub part: usize,
    /// What to do.
    pub kind: ItemKind,
}

impl Item {
    /// Guest offset of the first byte behind it.
    pub fn end(&self) -> u64 {
        self.guest + self.len
    }
}

/// One piece of work. Its items follow each other without gaps.
#[derive(Debug, Default)]
pub struct Task {
    /// Number of the task, from 0, without gaps.
    pub index: u64,
    /// The items in guest order.
    pub items: Vec<Item>,
}

impl Task {
    /// Guest offset of the first byte.
    pub fn start(&self) -> u64 {
        self.items.first().map_or(0, |item| item.guest)
    }

    /// Guest offset of the first byte behind it.
    pub fn end(&self) -> u64 {
        self.items.last().map_or(0, Item::end)
    }

    /// The items whose bytes have to be moved.
    pub fn moved(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| matches!(item.kind, ItemKind::Data { .. } | ItemKind::Offload(_)))
    }

    /// Bytes that have to be moved.
    pub fn payload(&self) -> u64 {
        self.moved().map(|item| item.len).sum()
    }

    /// Whether bytes have to pass through memory.
    pub fn is_buffered(&self) -> bool {
        self.items.iter().any(|item| matches!(item.kind, ItemKind::Data { .. }))
    }
}

/// What a plan has to know about source and target besides the extents.
#[derive(Clone, Copy, Debug)]
pub struct PlanRules {
    /// The target's cluster size (or subcluster size, whatever must not be shared) in bytes, a power of two.
    pub cluster: u64,
    /// Clusters are written whole or not at all (compression).
    pub whole_clusters: bool,
    /// From this guest offset on the target reads as zeros already: 0, the end of its backing file, or `u64::MAX`.
    pub blank_from: u64,
    /// Zeros are to be written like data (`-S 0`).
    pub zeros_are_data: bool,
    /// Errors while asking for extents are warned about, and the range is read all the same.
    pub salvage: bool,
    /// There are tasks for every byte, also where there is nothing to do: somebody looks at all of them.
    pub everything: bool,
}

/// A status that holds for more than was asked for yet.
#[derive(Clone, Copy, Debug)]
struct Known {
    start: u64,
    end: u64,
    found: Found,
}

/// The cursor. See the module documentation.
#[derive(Debug)]
pub struct Plan<'a> {
    source: &'a Source<'a>,
    rules: PlanRules,
    cursor: u64,
    index: u64,
    known: Option<Known>,
    warnings: Vec<String>,
    /// What images announced about themselves since they were last asked for.
    notices: Vec<String>,
}

impl<'a> Plan<'a> {
    /// A plan for all of `source`.
    pub fn new(source: &'a Source<'a>, rules: PlanRules) -> Self {
        Plan { source, rules, cursor: 0, index: 0, known: None, warnings: Vec::new(), notices: Vec::new() }
    }

    /// Warnings since the last call.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Announcements ([`Error::notices`](crate::error::Error::notices)) of errors that only led to warnings, since the last
    /// call.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Fills in the next task; `false` when there is nothing left to do. `offload` says whether the kernel may copy an
    /// extent of a part by itself.
    pub fn next(&mut self, task: &mut Task, offload: impl Fn(usize, &ChainExtent) -> bool) -> Result<bool> {
        let size = self.source.size();
        while self.cursor < size {
            let start = self.cursor;
            let window = WINDOW.max(self.rules.cluster);
            let end = (align_down(start, window) + window).min(size);
            task.items.clear();
            let mut at = start;
            while at < end {
                let known = self.status(at, end)?;
                let len = known.end.min(end) - at;
                self.add(task, at, len, &known, &offload);
                at += len;
            }
            self.cursor = end;
            self.extend(task, window);
            if self.rules.whole_clusters {
                make_whole(&mut task.items, self.rules.cluster);
            }
            if self.rules.everything
                || task.items.iter().any(|item| !matches!(item.kind, ItemKind::Blank | ItemKind::Keep))
            {
                task.index = self.index;
                self.index += 1;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lets a window that is all one long run without payload grow along the run.
    fn extend(&mut self, task: &mut Task, window: u64) {
        let (Some(known), [item]) = (self.known, &mut task.items[..]) else { return };
        let limit = match item.kind {
            ItemKind::Data { .. } => return,
            ItemKind::Zero | ItemKind::Offload(_) => LONG,
            ItemKind::Blank | ItemKind::Keep if self.rules.everything => LONG,
            ItemKind::Blank | ItemKind::Keep => u64::MAX,
        };
        let mut end = known.end.min(item.guest.saturating_add(limit));
        if item.guest < self.rules.blank_from {
            // Zeros are something else on the two sides of this border.
            end = end.min(self.rules.blank_from);
        }
        // A rest shorter than a window gets a window of its own.
        end = align_down(end, window);
        if end > self.cursor {
            item.len = end - item.guest;
            self.cursor = end;
        }
    }

    fn add(
        &self,
        task: &mut Task,
        guest: u64,
        len: u64,
        known: &Known,
        offload: &impl Fn(usize, &ChainExtent) -> bool,
    ) {
        let part = known.found.part;
        let mut push = |guest, len, kind| task.items.push(Item { guest, len, part, kind });
        match known.found.status {
            Status::Inherited => push(guest, len, ItemKind::Keep),
            Status::Zero if self.rules.zeros_are_data => {
                let extent = ChainExtent { depth: 0, extent: Extent { guest, len, kind: ExtentKind::ZERO } };
                push(guest, len, ItemKind::Data { extent: Some(extent), origin: guest });
            }
            Status::Zero => {
                let below = self.rules.blank_from.saturating_sub(guest).min(len);
                if below > 0 {
                    push(guest, below, ItemKind::Zero);
                }
                if below < len {
                    push(guest + below, len - below, ItemKind::Blank);
                }
            }
            Status::Data(extent) if offload(part, &extent) => push(guest, len, ItemKind::Offload(extent)),
            Status::Unknown => push(guest, len, ItemKind::Data { extent: None, origin: guest }),
            Status::Data(extent) => {
                // Reads start where the extent starts and every 2 MiB from there: zeros are looked for in each by itself.
                let (mut at, end) = (guest, guest + len);
                while at < end {
                    let origin = known.start + align_down(at - known.start, WINDOW);
                    let stop = (origin + WINDOW).min(end);
                    push(at, stop - at, ItemKind::Data { extent: Some(extent), origin });
                    at = stop;
                }
            }
        }
    }

    /// What lies at `guest`; asks the source only where that is not known yet.
    fn status(&mut self, guest: u64, end: u64) -> Result<Known> {
        if let Some(known) = self.known
            && (known.start..known.end).contains(&guest)
        {
            return Ok(known);
        }
        let mut len = (self.source.size() - guest).min(ASK);
        let found = loop {
            match self.source.map(guest, len) {
                Ok(found) => break found,
                Err(error) if self.rules.salvage => {
                    if len > SECTOR {
                        len = (len.min(end - guest) / SECTOR).div_ceil(4) * SECTOR;
                        continue;
                    }
                    self.notices.extend_from_slice(error.notices());
                    self.warnings
                        .push(format!("error while reading block status at offset {guest}: {}", error.errno_text()));
                    break Found { part: self.source.part_at(guest), len: SECTOR, status: Status::Unknown };
                }
                Err(error) => {
                    return Err(error).context(|| format!("error while reading block status at offset {guest}"));
                }
            }
        };
        let known = Known { start: guest, end: guest + found.len, found };
        self.known = Some(known);
        Ok(known)
    }
}

/// Turns every cluster that is not of one kind as a whole into data that is read anew.
fn make_whole(items: &mut Vec<Item>, cluster: u64) {
    let end = items.last().map_or(0, Item::end);
    let mut whole: Vec<Item> = Vec::with_capacity(items.len());
    for mut item in items.drain(..) {
        if let Some(last) = whole.last()
            && last.end() > item.guest
        {
            // The cluster before took the head of this one.
            let taken = last.end() - item.guest;
            if taken >= item.len {
                continue;
            }
            item.guest += taken;
            item.len -= taken;
        }
        let tail = item.end() % cluster;
        let body = if item.end() == end { item.len } else { item.len.saturating_sub(tail) };
        if body > 0 {
            whole.push(Item { len: body, ..item });
        }
        if body < item.len {
            let guest = item.guest + body;
            let len = cluster.min(end - guest);
            let kind = ItemKind::Data { extent: None, origin: guest };
            whole.push(Item { guest, len, part: item.part, kind });
        }
    }
    *items = whole;
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
