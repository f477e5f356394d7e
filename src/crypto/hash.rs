//! The hashes of LUKS: for deriving keys, spreading key material and making ESSIV keys.

use md5::Md5;
use pbkdf2::pbkdf2_hmac;
use ripemd::Ripemd160;
use sha1::Sha1;
use sha2::Digest;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use sm3::Sm3;
use zeroize::{Zeroize, Zeroizing};

/// A hash algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashAlg {
    /// MD5.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// RIPEMD-160.
    Ripemd160,
    /// SM3.
    Sm3,
}

/// Hash, name (the same in options, headers and `info`), length of a digest in bytes.
const HASHES: &[(HashAlg, &str, usize)] = &[
    (HashAlg::Md5, "md5", 16),
    (HashAlg::Sha1, "sha1", 20),
    (HashAlg::Sha224, "sha224", 28),
    (HashAlg::Sha256, "sha256", 32),
    (HashAlg::Sha384, "sha384", 48),
    (HashAlg::Sha512, "sha512", 64),
    (HashAlg::Ripemd160, "ripemd160", 20),
    (HashAlg::Sm3, "sm3", 32),
];

impl HashAlg {
    /// The hash of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        HASHES.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    fn row(self) -> &'static (HashAlg, &'static str, usize) {
        HASHES.iter().find(|row| row.0 == self).expect("every hash has a row")
    }

    /// The name.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Length of a digest in bytes.
    pub(super) fn digest_len(self) -> usize {
        self.row().2
    }

    /// The digest of `parts` put together.
    pub(super) fn digest(self, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        fn run<D: Digest>(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
            let mut state = D::new();
            for part in parts {
                state.update(part);
            }
            let mut digest = state.finalize();
            let copy = Zeroizing::new(digest.to_vec());
            digest.as_mut_slice().zeroize();
            copy
        }
        match self {
            HashAlg::Md5 => run::<Md5>(parts),
            HashAlg::Sha1 => run::<Sha1>(parts),
            HashAlg::Sha224 => run::<Sha224>(parts),
            HashAlg::Sha256 => run::<Sha256>(parts),
            HashAlg::Sha384 => run::<Sha384>(parts),
            HashAlg::Sha512 => run::<Sha512>(parts),
            HashAlg::Ripemd160 => run::<Ripemd160>(parts),
            HashAlg::Sm3 => run::<Sm3>(parts),
        }
    }

    /// PBKDF2 with HMAC of this hash (RFC 8018) into `out`.
    pub(super) fn pbkdf2(self, password: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
        match self {
            HashAlg::Md5 => pbkdf2_hmac::<Md5>(password, salt, iterations, out),
            HashAlg::Sha1 => pbkdf2_hmac::<Sha1>(password, salt, iterations, out),
            HashAlg::Sha224 => pbkdf2_hmac::<Sha224>(password, salt, iterations, out),
            HashAlg::Sha256 => pbkdf2_hmac::<Sha256>(password, salt, iterations, out),
            HashAlg::Sha384 => pbkdf2_hmac::<Sha384>(password, salt, iterations, out),
            HashAlg::Sha512 => pbkdf2_hmac::<Sha512>(password, salt, iterations, out),
            HashAlg::Ripemd160 => pbkdf2_hmac::<Ripemd160>(password, salt, iterations, out),
            HashAlg::Sm3 => pbkdf2_hmac::<Sm3>(password, salt, iterations, out),
        }
    }
}
