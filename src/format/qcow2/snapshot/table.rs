//! The snapshot table on disk. Specification: "Snapshots".

#![deny(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{Error, Result};
use crate::format::qcow2::header::{Header, SNAPSHOTS_MAX};
use crate::image::SnapshotInfo;
use crate::storage::Storage;
use crate::text;
use crate::units::index;

/// Largest snapshot table in bytes that is accepted, as in the reference.
pub const TABLE_BYTES_MAX: u64 = 1024 * SNAPSHOTS_MAX;
/// Most extra data of one entry in bytes that is accepted, as in the reference.
const EXTRA_MAX: u32 = 1024;
/// Longest name that is shown or given to a new snapshot, in bytes, as in the reference.
pub const NAME_MAX: usize = 255;
/// Longest ID that is shown, in bytes, as in the reference.
const ID_MAX: usize = 127;

/// The part of an entry that all entries have, as it lies on disk.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawEntry {
    /// Host offset of the L1 table.
    pub l1_offset: U64,
    /// Number of entries of the L1 table.
    pub l1_size: U32,
    id_len: U16,
    name_len: U16,
    date_sec: U32,
    date_nsec: U32,
    vm_clock_nsec: U64,
    vm_state_size: U32,
    extra_len: U32,
}

/// The extra data that has a meaning. Older images have less of it, or none.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawExtra {
    vm_state_size: U64,
    disk_size: U64,
    icount: U64,
}

const ENTRY_LEN: usize = 40;
const EXTRA_LEN: usize = 24;
const _: () = assert!(size_of::<RawEntry>() == ENTRY_LEN && size_of::<RawExtra>() == EXTRA_LEN);

/// What the field for the instruction count holds when none was recorded.
const NO_ICOUNT: u64 = u64::MAX;

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Host offset of its L1 table; not checked yet.
    pub l1_offset: u64,
    /// Number of entries of its L1 table; not checked yet.
    pub l1_size: u32,
    /// Its ID.
    pub id: Vec<u8>,
    /// Its name.
    pub name: Vec<u8>,
    /// When it was taken, in seconds since the epoch.
    pub date_sec: u32,
    /// The fraction of that second in nanoseconds.
    pub date_nsec: u32,
    /// How long the guest had been running, in nanoseconds.
    pub vm_clock_nsec: u64,
    /// Size of the saved state of the virtual machine in bytes.
    pub vm_state_size: u64,
    /// Virtual disk size in bytes; `None` where it was not recorded (then the disk never changed its size).
    pub disk_size: Option<u64>,
    /// Instruction count of the guest.
    pub icount: Option<u64>,
    /// Extra data behind what this program knows, kept as it is.
    pub unknown_extra: Vec<u8>,
}

/// All snapshots of an image, in the order of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotTable {
    /// The entries.
    pub entries: Vec<Snapshot>,
    /// How many bytes they take on disk, without what pads the last one.
    pub bytes: u64,
}

/// A table as far as it can be read.
#[derive(Debug, Default)]
pub struct LossyTable {
    /// The entries that can be read.
    pub table: SnapshotTable,
    /// How much extra data each of them has on disk, in bytes.
    pub extra_lens: Vec<u32>,
    /// Where each of them ends, in bytes from the start of the table.
    pub ends: Vec<u64>,
    /// What is left out, in words.
    pub losses: Vec<String>,
    /// How many things those are.
    pub lost: u64,
}

impl SnapshotTable {
    /// Reads the table that `header` points to. Entries that lie behind the end of the file read as zeros.
    pub fn read(file: &dyn Storage, header: &Header) -> Result<Self> {
        Ok(Self::read_lossy(file, header, false)?.table)
    }

    /// As [`SnapshotTable::read`]; with `lossy`, what is too much of anything is left out instead of being an error.
    pub fn read_lossy(file: &dyn Storage, header: &Header, lossy: bool) -> Result<LossyTable> {
        let mut reader = Reader { file, at: header.snapshots_offset, window: Vec::new(), window_at: 0 };
        let mut found = LossyTable::default();
        for index in 0..header.nb_snapshots {
            let (entry, extra_len) = reader.entry(index, lossy)?;
            if extra_len > EXTRA_MAX {
                found.lost = found.lost.saturating_add(1);
                found.losses.push(format!(
                    "Discarding too much extra metadata in snapshot table entry {index} ({extra_len} > {EXTRA_MAX})"
                ));
            }
            let bytes = reader.at.saturating_sub(header.snapshots_offset);
            if bytes > TABLE_BYTES_MAX {
                let left = header.nb_snapshots.saturating_sub(index);
                if !lossy {
                    let hint =
                        format!("You can force-remove all {left} overhanging snapshots with qemu-img check -r all");
                    return Err(Error::os(libc::EFBIG).replace("Snapshot table is too big").hint(hint));
                }
                found.lost = found.lost.saturating_add(left.into());
                found.losses.push(format!("Discarding {left} overhanging snapshots (snapshot table is too big)"));
                break;
            }
            found.table.bytes = bytes;
            found.table.entries.push(entry);
            found.extra_lens.push(extra_len);
            found.ends.push(bytes);
        }
        Ok(found)
    }

