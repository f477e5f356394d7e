//! Secrets that arrive encoded or encrypted: base64, and AES-256-CBC under another secret.

use aes::cipher::{BlockCipherDecrypt, KeyInit};
use zeroize::Zeroizing;

use super::Secret;
use crate::error::{Error, Result};

const BLOCK: usize = 16;
const KEY: usize = 32;

/// Decodes base64 the way the reference does: line ends are allowed, what is left of an incomplete group of four is
/// dropped, and padding may stand anywhere. (Base64 libraries refuse or repair such texts, and a passphrase that comes
/// out different is a disk that stays shut.)
pub fn decode_base64(text: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() / 4 * 3));
    let mut group = Zeroizing::new([0; 4]);
    let mut filled = 0;
    for &byte in text.iter().filter(|byte| **byte != b'\n') {
        group[filled] = byte;
        filled += 1;
        if filled < 4 {
            digit(byte)?;
            continue;
        }
        filled = 0;
        let mut bits = 0;
        for byte in *group {
            bits = bits << 6 | digit(byte)?;
        }
        // Three bytes in 24 bits; a padding character in one of the last two places takes its byte away.
        out.push((bits >> 16) as u8);
        if group[2] != b'=' {
            out.push((bits >> 8) as u8);
        }
        if group[3] != b'=' {
            out.push(bits as u8);
        }
    }
    Ok(out)
}

fn digit(byte: u8) -> Result<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        b'=' => 0,
        _ => return Err(Error::invalid("Base64 data contains invalid characters")),
    };
    Ok(value.into())
}

/// Decrypts the payload of a secret with the 32 bytes of another one; the padding (PKCS #7) is checked and taken off.
pub fn unseal(key: &Secret, iv: Option<&str>, sealed: &[u8], base64: bool) -> Result<Secret> {
    let key: &[u8; KEY] =
        key.bytes().try_into().map_err(|_| Error::invalid(format!("Key should be {KEY} bytes in length")))?;
    let iv = iv.ok_or_else(|| Error::invalid("IV is required to decrypt secret"))?;
    let iv = decode_base64(iv.as_bytes())?;
    let mut previous: [u8; BLOCK] = iv
        .as_slice()
        .try_into()
        .map_err(|_| Error::invalid(format!("IV should be {BLOCK} bytes in length not {}", iv.len())))?;
    let mut data = if base64 { decode_base64(sealed)? } else { Zeroizing::new(sealed.to_vec()) };
    if data.len() % BLOCK != 0 {
        return Err(Error::invalid(format!("Length {} must be a multiple of block size {BLOCK}", data.len())));
    }
    let cipher = aes::Aes256::new(key.into());
    for block in data.chunks_exact_mut(BLOCK) {
        let block: &mut [u8; BLOCK] = block.try_into().expect("chunks are blocks");
        let sealed = *block;
        cipher.decrypt_block(block.into());
        block.iter_mut().zip(previous).for_each(|(byte, mask)| *byte ^= mask);
        previous = sealed;
    }
    let padding = data.last().copied().unwrap_or(0);
    if usize::from(padding) > BLOCK {
        let text = format!("Incorrect number of padding bytes ({padding}) found on decrypted data");
        return Err(Error::invalid(text));
    }
    let len = data.len().saturating_sub(padding.into());
    data.truncate(len);
    Ok(data.into())
}

#[cfg(test)]
#[path = "sealed_tests.rs"]
mod tests;
