//! Creating: a random master key, locked into the first key slot.

use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};
use zeroize::Zeroizing;

use super::header::{DIGEST_LEN, HEADER_SECTORS, Header, SALT_LEN, SECTOR, SLOTS, STRIPES, Slot};
use crate::crypto::cipher::CipherAlg;
use crate::crypto::hash::HashAlg;
use crate::crypto::ivgen::IvGenAlg;
use crate::crypto::mode::{CipherSpec, Mode, Sectors};
use crate::crypto::{Secret, SectorCipher, afsplit, random};
use crate::error::{Error, Result};

/// Fewer rounds than this are never used, however slow the machine is.
const MIN_ITERATIONS: u32 = 1000;
/// The digest of the master key gets this fraction of the time that a key slot gets.
const DIGEST_TIME_SHARE: u64 = 8;
/// Milliseconds of key derivation unless `iter-time` is given.
pub(super) const DEFAULT_MILLIS: u64 = 2000;
/// CPU time in nanoseconds after which a measurement counts.
const MEASURE_NS: u64 = 100_000_000;

/// What options say about a new volume, before it is known whether that is possible.
#[derive(Clone, Debug)]
pub struct Choices {
    /// The cipher, or the name of one that is known but not implemented.
    cipher: Result<CipherAlg, String>,
    mode: Mode,
    ivgen: IvGenAlg,
    ivgen_hash: Option<HashAlg>,
    hash: HashAlg,
    millis: u64,
}

impl Choices {
    /// Reads the options `cipher-alg`, `cipher-mode`, `ivgen-alg`, `ivgen-hash-alg`, `hash-alg` and `iter-time`; `get`
    /// gives the value of an option by its name without `prefix`.
    pub fn parse<'a>(prefix: &str, get: impl Fn(&str) -> Option<&'a str>) -> Result<Self> {
        let get = &get;
        Ok(Choices {
            cipher: choice(get, "cipher-alg", Ok(CipherAlg::Aes256), CipherAlg::from_option)?,
            mode: choice(get, "cipher-mode", Mode::Xts, Mode::from_name)?,
            ivgen: choice(get, "ivgen-alg", IvGenAlg::Plain64, IvGenAlg::from_name)?,
            ivgen_hash: choice(get, "ivgen-hash-alg", None, |name| HashAlg::from_name(name).map(Some))?,
            hash: choice(get, "hash-alg", HashAlg::Sha256, HashAlg::from_name)?,
            millis: get("iter-time").map_or(Ok(DEFAULT_MILLIS), |text| parse_millis(prefix, text))?,
        })
    }

    /// Checks that the chosen algorithms exist and go together.
    pub fn check(self) -> Result<CreateOptions> {
        let options = self.resolve()?;
        // The reference aborts on such a volume, so nobody could use it. Ones that others made are read.
        if !(options.key_len() * STRIPES as usize).is_multiple_of(SECTOR as usize) {
            let CipherSpec { cipher, mode, .. } = options.spec;
            return Err(Error::unsupported(format!(
                "Cipher {} with mode {} is not supported: its key material is not whole sectors",
                cipher.name(),
                mode.name()
            )));
        }
        Ok(options)
    }

    /// The algorithms, which exist and go together.
    pub(super) fn resolve(self) -> Result<CreateOptions> {
        let not_supported = |name| Error::unsupported(format!("Algorithm '{name}' not supported"));
        let cipher = self.cipher.map_err(not_supported)?;
        let default_hash = (self.ivgen == IvGenAlg::Essiv).then_some(HashAlg::Sha256);
        let spec =
            CipherSpec { cipher, mode: self.mode, ivgen: self.ivgen, ivgen_hash: self.ivgen_hash.or(default_hash) };
        // Whoever makes the cipher knows all rules.
        Sectors::new(spec, &vec![0; spec.mode.key_len(cipher)])?;
        Ok(CreateOptions { spec, hash: self.hash, millis: self.millis })
    }
}

/// The value of an option out of a set of names.
fn choice<'a, T>(
    get: impl Fn(&str) -> Option<&'a str>,
    name: &str,
    default: T,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T> {
    let Some(value) = get(name) else { return Ok(default) };
    parse(value).ok_or_else(|| Error::invalid(format!("Parameter '{name}' does not accept value '{value}'")))
}

/// A new volume.
#[derive(Debug)]
pub struct NewLuks {
    /// The header and the key material, to be written where the volume's header lies; what is left of the
    /// [`CreateOptions::payload_offset`] bytes before the payload is zeros.
    pub header: Vec<u8>,
    /// The cipher of the payload.
    pub cipher: Arc<dyn SectorCipher>,
}

/// The checked choices for a new volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    spec: CipherSpec,
    hash: HashAlg,
    millis: u64,
}

impl CreateOptions {
    /// Those of a volume that exists, for another key slot of it.
    pub(super) fn of(header: &Header, millis: u64) -> Self {
        CreateOptions { spec: header.spec, hash: header.hash, millis }
    }

    /// The length of everything before the payload in bytes: header and all key slots.
    pub fn payload_offset(&self) -> u64 {
        u64::from(self.key_offset(SLOTS)) * SECTOR
    }

    fn key_len(&self) -> usize {
        self.spec.mode.key_len(self.spec.cipher)
    }

    /// Where the key material of a slot starts, in sectors. Slots start on borders of 4 KiB.
    fn key_offset(&self, slot: usize) -> u32 {
        let sectors = (self.key_len() * STRIPES as usize).div_ceil(SECTOR as usize) as u32;
        HEADER_SECTORS + slot as u32 * sectors.next_multiple_of(HEADER_SECTORS)
    }

