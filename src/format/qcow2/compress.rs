//! Compressed clusters. Specification: "Compressed Clusters Descriptor".

mod deflate;
mod zstd;

use super::header::CompressionType;
use crate::error::{Error, Result};
use crate::image::{CompressionLevel, Compressor};

/// The levels of a compressor: larger numbers are slower and give smaller clusters.
struct Levels {
    /// The first one.
    fast: i32,
    /// What is used unless something else is asked for.
    default: i32,
    /// The last one.
    best: i32,
}

impl CompressionType {
    fn levels(self) -> Levels {
        match self {
            CompressionType::Zlib => deflate::LEVELS,
            CompressionType::Zstd => zstd::LEVELS,
        }
    }

    /// The number of a level. Fails where this type of compression has no such level.
    pub fn level(self, level: CompressionLevel) -> Result<i32> {
        let levels = self.levels();
        match level {
            CompressionLevel::Fast => Ok(levels.fast),
            CompressionLevel::Default => Ok(levels.default),
            CompressionLevel::Best => Ok(levels.best),
            CompressionLevel::Number(number) if (levels.fast..=levels.best).contains(&number) => Ok(number),
            CompressionLevel::Number(number) => {
                let (name, Levels { fast, best, .. }) = (self.name(), levels);
                let text = format!("Compression level {number} is out of range: {name} has levels {fast} to {best}");
                Err(Error::invalid(text))
            }
        }
    }
}

/// Fills `out`, one cluster, from the bytes stored for it, which go on with whatever follows in the last sector.
pub fn decompress(kind: CompressionType, stored: &[u8], out: &mut [u8]) -> Result<()> {
    match kind {
        CompressionType::Zlib => deflate::decompress(stored, out),
        CompressionType::Zstd => zstd::decompress(stored, out),
    }
}

/// A compressor of this kind and level for clusters of `cluster_size` bytes.
pub fn compressor(kind: CompressionType, level: CompressionLevel, cluster_size: u64) -> Result<Box<dyn Compressor>> {
    let level = kind.level(level)?;
    let room = usize::try_from(cluster_size).expect("clusters are at most 2 MiB");
    Ok(match kind {
        CompressionType::Zlib => Box::new(deflate::Deflater::new(room, level)?),
        CompressionType::Zstd => Box::new(zstd::Encoder::new(room, level)?),
    })
}

#[cfg(test)]
mod tests;
