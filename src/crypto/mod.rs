//! Encryption of disk contents: the legacy AES of qcow2, and LUKS.
//!
//! Both end in a [`SectorCipher`]: something that turns whole 512-byte sectors into their encrypted form and back, given
//! the number that ties the sector to its place.

mod afsplit;
mod cipher;
mod hash;
mod ivgen;
mod legacy;
pub mod luks;
mod mode;
mod sealed;
mod secret;
mod twofish;
mod unlock;

use std::fmt::Debug;

use crate::error::{Error, Result};

pub use cipher::CipherAlg;
pub use hash::HashAlg;
pub use ivgen::IvGenAlg;
pub use legacy::LegacyAes;
pub use mode::{CipherSpec, Mode};
pub use sealed::{decode_base64, unseal};
pub use secret::{Secret, Secrets};
pub use unlock::Unlock;

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

/// Fills `out` with random bytes from the system, good enough for keys.
fn random(out: &mut [u8]) -> Result<()> {
    getrandom::fill(out).map_err(|error| Error::os(error.raw_os_error().unwrap_or(libc::EIO)))
}

#[cfg(test)]
mod tests;
