//! Writing into a layer: what happens at the edges of its granules.
//!
//! A layer takes whole granules only ([`LayerLimits::granule`](super::LayerLimits::granule)). A writer describes a window
//! of the guest as [`Edit`]s; [`Layout::new`] decides which granules have to be written, which can be made zero and which
//! stay as they are, and which bytes have to be read first so that a granule is whole. [`Chain::write`] and
//! [`Chain::zero`] are the same for a single range.

use super::{Chain, Layer, Payload, Pending, Place, ZeroFlags};
use crate::error::{Error, Result};
use crate::units::{align_down, align_up};

/// The largest window that [`Chain::write`] and the zeroing of edges work on at once, in bytes.
const WINDOW: u64 = 2 << 20;

/// What shall become of a part of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditKind {
    /// It gets new bytes.
    Data,
    /// It shall read as zeros.
    Zero,
    /// It shall read as zeros and is known to do so already.
    Blank,
    /// It keeps its contents, whichever layer they are in.
    Keep,
}

/// A part of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Guest offset.
    pub guest: u64,
    /// Length in bytes, at least 1.
    pub len: u64,
    /// What shall become of it.
    pub kind: EditKind,
}

impl Edit {
    /// Guest offset of the first byte behind it.
    pub fn end(&self) -> u64 {
        self.guest + self.len
    }
}

/// A guest range: offset and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Guest offset.
    pub guest: u64,
    /// Length in bytes, at least 1.
    pub len: u64,
}

impl Range {
    /// Guest offset of the first byte behind it.
    pub fn end(&self) -> u64 {
        self.guest + self.len
    }

    /// The part that both have.
    pub fn intersection(&self, guest: u64, len: u64) -> Option<Range> {
        let start = self.guest.max(guest);
        let end = self.end().min(guest + len);
        (start < end).then(|| Range { guest: start, len: end - start })
    }
}

/// Adds `guest..guest + len` to a list in guest order, growing the last range where it touches.
pub fn push_range(list: &mut Vec<Range>, guest: u64, len: u64) {
    match list.last_mut() {
        Some(last) if last.end() == guest => last.len += len,
        _ => list.push(Range { guest, len }),
    }
}

/// What has to be done so that a window of edits comes true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Whole granules to write.
    pub write: Vec<Range>,
    /// Whole granules to make zero.
    pub zero: Vec<Range>,
    /// Parts of `write` whose present contents have to be read first, because they are kept.
    pub fill: Vec<Range>,
    /// Parts of `write` that hold something other than zeros, as far as is known: new bytes and `fill`.
    pub payload: Vec<Range>,
}

const DATA: u8 = 1;
const ZERO: u8 = 2;
const BLANK: u8 = 4;
const KEEP: u8 = 8;

impl Layout {
    /// The layout of `edits`, which follow each other without gaps, begin on a granule border, and end on one or at the
    /// end of the image.
    pub fn new(edits: &[Edit], granule: u64) -> Layout {
        let mut layout = Layout::default();
        if granule == 1 {
            for edit in edits {
                match edit.kind {
                    EditKind::Data => push_range(&mut layout.write, edit.guest, edit.len),
                    EditKind::Zero => push_range(&mut layout.zero, edit.guest, edit.len),
                    EditKind::Blank | EditKind::Keep => {}
                }
            }
            layout.payload.clone_from(&layout.write);
            return layout;
        }
        let (Some(first), Some(last)) = (edits.first(), edits.last()) else { return layout };
        debug_assert_eq!(first.guest % granule, 0, "a window starts on a granule border");
        layout.classify(edits, first.guest, last.end(), granule);
        layout.find_payload(edits);
        layout
    }

