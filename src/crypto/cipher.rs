//! The block ciphers of LUKS behind one object-safe interface that works on many blocks per call, because the
//! implementations are several times faster on eight or more independent blocks than on one.

use super::twofish::Twofish;
use cipher::array::Array;
use cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit};

/// A keyed block cipher. Works on runs of independent blocks.
pub(super) trait BlockCipher: Send + Sync {
    /// Encrypts every block of `data` by itself; `data` is whole blocks.
    fn encrypt(&self, data: &mut [u8]);
    /// The reverse.
    fn decrypt(&self, data: &mut [u8]);
}

struct Blocks<C>(C);

impl<C> BlockCipher for Blocks<C>
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser + Send + Sync,
{
    fn encrypt(&self, data: &mut [u8]) {
        let (blocks, rest) = Array::slice_as_chunks_mut(data);
        debug_assert!(rest.is_empty(), "whole blocks");
        self.0.encrypt_blocks(blocks);
    }

    fn decrypt(&self, data: &mut [u8]) {
        let (blocks, rest) = Array::slice_as_chunks_mut(data);
        debug_assert!(rest.is_empty(), "whole blocks");
        self.0.decrypt_blocks(blocks);
    }
}

/// A cipher with its key length, named as the creation options name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherAlg {
    /// AES, 16-byte key.
    Aes128,
    /// AES, 24-byte key.
    Aes192,
    /// AES, 32-byte key.
    Aes256,
    /// CAST5 (RFC 2144), 16-byte key, the only one here with 8-byte blocks.
    Cast5,
    /// Serpent, 16-byte key.
    Serpent128,
    /// Serpent, 24-byte key.
    Serpent192,
    /// Serpent, 32-byte key.
    Serpent256,
    /// Twofish, 16-byte key.
    Twofish128,
    /// Twofish, 24-byte key.
    Twofish192,
    /// Twofish, 32-byte key.
    Twofish256,
}

/// Cipher, option name, name in a LUKS header, key length in bytes.
const CIPHERS: &[(CipherAlg, &str, &str, usize)] = &[
    (CipherAlg::Aes128, "aes-128", "aes", 16),
    (CipherAlg::Aes192, "aes-192", "aes", 24),
    (CipherAlg::Aes256, "aes-256", "aes", 32),
    (CipherAlg::Cast5, "cast5-128", "cast5", 16),
    (CipherAlg::Serpent128, "serpent-128", "serpent", 16),
    (CipherAlg::Serpent192, "serpent-192", "serpent", 24),
    (CipherAlg::Serpent256, "serpent-256", "serpent", 32),
    (CipherAlg::Twofish128, "twofish-128", "twofish", 16),
    (CipherAlg::Twofish192, "twofish-192", "twofish", 24),
    (CipherAlg::Twofish256, "twofish-256", "twofish", 32),
];

/// Names the option knows although the reference has no implementation of them.
const NOT_IMPLEMENTED: &[&str] = &["des", "3des", "sm4"];

impl CipherAlg {
    /// All of them.
    #[cfg(test)]
    pub(super) const ALL: [CipherAlg; CIPHERS.len()] = {
        let mut all = [CipherAlg::Aes128; CIPHERS.len()];
        let mut at = 0;
        while at < CIPHERS.len() {
            all[at] = CIPHERS[at].0;
            at += 1;
        }
        all
    };

    fn row(self) -> &'static (CipherAlg, &'static str, &'static str, usize) {
        CIPHERS.iter().find(|row| row.0 == self).expect("every cipher has a row")
    }

    /// The cipher that `-o cipher-alg=` names: `None` for a name the option does not know, the name itself for one it
    /// knows although there is no such cipher.
    pub(super) fn from_option(name: &str) -> Option<Result<Self, String>> {
        if NOT_IMPLEMENTED.contains(&name) {
            return Some(Err(name.to_owned()));
        }
        CIPHERS.iter().find(|row| row.1 == name).map(|row| Ok(row.0))
    }

    /// The name in options and in `info`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The name in a LUKS header.
    pub(super) fn header_name(self) -> &'static str {
        self.row().2
    }

    /// All ciphers with that name in a LUKS header, shortest key first.
    pub(super) fn with_header_name(name: &str) -> impl Iterator<Item = CipherAlg> {
        CIPHERS.iter().filter(move |row| row.2 == name).map(|row| row.0)
    }

    /// Length of the key in bytes.
    pub fn key_len(self) -> usize {
        self.row().3
    }

    /// Length of a block in bytes.
    pub(super) fn block_size(self) -> usize {
        if self == CipherAlg::Cast5 { 8 } else { 16 }
    }

    /// The cipher with a key, which must have the right length.
    pub(super) fn with_key(self, key: &[u8]) -> Box<dyn BlockCipher> {
        assert_eq!(key.len(), self.key_len(), "callers cut the key to the cipher's length");
        fn boxed<C>(key: &[u8]) -> Box<dyn BlockCipher>
        where
            C: KeyInit + BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser + Send + Sync + 'static,
        {
            Box::new(Blocks(C::new_from_slice(key).expect("the length was checked above")))
        }
        match self {
            CipherAlg::Aes128 => boxed::<aes::Aes128>(key),
            CipherAlg::Aes192 => boxed::<aes::Aes192>(key),
            CipherAlg::Aes256 => boxed::<aes::Aes256>(key),
            CipherAlg::Cast5 => boxed::<cast5::Cast5>(key),
            CipherAlg::Serpent128 | CipherAlg::Serpent192 | CipherAlg::Serpent256 => boxed::<serpent::Serpent>(key),
            CipherAlg::Twofish128 | CipherAlg::Twofish192 | CipherAlg::Twofish256 => Box::new(Twofish::new(key)),
        }
    }
}
