//! The LUKS1 header on disk, and what it means. Specification: "LUKS1 On-Disk Format", "The LUKS partition header".

#![deny(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

use std::ops::Range;

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::crypto::cipher::CipherAlg;
use crate::crypto::hash::HashAlg;
use crate::crypto::ivgen::{IvGenAlg, essiv_cipher};
use crate::crypto::mode::{CipherSpec, Mode};
use crate::error::{Error, Result};

/// `LUKS` and two bytes that a text transfer would damage.
pub(super) const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
/// Number of key slots.
pub(super) const SLOTS: usize = 8;
/// Pieces that a key is spread over.
pub(super) const STRIPES: u32 = 4000;
/// Length of a salt in bytes.
pub(super) const SALT_LEN: usize = 32;
/// Length of the digest that tells the right master key, in bytes.
pub(super) const DIGEST_LEN: usize = 20;
/// The unit of the offsets in the header.
pub(super) const SECTOR: u64 = 512;
/// Space for the header before the first key slot, in sectors.
pub(super) const HEADER_SECTORS: u32 = 8;

const ACTIVE: u32 = 0x00ac_71f3;
const INACTIVE: u32 = 0x0000_dead;

/// A key slot as it lies on disk.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct RawSlot {
    pub active: U32,
    pub iterations: U32,
    pub salt: [u8; SALT_LEN],
    pub key_offset: U32,
    pub stripes: U32,
}

/// The header as it lies on disk.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct RawHeader {
    pub magic: [u8; 6],
    pub version: U16,
    pub cipher_name: [u8; 32],
    pub cipher_mode: [u8; 32],
    pub hash_spec: [u8; 32],
    pub payload_offset: U32,
    pub key_bytes: U32,
    pub digest: [u8; DIGEST_LEN],
    pub digest_salt: [u8; SALT_LEN],
    pub digest_iterations: U32,
    pub uuid: [u8; 40],
    pub slots: [RawSlot; SLOTS],
}

/// Length of the header on disk in bytes.
pub(super) const HEADER_LEN: usize = size_of::<RawHeader>();
const _: () = assert!(HEADER_LEN == 592 && size_of::<RawSlot>() == 48);

/// A key slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub active: bool,
    pub iterations: u32,
    pub salt: [u8; SALT_LEN],
    /// In sectors.
    pub key_offset: u32,
}

/// A valid header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub spec: CipherSpec,
    pub hash: HashAlg,
    /// In sectors.
    pub payload_offset: u32,
    /// Length of the master key in bytes; for XTS it may be odd, which is of no use but no reason to refuse `info`.
    pub key_len: usize,
    pub digest: [u8; DIGEST_LEN],
    pub digest_salt: [u8; SALT_LEN],
    pub digest_iterations: u32,
    pub uuid: String,
    pub slots: [Slot; SLOTS],
}

impl Header {
    /// Reads and checks a header. The order of the checks decides which message a header with several faults gets.
    pub(super) fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        let raw = RawHeader::read_from_bytes(bytes).expect("the array has the length of the structure");
        raw.check_fields()?;
        for index in 0..SLOTS {
            raw.check_slot(index)?;
        }
        raw.interpret()
    }

    /// The rounds of key derivation that trying a passphrase takes at most: each slot in use, and the digest for each.
    pub(super) fn rounds(&self) -> u64 {
        let of_slot = |slot: &Slot| u64::from(slot.iterations).saturating_add(self.digest_iterations.into());
        self.slots.iter().filter(|slot| slot.active).map(of_slot).fold(0, u64::saturating_add)
    }

    /// The header on disk.
    #[expect(clippy::cast_possible_truncation, reason = "keys are at most 65 bytes long")]
    pub(super) fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut raw = RawHeader::new_zeroed();
        raw.magic = MAGIC;
        raw.version = U16::new(1);
        put(&mut raw.cipher_name, self.spec.cipher.header_name());
        put(&mut raw.cipher_mode, &mode_spec(self.spec));
        put(&mut raw.hash_spec, self.hash.name());
        raw.payload_offset = U32::new(self.payload_offset);
        raw.key_bytes = U32::new(self.key_len as u32);
        raw.digest = self.digest;
        raw.digest_salt = self.digest_salt;
        raw.digest_iterations = U32::new(self.digest_iterations);
        put(&mut raw.uuid, &self.uuid);
        for (slot, raw) in self.slots.iter().zip(&mut raw.slots) {
            raw.active = U32::new(if slot.active { ACTIVE } else { INACTIVE });
            raw.iterations = U32::new(slot.iterations);
            raw.salt = slot.salt;
            raw.key_offset = U32::new(slot.key_offset);
            raw.stripes = U32::new(STRIPES);
        }
        raw.as_bytes().try_into().expect("the structure has the length of the array")
    }
}

/// Copies a text that is known to fit into a field that ends with zeros.
fn put(field: &mut [u8], text: &str) {
    field[..text.len()].copy_from_slice(text.as_bytes());
}

/// The text of the field "cipher mode": mode, generator, and its hash where it has been chosen.
fn mode_spec(spec: CipherSpec) -> String {
    let (mode, ivgen) = (spec.mode.name(), spec.ivgen.name());
    match spec.ivgen_hash {
        Some(hash) => format!("{mode}-{ivgen}:{}", hash.name()),
        None => format!("{mode}-{ivgen}"),
    }
}

/// The text in a field that ends with a zero, or with the field.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    crate::text::from_bytes(&field[..end])
}

