//! The workers of a copy.

use std::sync::{Mutex, PoisonError};

use super::intake::{Intake, check_interrupt};
use super::offload::{Offload, Span};
use super::plan::{Item, ItemKind, Plan, PlanRules, Task, WINDOW};
use super::scan::{SparseRule, split_differences};
use super::turn::Turn;
use super::{Job, OffloadMode, Phase, TargetState, digest, pack};
use crate::error::{Context, Error, Result};
use crate::image::{
    ChainExtent, Compressor, Edit, EditKind, ExtentKind, Layer, Layout, Payload, Pending, Piece, Preallocation, Range,
    Resize, ZeroFlags, write_payload,
};
use crate::storage::AlignedBuf;
use crate::sys;
use crate::units::{GIB, SECTOR, align_down, align_up};

/// Runs shorter than this are not worth a system call of their own to reserve them, in bytes.
const RESERVE_MIN: u64 = 64 << 10;

/// What all workers share.
pub(super) struct Shared<'a> {
    job: Job<'a>,
    layer: &'a dyn Layer,
    intake: Intake<'a>,
    turn: Turn,
    /// Whether the order of placing matters.
    ordered: bool,
    offload: Offload,
    /// Held by whoever makes the target larger.
    growing: Mutex<()>,
    /// Blocks of the target are reserved just ahead of writing them.
    reserve: bool,
    /// `None` where everything is written.
    sparse: Option<SparseRule>,
    /// The error of the earliest task that failed.
    failure: Mutex<Option<(u64, Error)>>,
}

pub(super) fn run(job: Job<'_>) -> Result<()> {
    let layer = &*job.target.top().layer;
    let limits = layer.limits();
    let rules = PlanRules {
        cluster: limits.cluster.max(limits.granule),
        whole_clusters: job.options.compress.is_some(),
        blank_from: match job.options.target {
            TargetState::Zero => 0,
            TargetState::Backed { zero_from } => zero_from,
            TargetState::Mapped | TargetState::Unknown => u64::MAX,
        },
        zeros_are_data: job.options.min_sparse == 0,
        salvage: job.options.salvage,
        everything: job.digest.is_some(),
    };
    if job.source.stream().is_some() {
        job.monitor.phase(Phase::Copy);
        job.monitor.total_unknown();
    } else if job.monitor.wants_total() {
        job.monitor.phase(Phase::Scan);
        let bytes = total(&job, rules)?;
        job.monitor.phase(Phase::Copy);
        job.monitor.total(bytes);
    }
    let storage = layer.data_storage();
    let alignment = storage.limits().alignment.max(SECTOR);
    // What the kernel copies arrives as it is.
    let plain = job.options.compress.is_none() && !layer.info()?.encrypted;
    let shared = Shared {
        job,
        layer,
        intake: Intake::new(job.source, rules, job.monitor, job.options.rate),
        turn: Turn::default(),
        ordered: job.options.in_order && limits.cluster > 1,
        offload: Offload::new(if plain { job.options.offload } else { OffloadMode::Never }, storage),
        growing: Mutex::new(()),
        reserve: storage.fd().is_some_and(|fd| sys::fs::file_system(fd) == sys::fs::FileSystem::Ext4),
        sparse: (job.options.min_sparse > 0).then(|| SparseRule::new(job.options.min_sparse, alignment)),
        failure: Mutex::new(None),
    };
    let windows = if job.source.stream().is_some() { u64::MAX } else { job.source.size().div_ceil(WINDOW) };
    let workers = (job.options.workers.max(1) as u64).min(windows);
    if workers <= 1 {
        shared.work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| shared.work());
            }
        });
    }
    match shared.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Bytes that will be moved.
fn total(job: &Job<'_>, rules: PlanRules) -> Result<u64> {
    if job.digest.is_some() {
        return Ok(job.source.size());
    }
    let mut plan = Plan::new(job.source, rules);
    let mut task = Task::default();
    let mut bytes = 0;
    while plan.next(&mut task, |_, _| false)? {
        check_interrupt(job.monitor)?;
        bytes += task.payload();
    }
    Ok(bytes)
}

