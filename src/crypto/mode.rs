//! Modes of operation over whole sectors, arranged so that the ciphers always see many independent blocks at once.

use std::fmt;

use zeroize::Zeroize;

use super::SectorCipher;
use super::cipher::{BlockCipher, CipherAlg};
use super::hash::HashAlg;
use super::ivgen::{IvGen, IvGenAlg};
use crate::error::{Error, Result};

const SECTOR: usize = 512;
/// Sectors that go through the cipher together: the lanes of CBC encryption, and the unit of the other modes. 16 sectors
/// with their tweaks stay in the first-level cache.
const LANES: usize = 16;
const BATCH: usize = LANES * SECTOR;

/// The modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every block by itself.
    Ecb,
    /// Cipher block chaining.
    Cbc,
    /// XEX with tweaks (IEEE 1619), for ciphers with 16-byte blocks.
    Xts,
    /// Counter mode: the initialisation vector is the first counter, big-endian.
    Ctr,
}

impl Mode {
    /// The mode of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "ecb" => Some(Mode::Ecb),
            "cbc" => Some(Mode::Cbc),
            "xts" => Some(Mode::Xts),
            "ctr" => Some(Mode::Ctr),
            _ => None,
        }
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Ecb => "ecb",
            Mode::Cbc => "cbc",
            Mode::Xts => "xts",
            Mode::Ctr => "ctr",
        }
    }

    /// Length of the key in bytes: XTS has one for the data and one for the tweaks.
    pub fn key_len(self, cipher: CipherAlg) -> usize {
        if self == Mode::Xts { 2 * cipher.key_len() } else { cipher.key_len() }
    }
}

/// What a cipher, its mode and its initialisation vectors are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CipherSpec {
    /// The cipher.
    pub cipher: CipherAlg,
    /// The mode.
    pub mode: Mode,
    /// The generator of initialisation vectors.
    pub ivgen: IvGenAlg,
    /// The hash of the generator; ESSIV needs it, the others may carry one without using it.
    pub ivgen_hash: Option<HashAlg>,
}

/// Encrypts and decrypts sectors with one key.
pub(super) struct Sectors {
    cipher: Box<dyn BlockCipher>,
    tweak: Option<Box<dyn BlockCipher>>,
    ivgen: IvGen,
    spec: CipherSpec,
}

impl fmt::Debug for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sectors").field("spec", &self.spec).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Encrypt,
    Decrypt,
}

impl Sectors {
    /// A cipher of this kind; `key` must have the length [`Mode::key_len`] says.
    pub(super) fn new(spec: CipherSpec, key: &[u8]) -> Result<Self> {
        let CipherSpec { cipher, mode, .. } = spec;
        let ivgen = IvGen::new(spec.ivgen, cipher, spec.ivgen_hash, key)?;
        if mode == Mode::Xts && cipher.block_size() != 16 {
            return Err(Error::unsupported("Unsupported cipher mode xts"));
        }
        if key.len() != mode.key_len(cipher) {
            return Err(Error::invalid(format!("Cipher key length {} should be {}", key.len(), mode.key_len(cipher))));
        }
        let (data_key, tweak_key) = key.split_at(cipher.key_len());
        let tweak = (mode == Mode::Xts).then(|| cipher.with_key(tweak_key));
        Ok(Sectors { cipher: cipher.with_key(data_key), tweak, ivgen, spec })
    }

    fn run(&self, direction: Direction, offset: u64, data: &mut [u8]) -> Result<()> {
        if !offset.is_multiple_of(SECTOR as u64) || !data.len().is_multiple_of(SECTOR) {
            return Err(Error::invalid(format!(
                "Encrypted data at {offset:#x} of {:#x} bytes is not whole sectors",
                data.len()
            )));
        }
        if self.spec.cipher.block_size() == 16 {
            self.run_blocks::<16>(direction, offset, data);
        } else {
            self.run_blocks::<8>(direction, offset, data);
        }
        Ok(())
    }