    /// Makes a new volume with a random master key that `passphrase` unlocks. Takes as long as `iter-time` says.
    pub fn create(&self, passphrase: &Secret) -> Result<NewLuks> {
        let mut key = Zeroizing::new(vec![0; self.key_len()]);
        random(&mut key)?;
        let cipher = Sectors::new(self.spec, &key)?;
        let (digest_salt, slot_salt) = (salt()?, salt()?);
        let digest_iterations = self.iterations(DIGEST_LEN, DIGEST_TIME_SHARE)?;
        let slot_iterations = self.iterations(key.len(), 1)?;
        let mut digest = [0; DIGEST_LEN];
        self.hash.pbkdf2(&key, &digest_salt, digest_iterations, &mut digest);
        let header = Header {
            spec: self.spec,
            hash: self.hash,
            payload_offset: self.key_offset(SLOTS),
            key_len: key.len(),
            digest,
            digest_salt,
            digest_iterations,
            uuid: uuid()?,
            slots: std::array::from_fn(|index| Slot {
                active: index == 0,
                iterations: if index == 0 { slot_iterations } else { 0 },
                salt: if index == 0 { slot_salt } else { [0; SALT_LEN] },
                key_offset: self.key_offset(index),
            }),
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.resize(HEADER_SECTORS as usize * SECTOR as usize, 0);
        bytes.extend_from_slice(&self.lock(&key, &header.slots[0], passphrase)?);
        Ok(NewLuks { header: bytes, cipher: Arc::new(cipher) })
    }

    /// The key material of a slot: the spread key, encrypted under the passphrase.
    pub(super) fn lock(&self, key: &[u8], slot: &Slot, passphrase: &Secret) -> Result<Vec<u8>> {
        let mut slot_key = Zeroizing::new(vec![0; key.len()]);
        self.hash.pbkdf2(passphrase.bytes(), &slot.salt, slot.iterations, &mut slot_key);
        let stripes = afsplit::split(self.hash, key, STRIPES)?;
        let mut material = Zeroizing::new(vec![0; stripes.len().next_multiple_of(SECTOR as usize)]);
        material[..stripes.len()].copy_from_slice(&stripes);
        Sectors::new(self.spec, &slot_key)?.encrypt(0, &mut material)?;
        Ok(material.to_vec())
    }

    /// Rounds for a derived key of `len` bytes in the chosen time divided by `share`.
    pub(super) fn iterations(&self, len: usize, share: u64) -> Result<u32> {
        if self.millis == 0 {
            return Ok(MIN_ITERATIONS);
        }
        scale(rounds_per_second(self.hash, len)?, self.millis, share)
    }
}

fn scale(per_second: u64, millis: u64, share: u64) -> Result<u32> {
    let Some(scaled) = per_second.checked_mul(millis) else {
        return Err(Error::os(libc::ERANGE).context(format!("PBKDF iterations {per_second} too large to scale")));
    };
    let rounds = (scaled / share / 1000).max(u64::from(MIN_ITERATIONS));
    u32::try_from(rounds)
        .map_err(|_| Error::os(libc::ERANGE).context(format!("PBKDF iterations {rounds} larger than {}", u32::MAX)))
}

/// Rounds of PBKDF2 for a key of `len` bytes that this machine does in a second of one thread's time.
fn rounds_per_second(hash: HashAlg, len: usize) -> Result<u64> {
    let mut out = Zeroizing::new(vec![0; len]);
    let mut rounds = 1 << 13;
    loop {
        let start = thread_cpu_ns()?;
        hash.pbkdf2(b"calibration", &[0; SALT_LEN], rounds, &mut out);
        let spent = thread_cpu_ns()?.saturating_sub(start).max(1);
        if spent >= MEASURE_NS || rounds >= 1 << 30 {
            return Ok((u128::from(rounds) * 1_000_000_000 / u128::from(spent)) as u64);
        }
        rounds *= if spent < MEASURE_NS / 8 { 8 } else { 2 };
    }
}

fn thread_cpu_ns() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned())
}

pub(super) fn salt() -> Result<[u8; SALT_LEN]> {
    let mut salt = [0; SALT_LEN];
    random(&mut salt)?;
    Ok(salt)
}

/// A random UUID (RFC 9562, version 4).
fn uuid() -> Result<String> {
    let mut bytes = [0; 16];
    random(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

/// A number of milliseconds as `strtoull` reads it: decimal, hexadecimal (0x) or octal (0), where a negative number
/// counts down from 2^64.
pub(super) fn parse_millis(prefix: &str, text: &str) -> Result<u64> {
    let error = |what: &str| Error::invalid(format!("Parameter '{prefix}iter-time' expects {what}"));
    let trimmed = text.trim_ascii_start();
    let (negative, digits) = match trimmed.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let (radix, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(rest) => (16, rest),
        None if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        None => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(error("a number"));
    }
    let value = u64::from_str_radix(digits, radix)
        .map_err(|_| Error::invalid(format!("Value '{text}' is too large for parameter '{prefix}iter-time'")))?;
    match (negative, value) {
        (false, 0..=0x7fff_ffff_ffff_ffff) => Ok(value),
        (true, 0..=0x8000_0000_0000_0000) => Ok(value.wrapping_neg()),
        _ => Err(error("integer")),
    }
}
