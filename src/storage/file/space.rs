//! Holes: finding them, and making ranges zero.

use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::{FileStorage, Kind};
use crate::error::Result;
use crate::storage::aligned::zeros;
use crate::storage::{RangeKind, Storage};
use crate::sys;
use crate::sys::space::{Found, Space};

impl FileStorage {
    /// See [`Storage::extent`].
    pub(super) fn find_extent(&self, offset: u64, len: u64) -> Result<(RangeKind, u64)> {
        // While nobody here writes, data stays data (if others write, a hole would be the dangerous thing to remember).
        // This spares file systems that look for the end of a long extent from its beginning every time.
        let known = self.last_data.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.contains(&offset) {
            return Ok((RangeKind::Data, len.min(known.end - offset)));
        }
        let end = self.len()?;
        self.check_end(end)?;
        if offset >= end {
            return Ok((RangeKind::Hole, len));
        }
        if self.opaque.load(Ordering::Relaxed) {
            return Ok((RangeKind::Data, len.min(end - offset)));
        }
        let (kind, until) = self.seek_extent(offset, end)?;
        let until = match (kind, until) {
            // Behind the end everything is a hole, too.
            (RangeKind::Hole, until) if until >= end => u64::MAX,
            (_, until) => until,
        };
        if kind == RangeKind::Data && !self.write {
            *self.last_data.lock().unwrap_or_else(PoisonError::into_inner) = offset..until;
        }
        Ok((kind, len.min(until - offset)))
    }

    /// What lies at `offset`, which is before `end`, and where that ends.
    fn seek_extent(&self, offset: u64, end: u64) -> Result<(RangeKind, u64)> {
        let fd = self.file.as_fd();
        let seeking = |error| self.failed("Looking for data in", offset, end - offset, error);
        match sys::space::next_data(fd, offset).map_err(seeking)? {
            Found::At(data) if data > offset => return Ok((RangeKind::Hole, data)),
            Found::At(_) => {}
            // No more data, or the file has been cut off meanwhile: both read as zeros.
            Found::Nothing => return Ok((RangeKind::Hole, end)),
            Found::NotHere => {
                self.opaque.store(true, Ordering::Relaxed);
                return Ok((RangeKind::Data, end));
            }
        }
        match sys::space::next_hole(fd, offset).map_err(seeking)? {
            Found::At(hole) if hole > offset => Ok((RangeKind::Data, hole.min(end.max(offset + 1)))),
            // Somebody changed the file between the two calls. Reading is right in any case.
            Found::At(_) | Found::Nothing => Ok((RangeKind::Data, end)),
            Found::NotHere => {
                self.opaque.store(true, Ordering::Relaxed);
                Ok((RangeKind::Data, end))
            }
        }
    }

    /// See [`sys::space::set_range`].
    pub(super) fn set_range(&self, what: Space, offset: u64, len: u64) -> Result<bool> {
        sys::space::set_range(self.file.as_fd(), what, offset, len).map_err(|error| {
            let doing = match what {
                Space::Reserve | Space::ReserveKeepSize => "Reserving",
                Space::Zero => "Zeroing",
                Space::Punch => "Giving back",
            };
            self.failed(doing, offset, len, error)
        })
    }

    /// Zeros by giving space back.
    pub(super) fn zero_discard(&self, offset: u64, len: u64) -> Result<()> {
        self.grow(offset + len)?;
        if self.set_range(Space::Punch, offset, len)? {
            return Ok(());
        }
        self.zero_allocate(offset, len)
    }

    /// Zeros without writing, keeping space.
    pub(super) fn zero_allocate(&self, offset: u64, len: u64) -> Result<()> {
        if self.kind == Kind::Character {
            return self.zero_write(offset, len);
        }
        if self.set_range(Space::Zero, offset, len)? {
            return Ok(());
        }
        if self.kind == Kind::Block {
            let zeroed = sys::device::zero_out(self.file.as_fd(), offset, len);
            return match zeroed.map_err(|error| self.failed("Zeroing", offset, len, error))? {
                true => Ok(()),
                false => self.zero_write(offset, len),
            };
        }
        // Some file systems have holes and reservations but no way to do both in one go.
        if self.set_range(Space::Punch, offset, len)? && self.set_range(Space::Reserve, offset, len)? {
            return Ok(());
        }
        self.zero_write(offset, len)
    }

    /// Zeros by writing them.
    pub(super) fn zero_write(&self, offset: u64, len: u64) -> Result<()> {
        let zeros = zeros();
        let mut done = 0;
        while done < len {
            let count = (len - done).min(zeros.len() as u64);
            self.write_at(&zeros[..count as usize], offset + done)?;
            done += count;
        }
        Ok(())
    }

    /// Makes a regular file at least `end` bytes long, never shorter, whatever other threads do at the same time.
    fn grow(&self, end: u64) -> Result<()> {
        if self.kind != Kind::Regular || self.len()? >= end {
            return Ok(());
        }
        // Cutting to a length could cut off what another thread has just written behind it. Reserving the last byte
        // cannot; the block that costs is given back by the caller, who punches a hole over it.
        if self.set_range(Space::Reserve, end - 1, 1)? {
            return Ok(());
        }
        self.write_at(&[0], end - 1)
    }
}
