//! Layers for the tests of the data mover.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::image::{Extent, ExtentKind, Layer, LayerInfo, LayerLimits, Pending, Place, ZeroFlags, not_supported};
use crate::storage::{MemStorage, Storage};

/// What a stretch of a [`FakeLayer`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Data,
    Zero,
    Nothing,
}

/// A layer to read from, made of stretches; its bytes follow from their offsets, so that it can be of any size.
#[derive(Debug)]
pub struct FakeLayer {
    parts: Vec<(Range<u64>, Part)>,
    /// Asking what lies here fails if the answer would cover it.
    pub bad_map: Option<Range<u64>>,
    /// Reading here fails.
    pub bad_read: Option<Range<u64>>,
    /// There are no zeros in its data.
    pub dense: bool,
    storage: Arc<dyn Storage>,
}

fn overlap(bad: &Option<Range<u64>>, guest: u64, len: u64) -> bool {
    bad.as_ref().is_some_and(|bad| guest < bad.end && bad.start < guest + len)
}

impl FakeLayer {
    pub fn new(parts: &[(u64, Part)]) -> Self {
        let mut at = 0;
        let mut list = Vec::new();
        for &(len, part) in parts {
            list.push((at..at + len, part));
            at += len;
        }
        FakeLayer { parts: list, bad_map: None, bad_read: None, dense: false, storage: Arc::new(MemStorage::default()) }
    }

    /// The byte at a guest offset that is data: zero in every third stretch of 4 KiB.
    pub fn byte(guest: u64) -> u8 {
        if guest / 4096 % 3 == 2 { 0 } else { 1 + (guest / 512 % 251) as u8 }
    }
}

impl Layer for FakeLayer {
    fn format(&self) -> &'static str {
        "fake"
    }

    fn size(&self) -> u64 {
        self.parts.last().map_or(0, |(range, _)| range.end)
    }

    fn limits(&self) -> LayerLimits {
        LayerLimits { cluster: 1, granule: 1, sector: 1, zero_init: true }
    }

    fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    fn map(&self, guest: u64, len: u64) -> Result<Extent> {
        let (range, part) = self.parts.iter().find(|(range, _)| range.contains(&guest)).expect("below the size");
        let len = len.min(range.end - guest);
        if overlap(&self.bad_map, guest, len) {
            return Err(Error::os(libc::EIO));
        }
        let kind = match part {
            Part::Data => ExtentKind::Data { host: guest, encrypted: false },
            Part::Zero => ExtentKind::ZERO,
            Part::Nothing => ExtentKind::Unallocated,
        };
        Ok(Extent { guest, len, kind })
    }

    fn read(&self, _extent: &Extent, guest: u64, buf: &mut [u8]) -> Result<()> {
        if overlap(&self.bad_read, guest, buf.len() as u64) {
            return Err(Error::os(libc::EIO));
        }
        for (at, byte) in (guest..).zip(buf) {
            *byte = FakeLayer::byte(at).max(u8::from(self.dense));
        }
        Ok(())
    }

    fn info(&self) -> Result<LayerInfo> {
        Ok(LayerInfo::default())
    }

    fn prepare<'a>(&'a self, _places: &[Place]) -> Result<Box<dyn Pending + 'a>> {
        Err(not_supported())
    }

    fn zero(&self, _guest: u64, _len: u64, _flags: ZeroFlags) -> Result<()> {
        Err(not_supported())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}
