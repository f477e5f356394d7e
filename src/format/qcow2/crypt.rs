//! Encryption of guest data. Specification: "crypt_method", "Full disk encryption header pointer", "Data encryption".
//!
//! The two methods tie a sector to different places: legacy AES to its guest offset, LUKS to its host offset.

use std::sync::Arc;

use serde_json::Value;

use super::header::{Header, crypt_method};
use crate::crypto::SectorCipher;
use crate::error::{Error, Result};
use crate::image::{OpenContext, OpenFlags, Options};
use crate::storage::Storage;

/// The cipher of an image, and which offset its initialisation vectors come from.
#[derive(Debug)]
pub struct Crypt {
    cipher: Box<dyn SectorCipher>,
    by_host: bool,
}

impl Crypt {
    /// Decrypts whole sectors that lie at `guest` and `host`.
    pub fn decrypt(&self, guest: u64, host: u64, data: &mut [u8]) -> Result<()> {
        self.cipher.decrypt(if self.by_host { host } else { guest }, data)
    }

    /// Encrypts whole sectors that will lie at `guest` and `host`.
    pub fn encrypt(&self, guest: u64, host: u64, data: &mut [u8]) -> Result<()> {
        self.cipher.encrypt(if self.by_host { host } else { guest }, data)
    }
}

/// The cipher of the image with this header and what `info` shows about it, with the key that `options` name.
pub fn open(
    header: &Header,
    _file: &Arc<dyn Storage>,
    _options: &mut Options,
    _flags: OpenFlags,
    _context: &OpenContext,
) -> Result<(Option<Crypt>, Option<Value>)> {
    match header.crypt_method {
        crypt_method::NONE => Ok((None, None)),
        _ => Err(Error::unsupported("Encrypted images are not supported yet")),
    }
}
