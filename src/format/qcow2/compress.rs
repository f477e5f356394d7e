//! Compressed clusters. Specification: "Compressed Clusters Descriptor".

use super::header::CompressionType;
use crate::error::{Error, Result};

/// Fills `out`, one cluster, from the bytes stored for it, which go on with whatever follows in the last sector.
pub fn decompress(kind: CompressionType, stored: &[u8], out: &mut [u8]) -> Result<()> {
    match kind {
        CompressionType::Zlib => {
            let mut inflater = flate2::Decompress::new(false);
            let status = inflater.decompress(stored, out, flate2::FlushDecompress::Finish);
            match status {
                Ok(_) if inflater.total_out() == out.len() as u64 => Ok(()),
                _ => Err(Error::os(libc::EIO)),
            }
        }
        CompressionType::Zstd => Err(Error::unsupported("zstd is not supported yet")),
    }
}