    /// The table as it lies on disk. `disk_size` stands in where a size was not recorded. Fails if it is too big.
    pub fn to_bytes(&self, disk_size: u64) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for entry in &self.entries {
            entry.put(&mut out, disk_size);
        }
        if self.entries.len() as u64 > SNAPSHOTS_MAX || out.len() as u64 > TABLE_BYTES_MAX {
            return Err(Error::os(libc::EFBIG));
        }
        Ok(out)
    }

    /// The first snapshot with this ID, or if there is none the first with this name.
    pub fn find_id_or_name(&self, wanted: &str) -> Option<usize> {
        self.find(Some(wanted), None).or_else(|| self.find(None, Some(wanted)))
    }

    /// The first snapshot with this ID and this name, as far as they are given; none if neither is.
    pub fn find(&self, id: Option<&str>, name: Option<&str>) -> Option<usize> {
        if id.is_none() && name.is_none() {
            return None;
        }
        let (id, name) = (id.map(text::to_bytes), name.map(text::to_bytes));
        let is = |wanted: &Option<Vec<u8>>, bytes| wanted.as_deref().is_none_or(|wanted| wanted == c_string(bytes));
        self.entries.iter().position(|entry| is(&id, &entry.id) && is(&name, &entry.name))
    }

    /// The ID for a new snapshot: one more than the greatest number that any ID starts with. Fails if it is taken, which
    /// takes a number of 64 bits to happen.
    pub fn new_id(&self) -> Result<Vec<u8>> {
        let greatest = self.entries.iter().map(|entry| leading_number(&entry.id)).max().unwrap_or(0);
        let id = greatest.wrapping_add(1).to_string();
        if self.find(Some(&id), None).is_some() {
            return Err(Error::os(libc::EEXIST));
        }
        Ok(id.into_bytes())
    }
}

impl Snapshot {
    /// The snapshot as the rest of the program sees it. `disk_size` stands in where none was recorded.
    pub fn info(&self, disk_size: u64) -> SnapshotInfo {
        let shown = |bytes, max| {
            let bytes = c_string(bytes);
            text::from_bytes(&bytes[..bytes.len().min(max)])
        };
        SnapshotInfo {
            id: shown(&self.id, ID_MAX),
            name: shown(&self.name, NAME_MAX),
            vm_state_size: self.vm_state_size,
            date_sec: self.date_sec,
            date_nsec: self.date_nsec,
            vm_clock_nsec: self.vm_clock_nsec,
            icount: self.icount,
            disk_size: self.disk_size.unwrap_or(disk_size),
        }
    }

    /// Whether there is nothing in it at all.
    pub fn is_blank(&self) -> bool {
        let blank = Snapshot {
            id: Vec::new(),
            name: Vec::new(),
            unknown_extra: Vec::new(),
            l1_offset: 0,
            l1_size: 0,
            date_sec: 0,
            date_nsec: 0,
            vm_clock_nsec: 0,
            vm_state_size: 0,
            disk_size: None,
            icount: None,
        };
        *self == blank
    }

    #[expect(clippy::cast_possible_truncation, reason = "came out of fields of this width, or are far shorter")]
    fn put(&self, out: &mut Vec<u8>, disk_size: u64) {
        let raw = RawEntry {
            l1_offset: self.l1_offset.into(),
            l1_size: self.l1_size.into(),
            id_len: U16::new(self.id.len() as u16),
            name_len: U16::new(self.name.len() as u16),
            date_sec: self.date_sec.into(),
            date_nsec: self.date_nsec.into(),
            vm_clock_nsec: self.vm_clock_nsec.into(),
            vm_state_size: U32::new(u32::try_from(self.vm_state_size).unwrap_or(0)),
            extra_len: U32::new(EXTRA_LEN.saturating_add(self.unknown_extra.len()) as u32),
        };
        let extra = RawExtra {
            vm_state_size: self.vm_state_size.into(),
            disk_size: self.disk_size.unwrap_or(disk_size).into(),
            icount: self.icount.unwrap_or(NO_ICOUNT).into(),
        };
        for part in [raw.as_bytes(), extra.as_bytes(), &self.unknown_extra, &self.id, &self.name] {
            out.extend_from_slice(part);
        }
        out.resize(out.len().next_multiple_of(8), 0);
    }
}

