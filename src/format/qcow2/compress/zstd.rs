//! Zstandard (RFC 8878).

use std::cell::RefCell;

use zstd_safe::{CCtx, CParameter, DCtx, InBuffer, OutBuffer, ResetDirective};

use super::Levels;
use crate::error::{Error, Result};
use crate::image::Compressor;

/// The library's default level, which the reference uses, too.
const LEVEL: i32 = 3;

/// What can be asked for.
pub(super) const LEVELS: Levels = Levels { fast: 1, default: LEVEL, best: 22 };

/// The largest table of short matches, in bits. One that has a place for every byte of a usual cluster makes files a
/// little smaller than those of all versions of the library the reference is built with (docs/performance.md).
/// Only the default level needs it: the others are somebody's choice between time and size.
const MAX_CHAIN_LOG: u32 = 17;

thread_local! {
    static CONTEXT: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// Fills `out` from the frames in `stored`; there may be several, and anything may follow the last one needed. The last
/// frame has to end where `out` does.
pub(super) fn decompress(stored: &[u8], out: &mut [u8]) -> Result<()> {
    CONTEXT.with_borrow_mut(|slot| {
        let context = match slot {
            Some(context) => context,
            None => slot.insert(DCtx::try_create().ok_or_else(|| Error::os(libc::ENOMEM))?),
        };
        context.reset(ResetDirective::SessionOnly).map_err(failed)?;
        decompress_with(context, stored, out)
    })
}

fn decompress_with(context: &mut DCtx<'_>, stored: &[u8], out: &mut [u8]) -> Result<()> {
    let mut input = InBuffer::around(stored);
    let mut output = OutBuffer::around(out);
    let mut more = 1;
    while output.pos() < output.capacity() {
        let before = (input.pos(), output.pos());
        more = context.decompress_stream(&mut output, &mut input).map_err(failed)?;
        if (input.pos(), output.pos()) == before {
            // The frame asks for bytes that are not there.
            return Err(Error::os(libc::EIO));
        }
    }
    if more > 0 { Err(Error::os(libc::EIO)) } else { Ok(()) }
}

/// Damaged frames are an I/O error, as a damaged disk would give it.
fn failed(_code: usize) -> Error {
    Error::os(libc::EIO)
}

/// Compresses clusters by Zstandard.
pub(super) struct Encoder {
    context: CCtx<'static>,
    out: Vec<u8>,
}

impl Encoder {
    /// A compressor for clusters of `cluster` bytes, of a level in [`LEVELS`].
    pub(super) fn new(cluster: usize, level: i32) -> Result<Self> {
        let mut context = CCtx::try_create().ok_or_else(|| Error::os(libc::ENOMEM))?;
        context.set_parameter(CParameter::CompressionLevel(level)).map_err(failed)?;
        if level == LEVEL {
            let chain_log = cluster.max(1).ilog2().min(MAX_CHAIN_LOG);
            context.set_parameter(CParameter::ChainLog(chain_log)).map_err(failed)?;
        }
        // Room for the worst case: the encoder is faster when it need not watch the end of the buffer.
        Ok(Encoder { context, out: vec![0; zstd_safe::compress_bound(cluster)] })
    }
}

impl Compressor for Encoder {
    fn compress(&mut self, cluster: &[u8]) -> Result<Option<&[u8]>> {
        let len = self.context.compress2(&mut self.out[..], cluster).map_err(failed)?;
        Ok((len < cluster.len()).then(|| &self.out[..len]))
    }
}