/// Sectors that key material takes. Wraps at 32 bits: a slot nobody can use must not keep a good one from being used.
fn material_sectors(key_bytes: u32, stripes: u32) -> u32 {
    let sectors = u64::from(key_bytes).saturating_mul(stripes.into()).div_ceil(SECTOR);
    #[expect(clippy::cast_possible_truncation, reason = "wraps, as said above")]
    let wrapped = sectors as u32;
    wrapped
}

impl RawHeader {
    fn check_fields(&self) -> Result<()> {
        if self.magic != MAGIC {
            return Err(Error::corrupt("Volume is not in LUKS format"));
        }
        if self.version.get() != 1 {
            return Err(Error::unsupported(format!("LUKS version {} is not supported", self.version)));
        }
        let texts =
            [(&self.cipher_name, "cipher name"), (&self.cipher_mode, "cipher mode"), (&self.hash_spec, "hash spec")];
        for (field, name) in texts {
            if !field.contains(&0) {
                return Err(Error::corrupt(format!("LUKS header {name} is not NUL terminated")));
            }
        }
        if self.payload_offset.get() < HEADER_SECTORS {
            return Err(Error::corrupt("LUKS payload is overlapping with the header"));
        }
        if self.digest_iterations.get() == 0 {
            return Err(Error::corrupt("LUKS key iteration count is zero"));
        }
        Ok(())
    }

    /// Where the key material of a slot lies, in sectors.
    fn material(&self, index: usize) -> Range<u32> {
        let slot = &self.slots[index];
        let start = slot.key_offset.get();
        start..start.wrapping_add(material_sectors(self.key_bytes.get(), slot.stripes.get()))
    }

    fn check_slot(&self, index: usize) -> Result<()> {
        let slot = &self.slots[index];
        let corrupt = |text: String| Err(Error::corrupt(text));
        if slot.stripes.get() != STRIPES {
            // The reference prints the count as a signed number.
            let stripes = slot.stripes.get().cast_signed();
            return corrupt(format!("Keyslot {index} is corrupted (stripes {stripes} != {STRIPES})"));
        }
        let active = slot.active.get();
        if active != ACTIVE && active != INACTIVE {
            return corrupt(format!("Keyslot {index} state (active/disable) is corrupted"));
        }
        if active == ACTIVE && slot.iterations.get() == 0 {
            return corrupt(format!("Keyslot {index} iteration count is zero"));
        }
        let here = self.material(index);
        if here.start < HEADER_SECTORS {
            return corrupt(format!("Keyslot {index} is overlapping with the LUKS header"));
        }
        if here.end > self.payload_offset.get() {
            return corrupt(format!("Keyslot {index} is overlapping with the encrypted payload"));
        }
        for later in (0..SLOTS).skip(index).skip(1) {
            let there = self.material(later);
            if here.start < there.end && there.start < here.end {
                return corrupt(format!("Keyslots {index} and {later} are overlapping in the header"));
            }
        }
        Ok(())
    }

    fn interpret(&self) -> Result<Header> {
        let mode_text = text(&self.cipher_mode);
        let Some((mode_name, ivgen_text)) = mode_text.split_once('-') else {
            return Err(Error::corrupt(format!("Unexpected cipher mode string format '{mode_text}'")));
        };
        let (ivgen_name, ivgen_hash) = match ivgen_text.split_once(':') {
            Some((name, hash)) => (name, Some(hash_alg(hash)?)),
            None => (ivgen_text, None),
        };
        let mode = Mode::from_name(mode_name).ok_or_else(|| not_supported("Cipher mode", mode_name))?;
        let (cipher, key_len) = self.cipher(mode)?;
        let hash = hash_alg(&text(&self.hash_spec))?;
        let ivgen = IvGenAlg::from_name(ivgen_name).ok_or_else(|| not_supported("IV generator", ivgen_name))?;
        if ivgen == IvGenAlg::Essiv {
            let hash = ivgen_hash.ok_or_else(|| Error::corrupt("Missing IV generator hash specification"))?;
            essiv_cipher(cipher, hash)?;
        }
        Ok(Header {
            spec: CipherSpec { cipher, mode, ivgen, ivgen_hash },
            hash,
            payload_offset: self.payload_offset.get(),
            key_len,
            digest: self.digest,
            digest_salt: self.digest_salt,
            digest_iterations: self.digest_iterations.get(),
            uuid: text(&self.uuid),
            slots: self.slots.map(|raw| Slot {
                active: raw.active.get() == ACTIVE,
                iterations: raw.iterations.get(),
                salt: raw.salt,
                key_offset: raw.key_offset.get(),
            }),
        })
    }

    /// The cipher of that name whose key has the right length, and the length of the master key.
    fn cipher(&self, mode: Mode) -> Result<(CipherAlg, usize)> {
        let key_bytes = self.key_bytes.get();
        let cipher_bytes = if mode == Mode::Xts { key_bytes / 2 } else { key_bytes };
        let name = text(&self.cipher_name);
        let cipher = CipherAlg::with_header_name(&name)
            .find(|cipher| cipher.key_len() as u64 == u64::from(cipher_bytes))
            .ok_or_else(|| {
                Error::unsupported(format!("Algorithm '{name}' with key size {cipher_bytes} bytes not supported"))
            })?;
        // At most one more than twice the longest key of a cipher.
        Ok((cipher, key_bytes as usize))
    }
}

fn not_supported(what: &str, name: &str) -> Error {
    Error::unsupported(format!("{what} '{name}' not supported"))
}

fn hash_alg(name: &str) -> Result<HashAlg> {
    HashAlg::from_name(name).ok_or_else(|| not_supported("Hash algorithm", name))
}