impl Shared<'_> {
    /// One worker: does tasks until there are none left, or somebody failed.
    fn work(&self) {
        // A panic must not leave the others waiting for a turn that never comes.
        let guard = StopOnPanic(self);
        let mut task = Task::default();
        if let Err(error) = self.work_through(&mut task) {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            if failure.as_ref().is_none_or(|(index, _)| task.index < *index) {
                *failure = Some((task.index, error));
            }
            drop(failure);
            self.stop();
        }
        std::mem::forget(guard);
    }

    /// Nobody shall wait for what will not come.
    fn stop(&self) {
        self.turn.stop();
        if let Some(digest) = self.job.digest {
            digest.stop();
        }
    }

    fn work_through(&self, task: &mut Task) -> Result<()> {
        let mut worker = Worker::new(self)?;
        while !self.turn.is_stopped() {
            let offload = |index: usize, extent: &ChainExtent| {
                let part = self.job.source.part(index);
                self.offload.wants(part.chain, part.start, extent)
            };
            if !self.intake.next(task, &mut worker.buf, offload)? {
                break;
            }
            self.intake.throttle(task, || self.turn.is_stopped())?;
            worker.perform(task)?;
            self.job.monitor.advance(self.job.work_in(task));
            self.job.monitor.reached(task.end(), self.job.source.size());
        }
        Ok(())
    }

    /// Makes a target that grows with its source reach to `end`. Formats with tables grow in large steps, as each costs
    /// something; how large the disk is in the end is settled then.
    fn grow(&self, end: u64) -> Result<()> {
        if !self.job.options.grows {
            let fits = end <= self.layer.size() || self.job.source.stream().is_none();
            return if fits { Ok(()) } else { Err(Error::invalid("output file is smaller than input file")) };
        }
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        if end <= self.layer.size() {
            return Ok(());
        }
        let size = if self.layer.limits().cluster > 1 { end.max(GIB).next_power_of_two() } else { end };
        let blank = || Ok(());
        self.layer.resize(&Resize { size, preallocation: Preallocation::Off, covers_backing: false, blank: &blank })
    }

    fn blank(&self) -> bool {
        self.job.options.target == TargetState::Zero
    }

    /// Makes a range of the target read as zeros.
    fn zero(&self, range: &Range) -> Result<()> {
        let flags = ZeroFlags { may_unmap: self.job.options.min_sparse > 0 };
        if self.job.options.target != TargetState::Mapped {
            return self.layer.zero(range.guest, range.len, flags);
        }
        let mut at = range.guest;
        while at < range.end() {
            let found = self.layer.map(at, range.end() - at)?;
            if !matches!(found.kind, ExtentKind::Unallocated | ExtentKind::Zero { host: None, .. }) {
                self.layer.zero(at, found.len, flags)?;
            }
            at += found.len;
        }
        Ok(())
    }

    /// Whether what the guest does not see is zero, too: the places in a target that has places for everything. New
    /// clusters of a format that allocates hold anything on a device, and with a cipher zeros are no zeros.
    fn blank_places(&self) -> bool {
        self.blank() && self.layer.limits().cluster == 1
    }
}

struct StopOnPanic<'s, 'a>(&'s Shared<'a>);

impl Drop for StopOnPanic<'_, '_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// One worker's memory.
struct Worker<'s, 'a> {
    shared: &'s Shared<'a>,
    /// The window, from `Task::start`.
    buf: AlignedBuf,
    edits: Vec<Edit>,
    packer: Option<pack::Packer>,
    /// What the bytes in the window are compared with.
    other: AlignedBuf,
}

impl<'s, 'a> Worker<'s, 'a> {
    fn new(shared: &'s Shared<'a>) -> Result<Self> {
        let packer = if let Some(level) = shared.job.options.compress {
            let compressor: Box<dyn Compressor> = shared
                .layer
                .compressor(level)
                .ok_or_else(|| Error::unsupported("Compression not supported for this file format"))??;
            Some(pack::Packer::new(compressor, shared.layer.limits().cluster))
        } else {
            None
        };
        Ok(Worker { shared, buf: AlignedBuf::new(0), edits: Vec::new(), packer, other: AlignedBuf::new(0) })
    }

