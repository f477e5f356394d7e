//! Compressed clusters. Specification: "Compressed Clusters Descriptor".

mod deflate;
mod zstd;

use super::header::CompressionType;
use crate::error::Result;
use crate::image::Compressor;

/// Fills `out`, one cluster, from the bytes stored for it, which go on with whatever follows in the last sector.
pub fn decompress(kind: CompressionType, stored: &[u8], out: &mut [u8]) -> Result<()> {
    match kind {
        CompressionType::Zlib => deflate::decompress(stored, out),
        CompressionType::Zstd => zstd::decompress(stored, out),
    }
}

/// A compressor of this kind for clusters of `cluster_size` bytes.
pub fn compressor(kind: CompressionType, cluster_size: u64) -> Result<Box<dyn Compressor>> {
    let room = usize::try_from(cluster_size).expect("clusters are at most 2 MiB");
    Ok(match kind {
        CompressionType::Zlib => Box::new(deflate::Deflater::new(room)?),
        CompressionType::Zstd => Box::new(zstd::Encoder::new(room)?),
    })
}

#[cfg(test)]
mod tests;
