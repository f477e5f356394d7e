//! Initialisation vectors from sector numbers: `plain`, `plain64` and `essiv`.

use super::cipher::{BlockCipher, CipherAlg};
use super::hash::HashAlg;
use crate::error::{Error, Result};

/// The kinds of generators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IvGenAlg {
    /// The low 32 bits of the sector number, little-endian. Repeats every 2 TiB.
    Plain,
    /// The sector number as 64 bits, little-endian.
    Plain64,
    /// `plain64` encrypted with a key that is a hash of the master key.
    Essiv,
}

impl IvGenAlg {
    /// The generator of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "plain" => Some(IvGenAlg::Plain),
            "plain64" => Some(IvGenAlg::Plain64),
            "essiv" => Some(IvGenAlg::Essiv),
            _ => None,
        }
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            IvGenAlg::Plain => "plain",
            IvGenAlg::Plain64 => "plain64",
            IvGenAlg::Essiv => "essiv",
        }
    }
}

/// The cipher that encrypts sector numbers for ESSIV: of the payload cipher's family, with the key length of the hash.
pub(super) fn essiv_cipher(payload: CipherAlg, hash: HashAlg) -> Result<CipherAlg> {
    let family = match payload.header_name() {
        "aes" => "AES",
        "serpent" => "Serpent",
        "twofish" => "Twofish",
        _ => return Err(Error::unsupported(format!("Cipher {} not supported with essiv", payload.name()))),
    };
    let len = hash.digest_len();
    CipherAlg::with_header_name(payload.header_name())
        .find(|cipher| cipher.key_len() == len)
        .ok_or_else(|| Error::unsupported(format!("No {family} cipher with key size {len} available")))
}

/// A generator ready for use.
pub(super) enum IvGen {
    Plain,
    Plain64,
    Essiv(Box<dyn BlockCipher>),
}

impl IvGen {
    /// A generator. `hash` is the ESSIV hash, which the others do without; `key` is the whole master key.
    pub(super) fn new(alg: IvGenAlg, payload: CipherAlg, hash: Option<HashAlg>, key: &[u8]) -> Result<Self> {
        Ok(match alg {
            IvGenAlg::Plain => IvGen::Plain,
            IvGenAlg::Plain64 => IvGen::Plain64,
            IvGenAlg::Essiv => {
                let hash = hash.ok_or_else(|| Error::invalid("Missing IV generator hash specification"))?;
                IvGen::Essiv(essiv_cipher(payload, hash)?.with_key(&hash.digest(&[key])))
            }
        })
    }

    /// Fills `ivs`, `block` bytes each (8 or 16), for the sectors from `sector` on.
    pub(super) fn fill(&self, sector: u64, block: usize, ivs: &mut [u8]) {
        ivs.fill(0);
        let mask = if matches!(self, IvGen::Plain) { u64::from(u32::MAX) } else { u64::MAX };
        for (number, iv) in (sector..).zip(ivs.chunks_exact_mut(block)) {
            iv[..8].copy_from_slice(&(number & mask).to_le_bytes());
        }
        if let IvGen::Essiv(cipher) = self {
            cipher.encrypt(ivs);
        }
    }
}
