//! Encryption of disk contents: the legacy AES of qcow2, and LUKS.
//!
//! Both end in a [`SectorCipher`]: something that turns whole 512-byte sectors into their encrypted form and back, given
//! the number that ties the sector to its place.

mod secret;

use std::fmt::Debug;

use crate::error::Result;

pub use secret::{Secret, Secrets};

/// Encrypts and decrypts runs of sectors in place. Works from many threads at once.
pub trait SectorCipher: Send + Sync + Debug {
    /// The unit in bytes that has an initialisation vector of its own (512).
    fn sector_size(&self) -> u64;

    /// Encrypts `data`, whole sectors, the first of which lies at byte `offset` (of the guest for legacy AES, of the
    /// host payload for LUKS: the caller chooses).
    fn encrypt(&self, offset: u64, data: &mut [u8]) -> Result<()>;

    /// The reverse of [`SectorCipher::encrypt`].
    fn decrypt(&self, offset: u64, data: &mut [u8]) -> Result<()>;
}