    fn perform(&mut self, task: &Task) -> Result<()> {
        let shared = self.shared;
        let start = task.start();
        // Where the source ends inside a granule of a larger target, the rest of the granule stays.
        let granule =
            if self.packer.is_some() { self.shared.layer.limits().cluster } else { self.shared.layer.limits().granule };
        let size = if shared.job.options.grows { u64::MAX } else { shared.layer.size() };
        let end = align_up(task.end(), granule).unwrap_or(u64::MAX).min(size).max(task.end());
        if task.is_buffered() || end - start <= WINDOW {
            // Windows are 2 MiB, or one cluster.
            let len = (end - start) as usize;
            if self.buf.len() < len {
                self.buf = AlignedBuf::new(len);
            }
        }
        self.edits.clear();
        self.load(task, granule)?;
        if let Some(digest) = shared.job.digest {
            let (source, window) = (shared.job.source, &self.buf);
            digest.add(task.index, start, &mut |sink| digest::feed(source, task, window, sink))?;
        }
        if end > task.end() {
            // A target that grows has nothing there yet.
            let kind = if shared.job.options.grows { EditKind::Blank } else { EditKind::Keep };
            self.edits.push(Edit { guest: task.end(), len: end - task.end(), kind });
        }
        let layout = Layout::new(&self.edits, granule);
        self.complete(&layout, start)?;
        match self.packer.take() {
            None => self.store(task, &layout),
            Some(mut packer) => {
                // The cluster that keeps some of what the target has may be in use there, where compressed bytes cannot go.
                let keeps = end > task.end() && !shared.job.options.grows;
                let plain_from = if keeps { align_down(task.end(), granule) } else { u64::MAX };
                let result = self.store_packed(task, &layout, &mut packer, plain_from);
                self.packer = Some(packer);
                result
            }
        }
    }

