//! The first encryption of qcow2 (crypt method 1): AES-128-CBC with the passphrase itself as the key.
//!
//! It is weak (no key derivation, predictable initialisation vectors), and kept for images that have it.

use zeroize::Zeroizing;

use super::SectorCipher;
use super::cipher::CipherAlg;
use super::ivgen::IvGenAlg;
use super::mode::{CipherSpec, Mode, Sectors};
use crate::error::Result;

const SPEC: CipherSpec =
    CipherSpec { cipher: CipherAlg::Aes128, mode: Mode::Cbc, ivgen: IvGenAlg::Plain64, ivgen_hash: None };

/// The cipher of crypt method 1. Offsets given to it are guest offsets.
#[derive(Debug)]
pub struct LegacyAes(Sectors);

impl LegacyAes {
    /// The cipher for a passphrase, of which the first 16 bytes count; a shorter one is filled up with zeros.
    pub fn new(passphrase: &[u8]) -> Result<Self> {
        let mut key = Zeroizing::new([0; 16]);
        let len = passphrase.len().min(key.len());
        key[..len].copy_from_slice(&passphrase[..len]);
        Sectors::new(SPEC, &key[..]).map(LegacyAes)
    }
}

impl SectorCipher for LegacyAes {
    fn sector_size(&self) -> u64 {
        self.0.sector_size()
    }

    fn encrypt(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        self.0.encrypt(offset, data)
    }

    fn decrypt(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        self.0.decrypt(offset, data)
    }
}
