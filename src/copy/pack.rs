//! Compressing the clusters of a window.

use crate::error::Result;
use crate::image::{Compressor, Payload, Place, Range};

/// A compressor and the clusters of one window that went through it.
pub struct Packer {
    compressor: Box<dyn Compressor>,
    cluster: u64,
    places: Vec<Place>,
    /// All compressed clusters, one behind the other.
    stored: Vec<u8>,
    /// Where the compressed cluster at a guest offset lies in `stored`.
    spans: Vec<(u64, std::ops::Range<usize>)>,
    /// A cluster cut short by the end of the image, completed with zeros.
    padded: Vec<u8>,
}

impl Packer {
    /// A packer for clusters of this many bytes.
    pub fn new(compressor: Box<dyn Compressor>, cluster: u64) -> Self {
        let (places, stored, spans, padded) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Packer { compressor, cluster, places, stored, spans, padded }
    }

    /// Compresses the clusters of `ranges`, whose bytes are in `window`, which starts at guest offset `start`; those for
    /// whose guest offset and length `plain` says so stay as they are.
    pub fn pack(
        &mut self,
        ranges: &[Range],
        start: u64,
        window: &[u8],
        plain: impl Fn(u64, u64) -> Result<bool>,
    ) -> Result<()> {
        self.places.clear();
        self.stored.clear();
        self.spans.clear();
        for range in ranges {
            let mut guest = range.guest;
            while guest < range.end() {
                let len = self.cluster.min(range.end() - guest);
                let from = (guest - start) as usize;
                if plain(guest, len)? {
                    self.places.push(Place { guest, len, payload: Payload::Plain });
                } else {
                    self.pack_cluster(guest, &window[from..from + len as usize])?;
                }
                guest += len;
            }
        }
        Ok(())
    }

    fn pack_cluster(&mut self, guest: u64, bytes: &[u8]) -> Result<()> {
        let len = bytes.len() as u64;
        let whole = if len < self.cluster {
            self.padded.clear();
            self.padded.extend_from_slice(bytes);
            self.padded.resize(self.cluster as usize, 0);
            &self.padded
        } else {
            bytes
        };
        let payload = match self.compressor.compress(whole)? {
            Some(stored) => {
                let from = self.stored.len();
                self.stored.extend_from_slice(stored);
                self.spans.push((guest, from..from + stored.len()));
                Payload::Compressed { stored: stored.len() as u64 }
            }
            None => Payload::Plain,
        };
        self.places.push(Place { guest, len, payload });
        Ok(())
    }

    /// What has to be placed, in guest order.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The compressed bytes of the cluster at `guest`; empty if it was not compressed.
    pub fn stored(&self, guest: u64) -> &[u8] {
        match self.spans.binary_search_by_key(&guest, |(at, _)| *at) {
            Ok(index) => &self.stored[self.spans[index].1.clone()],
            Err(_) => &[],
        }
    }
}