    fn classify(&mut self, edits: &[Edit], start: u64, end: u64, granule: u64) {
        let mut next = 0;
        let mut guest = start;
        while guest < end {
            let border = (guest + granule).min(end);
            let mut seen = 0;
            while next < edits.len() && edits[next].guest < border {
                seen |= match edits[next].kind {
                    EditKind::Data => DATA,
                    EditKind::Zero => ZERO,
                    EditKind::Blank => BLANK,
                    EditKind::Keep => KEEP,
                };
                if edits[next].end() > border {
                    break;
                }
                next += 1;
            }
            // The whole granules inside one long edit are alike.
            let mut stop = border;
            if let Some(edit) = edits.get(next)
                && edit.guest <= guest
                && edit.end() > border
            {
                stop = guest + align_down(edit.end() - guest, granule);
                if edit.end() == stop {
                    next += 1;
                }
            }
            let mixed_zero = seen & ZERO != 0 && seen & KEEP != 0;
            if seen & DATA != 0 || mixed_zero {
                push_range(&mut self.write, guest, stop - guest);
            } else if seen & ZERO != 0 {
                push_range(&mut self.zero, guest, stop - guest);
            }
            guest = stop;
        }
    }

    fn find_payload(&mut self, edits: &[Edit]) {
        let mut next = 0;
        for range in &self.write {
            while next < edits.len() && edits[next].end() <= range.guest {
                next += 1;
            }
            for edit in edits[next..].iter().take_while(|edit| edit.guest < range.end()) {
                let Some(part) = range.intersection(edit.guest, edit.len) else { continue };
                match edit.kind {
                    EditKind::Data => push_range(&mut self.payload, part.guest, part.len),
                    EditKind::Keep => {
                        push_range(&mut self.fill, part.guest, part.len);
                        push_range(&mut self.payload, part.guest, part.len);
                    }
                    EditKind::Zero | EditKind::Blank => {}
                }
            }
        }
    }

    /// The places to prepare.
    pub fn places(&self) -> Vec<Place> {
        self.write.iter().map(|range| Place { guest: range.guest, len: range.len, payload: Payload::Plain }).collect()
    }
}

/// Writes the payload of a layout whose places are `pending`; `bytes` holds the window that starts at guest offset
/// `start`, with zeros where edits are zero. Zero runs are left out where the place already reads as zeros, or everywhere
/// if `blank` says that all places do.
pub fn write_payload(pending: &dyn Pending, layout: &Layout, start: u64, bytes: &[u8], blank: bool) -> Result<()> {
    let slice = |range: Range| -> &[u8] {
        // Both lie inside the window, which is in memory.
        let from = (range.guest - start) as usize;
        &bytes[from..from + range.len as usize]
    };
    let mut next = 0;
    for piece in pending.pieces() {
        if !piece.zeroed && !blank {
            let range = Range { guest: piece.guest, len: piece.len };
            pending.write(range.guest, slice(range))?;
            continue;
        }
        while next < layout.payload.len() && layout.payload[next].end() <= piece.guest {
            next += 1;
        }
        for range in &layout.payload[next..] {
            if range.guest >= piece.guest + piece.len {
                break;
            }
            if let Some(part) = range.intersection(piece.guest, piece.len) {
                pending.write(part.guest, slice(part))?;
            }
        }
    }
    Ok(())
}