    /// Reads what has to be read and describes the window as edits.
    fn load(&mut self, task: &Task, granule: u64) -> Result<()> {
        let shared = self.shared;
        let start = task.start();
        let zero = if shared.blank() { EditKind::Blank } else { EditKind::Zero };
        for item in &task.items {
            let mut push = |kind| self.edits.push(Edit { guest: item.guest, len: item.len, kind });
            match item.kind {
                ItemKind::Keep => push(EditKind::Keep),
                ItemKind::Blank => push(EditKind::Blank),
                ItemKind::Zero => push(EditKind::Zero),
                ItemKind::Offload(_) => push(EditKind::Data),
                ItemKind::Data { .. } => {
                    let from = (item.guest - start) as usize;
                    let bytes = &mut self.buf[from..from + item.len as usize];
                    shared.intake.read(item, bytes)?;
                    if let Some(new) = shared.job.source.new_backing() {
                        let bytes = &self.buf[from..from + item.len as usize];
                        if self.other.len() < bytes.len() {
                            self.other = AlignedBuf::new(bytes.len());
                        }
                        let other = &mut self.other[..bytes.len()];
                        new.read(item.guest, other).context(|| "error while reading from new backing file")?;
                        let zero = if shared.sparse.is_some() { zero } else { EditKind::Data };
                        split_differences(item.guest, bytes, other, granule, zero, &mut self.edits);
                        continue;
                    }
                    match shared.sparse {
                        // Only whole clusters can be left out.
                        Some(rule) if self.packer.is_some() => {
                            let cluster = shared.layer.limits().cluster;
                            SparseRule { unit: cluster, min: rule.min.min(cluster) }.split(
                                item.guest,
                                bytes,
                                zero,
                                &mut self.edits,
                            );
                        }
                        Some(rule) => rule.split(item.guest, bytes, zero, &mut self.edits),
                        None => push(EditKind::Data),
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes the parts of granules that were not read complete: zeros, or what the target has there now.
    fn complete(&mut self, layout: &Layout, start: u64) -> Result<()> {
        let mut next = 0;
        for range in &layout.write {
            while next < self.edits.len() && self.edits[next].end() <= range.guest {
                next += 1;
            }
            for edit in self.edits[next..].iter().take_while(|edit| edit.guest < range.end()) {
                if matches!(edit.kind, EditKind::Zero | EditKind::Blank)
                    && let Some(part) = range.intersection(edit.guest, edit.len)
                {
                    let from = (part.guest - start) as usize;
                    self.buf[from..from + part.len as usize].fill(0);
                }
            }
        }
        for range in &layout.fill {
            let from = (range.guest - start) as usize;
            let bytes = &mut self.buf[from..from + range.len as usize];
            self.shared
                .job
                .target
                .read(range.guest, bytes)
                .context(|| format!("error while reading at byte {}", range.guest))?;
        }
        Ok(())
    }

    fn store(&mut self, task: &Task, layout: &Layout) -> Result<()> {
        let failed = || write_error(task, task.start());
        let Some(pending) = place(self.shared, task, layout, &layout.places())? else { return Ok(()) };
        self.write(&*pending, task, layout)?;
        pending.commit().context(failed)
    }

    fn write(&mut self, pending: &dyn Pending, task: &Task, layout: &Layout) -> Result<()> {
        let shared = self.shared;
        let failed = || write_error(task, task.start());
        if shared.reserve {
            reserve(shared, pending.pieces(), layout);
        }
        if !task.items.iter().any(|item| matches!(item.kind, ItemKind::Offload(_))) {
            return write_payload(pending, layout, task.start(), &self.buf, shared.blank_places()).context(failed);
        }
        for piece in pending.pieces() {
            for item in &task.items {
                let range = Range { guest: item.guest, len: item.len };
                let Some(part) = range.intersection(piece.guest, piece.len) else { continue };
                if matches!(item.kind, ItemKind::Offload(_)) {
                    offload(shared, pending, piece, item, part).context(|| write_error(task, part.guest))?;
                }
            }
            self.write_around(pending, piece, task, layout).context(failed)?;
        }
        Ok(())
    }

    /// Writes the parts of a piece that the kernel has not copied.
    fn write_around(&self, pending: &dyn Pending, piece: &Piece, task: &Task, layout: &Layout) -> Result<()> {
        let start = task.start();
        let fresh = piece.zeroed || self.shared.blank_places();
        let whole = [Range { guest: piece.guest, len: piece.len }];
        let ranges = if fresh { &layout.payload[..] } else { &whole[..] };
        for range in ranges {
            let Some(mut rest) = range.intersection(piece.guest, piece.len) else { continue };
            let copied = task.items.iter().filter(|item| matches!(item.kind, ItemKind::Offload(_)));
            for hole in copied {
                let Some(hole) = rest.intersection(hole.guest, hole.len) else { continue };
                if rest.guest < hole.guest {
                    self.write_bytes(pending, start, Range { guest: rest.guest, len: hole.guest - rest.guest })?;
                }
                rest = Range { guest: hole.end(), len: rest.end() - hole.end() };
            }
            if rest.len > 0 {
                self.write_bytes(pending, start, rest)?;
            }
        }
        Ok(())
    }

    fn write_bytes(&self, pending: &dyn Pending, start: u64, range: Range) -> Result<()> {
        let from = (range.guest - start) as usize;
        pending.write(range.guest, &self.buf[from..from + range.len as usize])
    }

    fn store_packed(&mut self, task: &Task, layout: &Layout, packer: &mut pack::Packer, plain_from: u64) -> Result<()> {
        let failed = || write_error(task, task.start());
        let occupied = |guest: u64, len: u64| match self.shared.job.source.new_backing() {
            // Compressed bytes only go where the target has nothing yet.
            Some(_) => self.shared.job.source.is_occupied(guest, len),
            None => Ok(guest >= plain_from),
        };
        packer.pack(&layout.write, task.start(), &self.buf, occupied).context(failed)?;
        let Some(pending) = place(self.shared, task, layout, packer.places())? else { return Ok(()) };
        for place in packer.places() {
            // The reference writes cluster by cluster here.
            let at = || written(place.guest);
            match place.payload {
                Payload::Plain => self
                    .write_bytes(&*pending, task.start(), Range { guest: place.guest, len: place.len })
                    .context(at)?,
                Payload::Compressed { .. } => {
                    pending.write_compressed(place.guest, packer.stored(place.guest)).context(at)?;
                }
            }
        }
        pending.commit().context(failed)
    }
}

/// Takes this task's turn: finds places for the payload and makes zero what shall be zero.
fn place<'a>(
    shared: &Shared<'a>,
    task: &Task,
    layout: &Layout,
    places: &[crate::image::Place],
) -> Result<Option<Box<dyn Pending + 'a>>> {
    if shared.ordered && !shared.turn.wait(task.index) {
        return Ok(None);
    }
    shared.grow(task.end())?;
    for range in &layout.zero {
        shared.zero(range).context(|| write_error(task, range.guest))?;
    }
    // Compressed clusters are what most often cannot be placed: they do not go where something is.
    let compressed = places.iter().find(|place| place.payload != Payload::Plain);
    let pending = match compressed.or(places.first()) {
        None => None,
        Some(place) => {
            let byte = || {
                if shared.job.options.compress.is_some() {
                    written(place.guest)
                } else {
                    write_error(task, place.guest)
                }
            };
            Some(shared.layer.prepare(places).context(byte)?)
        }
    };
    if shared.ordered {
        shared.turn.pass(task.index);
    }
    Ok(pending)
}

/// Reserves blocks for payload that goes into fresh space. That it fails is no error: the write will tell.
fn reserve(shared: &Shared<'_>, pieces: &[Piece], layout: &Layout) {
    let Some(fd) = shared.layer.data_storage().fd() else { return };
    for piece in pieces.iter().filter(|piece| piece.zeroed || shared.blank_places()) {
        for range in &layout.payload {
            let Some(part) = range.intersection(piece.guest, piece.len) else { continue };
            if part.len >= RESERVE_MIN {
                let _ = sys::space::preallocate(fd, piece.host + (part.guest - piece.guest), part.len, true);
            }
        }
    }
}

/// Has the kernel copy the part of an item that lies in a piece; reads and writes what it does not take.
fn offload(shared: &Shared<'_>, pending: &dyn Pending, piece: &Piece, item: &Item, part: Range) -> Result<()> {
    let source = shared.job.source.part(item.part);
    let ItemKind::Offload(found) = item.kind else { return Ok(()) };
    let ExtentKind::Data { host, .. } = found.extent.kind else { return Ok(()) };
    let storage = source.chain.nodes()[found.depth].layer.data_storage();
    let inside = part.guest - source.start - found.extent.guest;
    let span = Span { from: host + inside, to: piece.host + (part.guest - piece.guest), len: part.len };
    let mut buf = AlignedBuf::new(0);
    shared.offload.transfer(storage, span, &mut |rest| {
        if buf.is_empty() {
            buf = AlignedBuf::new(rest.len.min(WINDOW) as usize);
        }
        let mut done = 0;
        while done < rest.len {
            let guest = part.guest + (rest.from - span.from) + done;
            let count = (rest.len - done).min(buf.len() as u64) as usize;
            shared.job.source.read(item.part, Some(&found), guest, &mut buf[..count])?;
            pending.write(guest, &buf[..count])?;
            done += count as u64;
        }
        Ok(())
    })
}

/// The circumstance of a write that failed: the place where the request started that `guest` belongs to.
fn write_error(task: &Task, guest: u64) -> String {
    let moved = |item: &&Item| matches!(item.kind, ItemKind::Data { .. } | ItemKind::Offload(_) | ItemKind::Zero);
    let item = task.items.iter().filter(moved).find(|item| item.end() > guest);
    let byte = match item.map(|item| (item.kind, item.guest)) {
        Some((ItemKind::Data { origin, .. }, _)) => origin,
        Some((_, start)) => start,
        None => guest,
    };
    written(byte)
}

fn written(byte: u64) -> String {
    format!("error while writing at byte {byte}")
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
