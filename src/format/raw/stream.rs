//! Raw images that are written as a stream: all bytes of the disk, zeros as well.

use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::format::StreamRequest;
use crate::image::{Layout, Range, StreamImage};
use crate::storage::OutputStream;
use crate::units::{SECTOR, align_up};

/// A new image that goes to `request.out`.
pub fn stream(request: StreamRequest<'_>) -> Result<Box<dyn StreamImage>> {
    let size = align_up(request.size, SECTOR).unwrap_or(request.size);
    Ok(Box::new(Stream { out: request.out, size, written: Mutex::default() }))
}

struct Stream {
    out: OutputStream,
    size: u64,
    /// How many bytes have been written.
    written: Mutex<u64>,
}

impl StreamImage for Stream {
    fn granule(&self) -> u64 {
        1
    }

    fn is_laid_out(&self) -> bool {
        false
    }

    fn announce(&mut self, _layout: &Layout) {}

    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    fn places(&self, range: Range) -> Vec<Range> {
        vec![range]
    }

    fn encode(&self, _guest: u64, _bytes: &mut [u8]) -> Result<()> {
        Ok(())
    }

    fn write(&self, guest: u64, bytes: &[u8]) -> Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        self.out.write_zeros(guest - *written)?;
        self.out.write(bytes)?;
        *written = guest + bytes.len() as u64;
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        // The size of a source that is a stream itself was not known.
        self.out.write_zeros(self.size.saturating_sub(*written))
    }
}