impl Chain {
    /// Writes `data` at `guest` into the top layer: nothing but these bytes where it has places for them already, otherwise
    /// whole granules, completed with what the guest sees there now.
    pub fn write(&self, guest: u64, data: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            let at = guest + done as u64;
            let window_end = align_down(at, WINDOW) + WINDOW;
            let count = (data.len() - done).min((window_end - at) as usize);
            let part = &data[done..done + count];
            if !self.overwrite(at, part)? {
                self.edit(at, count as u64, EditKind::Data, Some(part))?;
            }
            done += count;
        }
        Ok(())
    }

    /// What a write of `len` bytes at `guest` reads or writes at this moment: the first byte, and the one behind the last.
    /// Writes at the same time must not have any of that in common.
    pub fn write_span(&self, guest: u64, len: u64) -> (u64, u64) {
        let layer = &*self.top().layer;
        let limits = layer.limits();
        let part = sectors(layer, guest, len);
        let in_place = limits.granule > 1 && matches!(layer.prepare_part(part.guest, part.len), Ok(Some(_)));
        let unit = if in_place { limits.sector } else { limits.cluster };
        (align_down(guest, unit), align_up(guest.saturating_add(len), unit).unwrap_or(u64::MAX))
    }

    /// Writes `data` into the places that there are for it, if that spares writing more than that.
    fn overwrite(&self, guest: u64, data: &[u8]) -> Result<bool> {
        let layer = &*self.top().layer;
        let granule = layer.limits().granule;
        let part = sectors(layer, guest, data.len() as u64);
        if guest.is_multiple_of(granule) && (data.len() as u64).is_multiple_of(granule) {
            return Ok(false);
        }
        let Some(pending) = layer.prepare_part(part.guest, part.len)? else { return Ok(false) };
        if part.len == data.len() as u64 {
            pending.write(guest, data)?;
        } else {
            // At most a window and two sectors.
            let mut bytes = vec![0; part.len as usize];
            self.read(part.guest, &mut bytes)?;
            let from = (guest - part.guest) as usize;
            bytes[from..from + data.len()].copy_from_slice(data);
            pending.write(part.guest, &bytes)?;
        }
        pending.commit()?;
        Ok(true)
    }

    /// Makes `len` bytes from `guest` read as zeros, in the way that suits the top layer best.
    pub fn zero(&self, guest: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.check_range(guest, len)?;
        let layer = &*self.top().layer;
        let granule = layer.limits().granule;
        let end = guest + len;
        let first = align_up(guest, granule).unwrap_or(end).min(end);
        let last = if end == layer.size() { end } else { align_down(end, granule).max(first) };
        if guest < first {
            self.edit(guest, first - guest, EditKind::Zero, None)?;
        }
        if first < last {
            layer.zero(first, last - first, flags)?;
        }
        if last < end {
            self.edit(last, end - last, EditKind::Zero, None)?;
        }
        Ok(())
    }

    fn check_range(&self, guest: u64, len: u64) -> Result<()> {
        match guest.checked_add(len) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(Error::os(libc::EIO)),
        }
    }

    /// One change inside one window.
    fn edit(&self, guest: u64, len: u64, kind: EditKind, data: Option<&[u8]>) -> Result<()> {
        self.check_range(guest, len)?;
        let layer = &*self.top().layer;
        let granule = layer.limits().granule;
        let start = align_down(guest, granule);
        let end = align_up(guest + len, granule).unwrap_or(u64::MAX).min(layer.size());
        let mut edits = Vec::with_capacity(3);
        if start < guest {
            edits.push(Edit { guest: start, len: guest - start, kind: EditKind::Keep });
        }
        edits.push(Edit { guest, len, kind });
        if guest + len < end {
            edits.push(Edit { guest: guest + len, len: end - guest - len, kind: EditKind::Keep });
        }
        let layout = Layout::new(&edits, granule);
        for range in &layout.zero {
            layer.zero(range.guest, range.len, ZeroFlags { may_unmap: false })?;
        }
        if layout.write.is_empty() {
            return Ok(());
        }
        let mut bytes = vec![0; (end - start) as usize];
        for range in &layout.fill {
            let from = (range.guest - start) as usize;
            self.read(range.guest, &mut bytes[from..from + range.len as usize])?;
        }
        if let Some(data) = data {
            let from = (guest - start) as usize;
            bytes[from..from + data.len()].copy_from_slice(data);
        }
        write_range(layer, &layout, start, &bytes)
    }
}

/// The whole sectors around a range.
fn sectors(layer: &dyn Layer, guest: u64, len: u64) -> Range {
    let sector = layer.limits().sector;
    let start = align_down(guest, sector);
    let end = align_up(guest.saturating_add(len), sector).unwrap_or(u64::MAX);
    Range { guest: start, len: end - start }
}

fn write_range(layer: &dyn Layer, layout: &Layout, start: u64, bytes: &[u8]) -> Result<()> {
    let pending = layer.prepare(&layout.places())?;
    write_payload(&*pending, layout, start, bytes, false)?;
    pending.commit()
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
