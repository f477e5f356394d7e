//! Another header in the place of the one on disk, without a moment in which it is half one and half the other.
//!
//! A disk writes sectors, each all or nothing, and headers are often longer than the first one: names of features push the
//! extension of the bitmaps over its end, and the name of the backing file lies behind that. So where more than one sector
//! differs, a header without the names of features goes first, which lies in the first sector alone but for the name of
//! the backing file; that one may change in a single write, and what lies behind it is free to be written.

use super::{Header, Purpose};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// What a disk writes all or nothing, in bytes.
const SECTOR: usize = 512;

/// A write, which must be on stable storage before the next one.
type Step = (u64, Vec<u8>);

/// Writes `new` in the place of the header that `file` has; the last write is for the caller to flush.
pub fn replace(file: &dyn Storage, new: &Header) -> Result<()> {
    for (number, (offset, bytes)) in steps(file, new)?.iter().enumerate() {
        if number > 0 {
            file.flush()?;
        }
        file.write_at(bytes, *offset)?;
    }
    Ok(())
}

/// The writes that bring `new` to the place of the header that `file` has now.
fn steps(file: &dyn Storage, new: &Header) -> Result<Vec<Step>> {
    let target = new.to_bytes()?;
    let mut now = vec![0; target.len().max(SECTOR)];
    file.read_at(&mut now, 0)?;
    let sectors = now.chunks(SECTOR).zip(target.chunks(SECTOR));
    let differs = |(now, target): &(&[u8], &[u8])| now.get(..target.len()) != Some(target);
    if sectors.filter(differs).count() < 2 {
        return Ok(vec![(0, target)]);
    }
    // Where a short header has no room, the first sector is the last to change all the same.
    Ok(short_steps(file, new, &now, &target).unwrap_or_else(|_| {
        let (first, rest) = target.split_at(SECTOR);
        vec![(SECTOR as u64, rest.to_vec()), (0, first.to_vec())]
    }))
}

fn short_steps(file: &dyn Storage, new: &Header, now: &[u8], target: &[u8]) -> Result<Vec<Step>> {
    let old = Header::read(file, Purpose::Check)?;
    let cluster = 1usize << new.cluster_bits;
    let place = |bytes: &[u8]| usize::try_from(u64::from_be_bytes(bytes[8..16].try_into().expect("eight bytes")));
    let too_long = || Error::os(libc::ENOSPC);
    let (old_place, new_place) = (place(now).map_err(|_| too_long())?, place(target).map_err(|_| too_long())?);
    let len = |header: &Header| header.backing_file.as_ref().map_or(0, Vec::len);
    let mut steps = vec![(0, old.short(now, old_place)?)];
    let mut between = old_place;
    if let Some(name) = &new.backing_file
        && (old_place != new_place || old.backing_file.as_ref() != Some(name))
    {
        // Behind both, so that neither is written over.
        let old_end = old_place.saturating_add(len(&old));
        between = old_end.max(target.len()).checked_next_multiple_of(SECTOR).ok_or_else(too_long)?;
        if between.saturating_add(name.len()) > cluster {
            return Err(too_long());
        }
        steps.push((between as u64, name.clone()));
    }
    if new.backing_file.is_none() {
        between = 0;
    }
    steps.push((0, new.short(now, between)?));
    let (first, rest) = target.split_at(SECTOR);
    steps.push((SECTOR as u64, rest.to_vec()));
    steps.push((0, first.to_vec()));
    Ok(steps)
}

impl Header {
    /// The first sector of this header without the names of features, where the name of the backing file lies at `place`.
    /// A name that begins in this sector is the one that lies there `now`.
    fn short(&self, now: &[u8], place: usize) -> Result<Vec<u8>> {
        let mut bytes = Header { backing_file: None, ..self.clone() }.layout(false)?;
        let room = if place == 0 { SECTOR } else { place.min(SECTOR) };
        if bytes.len() > room {
            return Err(Error::os(libc::ENOSPC));
        }
        bytes.resize(room, 0);
        bytes.extend_from_slice(&now[room..SECTOR]);
        if let Some(name) = &self.backing_file {
            bytes[8..16].copy_from_slice(&(place as u64).to_be_bytes());
            let len = u32::try_from(name.len()).map_err(|_| Error::os(libc::ENOSPC))?;
            bytes[16..20].copy_from_slice(&len.to_be_bytes());
        }
        Ok(bytes)
    }
}
