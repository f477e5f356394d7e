//! Opening: from a passphrase through a key slot to the master key and the cipher of the payload.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::HeaderWindow;
use super::header::{DIGEST_LEN, HEADER_LEN, Header, SECTOR, STRIPES, Slot};
use super::info::LuksInfo;
use crate::crypto::afsplit;
use crate::crypto::mode::{Mode, Sectors};
use crate::crypto::{Secret, SectorCipher};
use crate::error::{Error, Result};
use crate::image::ImageLimits;

/// An opened volume.
#[derive(Clone, Debug)]
pub struct Luks {
    /// What is known without a key.
    pub info: LuksInfo,
    /// The cipher of the payload; `None` if the volume was opened without a passphrase.
    pub cipher: Option<Arc<dyn SectorCipher>>,
}

/// Opens a volume: reads and checks its header and, where a passphrase is given, finds the key slot it unlocks. That may
/// take no more than `max_rounds` rounds of key derivation, whichever slot it is.
pub fn open(window: HeaderWindow<'_>, passphrase: Option<&Secret>, max_rounds: u64) -> Result<Luks> {
    let mut bytes = [0; HEADER_LEN];
    window.read(&mut bytes, 0)?;
    let header = Header::parse(&bytes)?;
    let info = LuksInfo::new(&header);
    let Some(passphrase) = passphrase else {
        return Ok(Luks { info, cipher: None });
    };
    if header.spec.mode == Mode::Xts && !header.key_len.is_multiple_of(2) {
        return Err(Error::corrupt("XTS cipher key length should be a multiple of 2"));
    }
    ImageLimits::check("Rounds of key derivation", header.rounds(), max_rounds)?;
    for slot in header.slots.iter().filter(|slot| slot.active) {
        if let Some(key) = unlock(&header, slot, window, passphrase.bytes())? {
            let cipher = Sectors::new(header.spec, &key)?;
            return Ok(Luks { info, cipher: Some(Arc::new(cipher)) });
        }
    }
    Err(Error::invalid("Invalid password, cannot unlock any keyslot"))
}

/// The master key, if the passphrase belongs to this slot.
pub(super) fn unlock(
    header: &Header,
    slot: &Slot,
    window: HeaderWindow<'_>,
    passphrase: &[u8],
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let mut slot_key = Zeroizing::new(vec![0; header.key_len]);
    header.hash.pbkdf2(passphrase, &slot.salt, slot.iterations, &mut slot_key);
    let split_len = header.key_len * STRIPES as usize;
    // The key material is encrypted in whole sectors, also where the stripes do not fill the last one.
    let mut stripes = Zeroizing::new(vec![0; split_len.next_multiple_of(SECTOR as usize)]);
    window.read(&mut stripes, u64::from(slot.key_offset) * SECTOR)?;
    Sectors::new(header.spec, &slot_key)?.decrypt(0, &mut stripes)?;
    let key = afsplit::merge(header.hash, header.key_len, &stripes[..split_len]);
    let mut digest = [0; DIGEST_LEN];
    header.hash.pbkdf2(&key, &header.digest_salt, header.digest_iterations, &mut digest);
    Ok((digest == header.digest).then_some(key))
}
