//! The anti-forensic splitter: spreads a key over so much space that a partly erased copy is worth nothing.
//! Specification: "LUKS1 On-Disk Format", "Anti-forensic splitting".

use zeroize::Zeroizing;

use super::hash::HashAlg;
use super::random;
use crate::error::Result;

/// Hashes a block piecewise in place: every piece of the digest's length becomes the digest of its number and itself.
fn diffuse(hash: HashAlg, block: &mut [u8]) {
    for (number, piece) in (0u32..).zip(block.chunks_mut(hash.digest_len())) {
        let digest = hash.digest(&[&number.to_be_bytes(), piece]);
        piece.copy_from_slice(&digest[..piece.len()]);
    }
}

fn xor(block: &mut [u8], other: &[u8]) {
    for (byte, other) in block.iter_mut().zip(other) {
        *byte ^= other;
    }
}

/// Takes all stripes but the last of `stripes` together.
fn fold(hash: HashAlg, key_len: usize, stripes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut state = Zeroizing::new(vec![0; key_len]);
    for stripe in stripes[..stripes.len() - key_len].chunks_exact(key_len) {
        xor(&mut state, stripe);
        diffuse(hash, &mut state);
    }
    state
}

/// Spreads `key` over `stripes` pieces of its own length.
pub(super) fn split(hash: HashAlg, key: &[u8], stripes: u32) -> Result<Zeroizing<Vec<u8>>> {
    let mut out = Zeroizing::new(vec![0; key.len() * stripes as usize]);
    let last = out.len() - key.len();
    random(&mut out[..last])?;
    let state = fold(hash, key.len(), &out);
    out[last..].copy_from_slice(key);
    xor(&mut out[last..], &state);
    Ok(out)
}

/// The reverse of [`split`]: `stripes` are whole pieces of `key_len` bytes, at least one.
pub(super) fn merge(hash: HashAlg, key_len: usize, stripes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut key = fold(hash, key_len, stripes);
    xor(&mut key, &stripes[stripes.len() - key_len..]);
    key
}
