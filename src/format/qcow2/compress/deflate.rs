//! Raw deflate (RFC 1951).
//!
//! The compressor refers up to 32 KiB back, the RFC's own limit. Readers that inflate with a smaller window (the
//! reference asks for 4 KiB) decode it all the same, because they inflate a cluster into one buffer and look into their
//! window only for what lies before that buffer.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress};
use libdeflater::{CompressionError, CompressionLvl, Compressor as Encoder, Decompressor};

use super::Levels;
use crate::error::{Error, Result};
use crate::image::Compressor;

/// Level of compression: the fastest whose files are no larger than those of the reference (see docs/performance.md).
const LEVEL: i32 = 2;

/// What can be asked for.
pub(super) const LEVELS: Levels = Levels { fast: 1, default: LEVEL, best: 12 };

thread_local! {
    static DECOMPRESSOR: RefCell<Decompressor> = RefCell::new(Decompressor::new());
}

/// Fills `out` from the start of a stream in `stored`. The stream may end before `stored` does, and may go on after `out`
/// is full.
pub(super) fn decompress(stored: &[u8], out: &mut [u8]) -> Result<()> {
    // The fast way takes complete streams that end exactly with the cluster, which is nearly all of them.
    let quick = DECOMPRESSOR.with_borrow_mut(|decompressor| decompressor.deflate_decompress(stored, out));
    if quick.is_ok_and(|len| len == out.len()) {
        return Ok(());
    }
    let mut inflater = Decompress::new(false);
    match inflater.decompress(stored, out, FlushDecompress::Finish) {
        Ok(_) if inflater.total_out() == out.len() as u64 => Ok(()),
        _ => Err(Error::os(libc::EIO)),
    }
}

/// Compresses clusters by deflate.
pub(super) struct Deflater {
    encoder: Encoder,
    out: Vec<u8>,
}

impl Deflater {
    /// A compressor for clusters of `cluster` bytes, of a level in [`LEVELS`].
    pub(super) fn new(cluster: usize, level: i32) -> Result<Self> {
        let level = CompressionLvl::new(level).expect("the level is one of the library's");
        // One byte less than a cluster: what does not fit is not worth storing compressed.
        Ok(Deflater { encoder: Encoder::new(level), out: vec![0; cluster.saturating_sub(1)] })
    }
}

impl Compressor for Deflater {
    fn compress(&mut self, cluster: &[u8]) -> Result<Option<&[u8]>> {
        let limit = self.out.len().min(cluster.len().saturating_sub(1));
        match self.encoder.deflate_compress(cluster, &mut self.out[..limit]) {
            Ok(len) => Ok(Some(&self.out[..len])),
            Err(CompressionError::InsufficientSpace) => Ok(None),
        }
    }
}