    fn run_blocks<const B: usize>(&self, direction: Direction, offset: u64, data: &mut [u8]) {
        let mut scratch = Scratch([0; BATCH]);
        let mut ivs = [[0; B]; LANES];
        let mut sector = offset / SECTOR as u64;
        for batch in data.chunks_mut(BATCH) {
            let lanes = batch.len() / SECTOR;
            let ivs: &mut [[u8; B]] = &mut ivs[..lanes];
            if self.spec.mode != Mode::Ecb {
                self.ivgen.fill(sector, B, ivs.as_flattened_mut());
            }
            sector += lanes as u64;
            let scratch = &mut scratch.0[..batch.len()];
            match (self.spec.mode, direction) {
                (Mode::Ecb, Direction::Encrypt) => self.cipher.encrypt(batch),
                (Mode::Ecb, Direction::Decrypt) => self.cipher.decrypt(batch),
                (Mode::Cbc, Direction::Encrypt) => cbc_encrypt(&*self.cipher, ivs, batch),
                (Mode::Cbc, Direction::Decrypt) => cbc_decrypt(&*self.cipher, ivs, batch, scratch),
                (Mode::Ctr, _) => ctr(&*self.cipher, ivs, batch, scratch),
                (Mode::Xts, _) => {
                    let tweak = self.tweak.as_deref().expect("XTS is made with a tweak cipher");
                    tweak.encrypt(ivs.as_flattened_mut());
                    tweaks(ivs, scratch);
                    xor(batch, scratch);
                    match direction {
                        Direction::Encrypt => self.cipher.encrypt(batch),
                        Direction::Decrypt => self.cipher.decrypt(batch),
                    }
                    xor(batch, scratch);
                }
            }
        }
        ivs.as_flattened_mut().zeroize();
    }
}

/// Key stream or tweaks; wiped, because with the stored bytes they give the contents away.
struct Scratch([u8; BATCH]);

impl Drop for Scratch {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn xor(data: &mut [u8], other: &[u8]) {
    for (byte, other) in data.iter_mut().zip(other) {
        *byte ^= other;
    }
}

/// Block `index` of the sector in `lane`.
fn block<const B: usize>(data: &mut [u8], lane: usize, index: usize) -> &mut [u8; B] {
    let at = lane * SECTOR + index * B;
    data[at..].first_chunk_mut().expect("the batch holds whole sectors")
}

/// A block depends on the one before it in its own sector only: one block of every sector goes through the cipher
/// together.
fn cbc_encrypt<const B: usize>(cipher: &dyn BlockCipher, ivs: &mut [[u8; B]], data: &mut [u8]) {
    for index in 0..SECTOR / B {
        for (lane, state) in ivs.iter_mut().enumerate() {
            xor(state, block::<B>(data, lane, index));
        }
        cipher.encrypt(ivs.as_flattened_mut());
        for (lane, state) in ivs.iter().enumerate() {
            *block(data, lane, index) = *state;
        }
    }
}

fn cbc_decrypt<const B: usize>(cipher: &dyn BlockCipher, ivs: &[[u8; B]], data: &mut [u8], stored: &mut [u8]) {
    stored.copy_from_slice(data);
    cipher.decrypt(data);
    for ((sector, stored), iv) in data.chunks_exact_mut(SECTOR).zip(stored.chunks_exact(SECTOR)).zip(ivs) {
        let (first, rest) = sector.split_at_mut(B);
        xor(first, iv);
        xor(rest, stored);
    }
}

/// The tweaks of every block: the encrypted sector number times successive powers of x in GF(2^128) (IEEE 1619, 5.2).
fn tweaks<const B: usize>(ivs: &[[u8; B]], out: &mut [u8]) {
    for (iv, out) in ivs.iter().zip(out.chunks_exact_mut(SECTOR)) {
        let mut bytes = [0; 16];
        bytes[..B].copy_from_slice(iv);
        let mut tweak = u128::from_le_bytes(bytes);
        for out in out.as_chunks_mut::<16>().0 {
            *out = tweak.to_le_bytes();
            let carry = (tweak >> 127) * 0x87;
            tweak = (tweak << 1) ^ carry;
        }
    }
}

fn ctr<const B: usize>(cipher: &dyn BlockCipher, ivs: &[[u8; B]], data: &mut [u8], stream: &mut [u8]) {
    for (iv, stream) in ivs.iter().zip(stream.chunks_exact_mut(SECTOR)) {
        let mut counter = *iv;
        for out in stream.as_chunks_mut::<B>().0 {
            *out = counter;
            for byte in counter.iter_mut().rev() {
                *byte = byte.wrapping_add(1);
                if *byte != 0 {
                    break;
                }
            }
        }
    }
    cipher.encrypt(stream);
    xor(data, stream);
}

impl SectorCipher for Sectors {
    fn sector_size(&self) -> u64 {
        SECTOR as u64
    }

    fn encrypt(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        self.run(Direction::Encrypt, offset, data)
    }

    fn decrypt(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        self.run(Direction::Decrypt, offset, data)
    }
}
