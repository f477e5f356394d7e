//! Other passphrases for a volume: filling key slots, and erasing them.
//!
//! A slot is filled before the header says that it is, and the header says that a slot is empty before its key material
//! is overwritten: in between there is always a slot that works, unless the user forces otherwise.

use zeroize::Zeroizing;

use super::HeaderWindow;
use super::create::{self, CreateOptions, DEFAULT_MILLIS};
use super::header::{HEADER_LEN, Header, SALT_LEN, SECTOR, SLOTS, STRIPES};
use super::open::unlock;
use crate::crypto::{Secret, Secrets, random};
use crate::error::{Context, Error, Result};

/// How often key material is overwritten: storages may keep a former copy of a block for a while.
const ERASE_PASSES: usize = 40;

/// What is to become of key slots.
#[derive(Clone, Debug)]
pub struct KeyChange {
    active: bool,
    new_secret: Option<String>,
    old_secret: Option<String>,
    slot: Option<i64>,
    millis: Option<u64>,
}

impl KeyChange {
    /// Reads the options `state`, `new-secret`, `old-secret`, `keyslot` and `iter-time`; `get` gives the value of an
    /// option by its name without `prefix`.
    pub fn parse<'a>(prefix: &str, get: impl Fn(&str) -> Option<&'a str>) -> Result<Self> {
        let active = match get("state") {
            None => return Err(Error::invalid("Parameter 'state' is missing")),
            Some("active") => true,
            Some("inactive") => false,
            Some(other) => {
                return Err(Error::invalid(format!("Parameter 'state' does not accept value '{other}'")));
            }
        };
        let slot = get("keyslot").map(|text| number(prefix, text)).transpose()?;
        let millis = get("iter-time").map(|text| create::parse_millis(prefix, text)).transpose()?;
        let owned = |name| get(name).map(str::to_owned);
        Ok(KeyChange { active, new_secret: owned("new-secret"), old_secret: owned("old-secret"), slot, millis })
    }
}

fn number(prefix: &str, text: &str) -> Result<i64> {
    // The caller has checked that it is a number; one with a minus sign stays one.
    text.parse().map_err(|_| Error::invalid(format!("Parameter '{prefix}keyslot' expects integer")))
}

/// The key slots of a volume that can be written.
#[derive(Clone, Copy, Debug)]
pub struct KeySlots<'a> {
    /// Where the header and the key material are.
    pub window: HeaderWindow<'a>,
    /// What the volume was opened with.
    pub passphrase: &'a Secret,
    /// All secrets.
    pub secrets: &'a Secrets,
    /// Do also what loses the data for good.
    pub force: bool,
}