/// How much is read of the table at a time.
const WINDOW: usize = 64 << 10;

/// Reads the table from front to back.
struct Reader<'a> {
    file: &'a dyn Storage,
    /// Offset of the next byte. At most 65536 entries of at most 134 KiB are read from a place below 2^63.
    at: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl Reader<'_> {
    fn take(&mut self, len: usize) -> Result<&[u8]> {
        let inside = |start: usize| start.checked_add(len).is_some_and(|end| end <= self.window.len());
        if !inside(self.in_window()) {
            self.window = vec![0; len.max(WINDOW)];
            self.window_at = self.at;
            self.file.read_at(&mut self.window, self.at)?;
        }
        let start = self.in_window();
        self.skip(len as u64)?;
        self.window.get(start..).and_then(|rest| rest.get(..len)).ok_or_else(|| Error::os(libc::EFBIG))
    }

    /// Where the next byte is in the window.
    fn in_window(&self) -> usize {
        self.at.checked_sub(self.window_at).map_or(usize::MAX, index)
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        self.at = self.at.checked_add(len).ok_or_else(|| Error::os(libc::EFBIG))?;
        Ok(())
    }

    fn entry(&mut self, number: u32, lossy: bool) -> Result<(Snapshot, u32)> {
        // What pads an entry belongs to the next one: nothing needs to be behind the last.
        self.at = self.at.checked_next_multiple_of(8).ok_or_else(|| Error::os(libc::EFBIG))?;
        let raw = RawEntry::read_from_bytes(self.take(ENTRY_LEN)?).expect("the length is right");
        let extra_len = raw.extra_len.get();
        if extra_len > EXTRA_MAX && !lossy {
            let text = format!("Too much extra metadata in snapshot table entry {number}");
            let hint = "You can force-remove this extra metadata with qemu-img check -r all";
            return Err(Error::os(libc::EFBIG).replace(text).hint(hint));
        }
        let extra = self.take(index(extra_len.min(EXTRA_MAX).into()))?.to_vec();
        self.skip(extra_len.saturating_sub(EXTRA_MAX).into())?;
        let field = |number: usize| extra.as_chunks().0.get(number).map(|word| u64::from_be_bytes(*word));
        let id = self.take(usize::from(raw.id_len.get()))?.to_vec();
        let name = self.take(usize::from(raw.name_len.get()))?.to_vec();
        let snapshot = Snapshot {
            l1_offset: raw.l1_offset.get(),
            l1_size: raw.l1_size.get(),
            id,
            name,
            date_sec: raw.date_sec.get(),
            date_nsec: raw.date_nsec.get(),
            vm_clock_nsec: raw.vm_clock_nsec.get(),
            vm_state_size: field(0).unwrap_or(u64::from(raw.vm_state_size.get())),
            disk_size: field(1),
            icount: field(2).filter(|count| *count != NO_ICOUNT),
            unknown_extra: extra.get(EXTRA_LEN..).unwrap_or(&[]).to_vec(),
        };
        Ok((snapshot, extra_len))
    }
}

/// A name up to its first NUL byte, which is all of it that can be given on a command line.
fn c_string(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or(&[])
}

/// The number at the start of an ID, as C's `strtoul` reads it: 0 where there is none, the greatest number where it is
/// too big, and negative numbers wrap around.
fn leading_number(id: &[u8]) -> u64 {
    let start = id.iter().position(|byte| !matches!(byte, b' ' | b'\t'..=b'\r')).unwrap_or(id.len());
    let (negative, digits) = match &id[start..] {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let mut number = 0u64;
    for digit in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
        let next = number.checked_mul(10).and_then(|number| number.checked_add(u64::from(digit.wrapping_sub(b'0'))));
        match next {
            Some(next) => number = next,
            None => return u64::MAX,
        }
    }
    if negative { number.wrapping_neg() } else { number }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
