//! A hash map for the few thousand tables that are in memory, looked up several times for every cluster that is written.
//!
//! The standard hasher keeps whoever chooses the keys from making them collide, and takes longer than everything else that
//! planning a cluster does. Here the number of keys is bounded by the caches that use it, so that the worst a crafted image
//! achieves is a search through one cache.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map whose keys are offsets, cluster numbers or indices; for bounded numbers of them.
pub type OffsetMap<K, V> = HashMap<K, V, BuildHasherDefault<OffsetHasher>>;

/// Hashes one integer by a multiplication whose halves are folded: the low bits of offsets are all the same, and the map
/// looks at both ends of the result.
#[derive(Debug, Default)]
pub struct OffsetHasher(u64);

impl Hasher for OffsetHasher {
    fn write_u64(&mut self, key: u64) {
        /// 2⁶⁴ divided by the golden ratio: spreads neighbouring keys far apart.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(self.0 ^ key) * u128::from(SPREAD);
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn write_usize(&mut self, key: usize) {
        self.write_u64(key as u64);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_tables_spread() {
        for cluster_bits in [9, 16, 21] {
            let hashes = (0..4096_u64).map(|number| {
                let mut hasher = OffsetHasher::default();
                hasher.write_u64(number << cluster_bits);
                hasher.finish()
            });
            let mut buckets = vec![0; 4096];
            let mut tags = vec![0; 128];
            for hash in hashes {
                buckets[(hash & 4095) as usize] += 1;
                tags[(hash >> 57) as usize] += 1;
            }
            assert!(buckets.iter().all(|keys| *keys <= 10), "clusters of 2^{cluster_bits}: {:?}", buckets.iter().max());
            assert!(tags.iter().all(|keys| *keys <= 100), "clusters of 2^{cluster_bits}: {:?}", tags.iter().max());
        }
    }
}