impl KeySlots<'_> {
    /// Does what was asked for.
    pub fn change(&self, change: &KeyChange) -> Result<()> {
        let mut bytes = [0; HEADER_LEN];
        self.window.read(&mut bytes, 0)?;
        let header = Header::parse(&bytes)?;
        if change.active { self.fill(header, change) } else { self.erase(header, change) }
    }

    fn secret(&self, id: &str) -> Result<&Secret> {
        let secret = self.secrets.get(id).ok_or_else(|| Error::not_found(format!("No secret with id '{id}'")))?;
        if std::str::from_utf8(secret.bytes()).is_err() || secret.bytes().contains(&0) {
            return Err(Error::invalid(format!("Data from secret {id} is not valid UTF-8")));
        }
        Ok(secret)
    }

    /// Locks the master key into a slot under another passphrase.
    fn fill(&self, mut header: Header, change: &KeyChange) -> Result<()> {
        let Some(id) = &change.new_secret else {
            return Err(Error::invalid("'new-secret' is required to activate a keyslot"));
        };
        if change.old_secret.is_some() {
            return Err(Error::invalid("'old-secret' must not be given when activating keyslots"));
        }
        let index = match change.slot {
            Some(slot) => {
                // The reference takes the number for an unsigned one here, and for a signed one where it erases.
                let index = in_range(if slot < 0 { i64::from(slot as u32) } else { slot })?;
                if header.slots[index].active && !self.force {
                    let text = format!("Refusing to overwrite active keyslot {index} - please erase it first");
                    return Err(Error::invalid(text));
                }
                index
            }
            None => header
                .slots
                .iter()
                .position(|slot| !slot.active)
                .ok_or_else(|| Error::invalid("Can't add a keyslot - all keyslots are in use"))?,
        };
        let new = self.secret(id)?;
        let key = self.master_key(&header)?;
        let options = CreateOptions::of(&header, change.millis.unwrap_or(DEFAULT_MILLIS));
        let iterations = options.iterations(header.key_len, 1)?;
        if header.slots[index].active {
            self.deactivate(&mut header, index)?;
        }
        let slot = &mut header.slots[index];
        (slot.iterations, slot.salt) = (iterations, create::salt()?);
        let material = options.lock(&key, slot, new)?;
        self.write(&material, u64::from(slot.key_offset) * SECTOR)?;
        slot.active = true;
        self.write(&header.to_bytes(), 0)
    }

    fn master_key(&self, header: &Header) -> Result<Zeroizing<Vec<u8>>> {
        for slot in header.slots.iter().filter(|slot| slot.active) {
            if let Some(key) = unlock(header, slot, self.window, self.passphrase.bytes())? {
                return Ok(key);
            }
        }
        Err(Error::invalid("Invalid password, cannot unlock any keyslot"))
    }

    fn erase(&self, mut header: Header, change: &KeyChange) -> Result<()> {
        if change.new_secret.is_some() {
            return Err(Error::invalid("'new-secret' must not be given when erasing keyslots"));
        }
        if change.millis.is_some() {
            return Err(Error::invalid("'iter-time' must not be given when erasing keyslots"));
        }
        let old = change.old_secret.as_deref().map(|id| self.secret(id)).transpose()?;
        let gone = match (change.slot, old) {
            (Some(slot), old) => vec![self.slot_to_erase(&header, in_range(slot)?, old)?],
            (None, Some(old)) => self.slots_to_erase(&header, old)?,
            (None, None) => {
                return Err(Error::invalid(
                    "To erase keyslot(s), either explicit keyslot index or the password currently contained in them \
                     must be given",
                ));
            }
        };
        for index in gone {
            self.deactivate(&mut header, index)?;
            self.overwrite(&header, index)?;
        }
        Ok(())
    }

    fn slot_to_erase(&self, header: &Header, index: usize, old: Option<&Secret>) -> Result<usize> {
        let slot = &header.slots[index];
        if let Some(old) = old
            && (!slot.active || unlock(header, slot, self.window, old.bytes())?.is_none())
        {
            return Err(Error::invalid(format!(
                "Given keyslot {index} doesn't contain the given old password for erase operation"
            )));
        }
        if !slot.active && !self.force {
            return Err(Error::invalid(format!("Given keyslot {index} is already erased (inactive) ")));
        }
        let others = header.slots.iter().enumerate().any(|(other, slot)| other != index && slot.active);
        if !others && !self.force {
            return Err(Error::invalid(format!(
                "Attempt to erase the only active keyslot {index} which will erase all the data in the image \
                 irreversibly - refusing operation"
            )));
        }
        Ok(index)
    }

    fn slots_to_erase(&self, header: &Header, old: &Secret) -> Result<Vec<usize>> {
        let mut matching = Vec::new();
        let mut active = 0;
        for (index, slot) in header.slots.iter().enumerate().filter(|(_, slot)| slot.active) {
            active += 1;
            if unlock(header, slot, self.window, old.bytes())?.is_some() {
                matching.push(index);
            }
        }
        if matching.is_empty() {
            return Err(Error::invalid("No keyslots match given (old) password for erase operation"));
        }
        if matching.len() == active && !self.force {
            return Err(Error::invalid(
                "All the active keyslots match the (old) password that was given and erasing them will erase all the \
                 data in the image irreversibly - refusing operation",
            ));
        }
        Ok(matching)
    }

    /// Says in the header that a slot is empty.
    fn deactivate(&self, header: &mut Header, index: usize) -> Result<()> {
        let slot = &mut header.slots[index];
        (slot.active, slot.iterations, slot.salt) = (false, 0, [0; SALT_LEN]);
        self.write(&header.to_bytes(), 0)
    }

    /// Makes the key material of a slot unreadable, on the storage and not only in a cache.
    fn overwrite(&self, header: &Header, index: usize) -> Result<()> {
        let len = (header.key_len * STRIPES as usize).next_multiple_of(SECTOR as usize);
        let mut noise = vec![0; len];
        for _ in 0..ERASE_PASSES {
            random(&mut noise)?;
            self.write(&noise, u64::from(header.slots[index].key_offset) * SECTOR)
                .context(|| format!("Failed to erase keyslot {index}"))?;
        }
        Ok(())
    }

    /// Writes inside the window, and waits until it is on stable storage.
    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        let HeaderWindow { storage, offset, len } = self.window;
        let fits = at.checked_add(bytes.len() as u64).is_some_and(|end| end <= len);
        if !fits {
            return Err(Error::corrupt("Request for data outside of extension header"));
        }
        storage.write_at(bytes, offset + at)?;
        storage.flush()
    }
}

fn in_range(slot: i64) -> Result<usize> {
    let index = usize::try_from(slot).ok().filter(|index| *index < SLOTS);
    index
        .ok_or_else(|| Error::invalid(format!("Invalid keyslot {slot} specified, must be between 0 and {}", SLOTS - 1)))
}
