//! Encryption of guest data. Specification: "crypt_method", "Full disk encryption header pointer", "Data encryption".
//!
//! The two methods tie a sector to different places: legacy AES to its guest offset, LUKS to its host offset.

use std::sync::Arc;

use serde_json::{Value, json};

use super::header::{Header, crypt_method};
use crate::crypto::luks::{self, HeaderWindow};
use crate::crypto::{LegacyAes, Secret, Secrets, SectorCipher, Unlock};
use crate::error::{Error, Result};
use crate::format::CreateOptions;
use crate::image::{OpenContext, OpenFlags, Options};
use crate::storage::Storage;

const PREFIX: &str = "encrypt.";

/// The cipher of an image, and which offset its initialisation vectors come from.
#[derive(Clone, Debug)]
pub struct Crypt {
    cipher: Arc<dyn SectorCipher>,
    by_host: bool,
    /// What unlocked a LUKS header, which other key slots are made with.
    passphrase: Option<Secret>,
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

    fn legacy(passphrase: &Secret) -> Result<Self> {
        Ok(Crypt { cipher: Arc::new(LegacyAes::new(passphrase.bytes())?), by_host: false, passphrase: None })
    }

    fn luks(cipher: Arc<dyn SectorCipher>, passphrase: Option<&Secret>) -> Self {
        Crypt { cipher, by_host: true, passphrase: passphrase.cloned() }
    }

    /// What unlocked the LUKS header.
    pub fn passphrase(&self) -> Option<&Secret> {
        self.passphrase.as_ref()
    }
}

/// The run-time options about encryption, names without "encrypt.".
#[derive(Debug, Default)]
struct OpenOptions(Options);

impl OpenOptions {
    /// Takes `encrypt.*` out of the options, nested or with dots in their names. An `encrypt` that holds no options is
    /// left, as an option that nobody knows.
    fn take(options: &mut Options) -> Self {
        let mut given = Options::new();
        if options.get("encrypt").is_some_and(Value::is_object)
            && let Some(Value::Object(map)) = options.shift_remove("encrypt")
        {
            given = map;
        }
        let dotted: Vec<String> = options.keys().filter(|key| key.starts_with(PREFIX)).cloned().collect();
        for key in dotted {
            let value = options.shift_remove(&key).unwrap_or_default();
            given.insert(key[PREFIX.len()..].to_owned(), value);
        }
        OpenOptions(given)
    }

    /// The format, which may be given although the header says it.
    fn format(&self) -> Option<String> {
        self.0.get("format").map(scalar)
    }

    /// The ID of the secret. Fails if there are options that nobody knows.
    fn key_secret(&self) -> Result<Option<String>> {
        for (key, value) in &self.0 {
            // A group of options, as an object or with a dot in its name.
            let group = key.split_once('.').map(|(group, _)| group).or(value.is_object().then_some(key));
            match (group, key.as_str()) {
                (Some(group), _) => return Err(Error::invalid(format!("Parameters '{group}.*' are unexpected"))),
                (None, "format" | "key-secret") => {}
                _ => return Err(Error::invalid(format!("Parameter '{key}' is unexpected"))),
            }
        }
        Ok(self.0.get("key-secret").map(scalar))
    }
}

/// A value as text, as it would have been written on the command line.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The cipher of the image with this header and what `info` shows about it, with the key that `options` name. Without a
/// cipher if the image is not encrypted, or opened for its metadata only.
pub fn open(
    header: &Header,
    file: &Arc<dyn Storage>,
    options: &mut Options,
    flags: OpenFlags,
    context: &OpenContext,
) -> Result<(Option<Crypt>, Option<Value>)> {
    let given = OpenOptions::take(options);
    if header.crypt_method == crypt_method::NONE {
        // A key for an image that is not encrypted is no error, a format is.
        return match given.format() {
            Some(format) => {
                Err(Error::invalid(format!("No encryption in image header, but options specified format '{format}'")))
            }
            None => Ok((None, None)),
        };
    }
    let legacy = header.crypt_method == crypt_method::AES;
    let name = if legacy { "aes" } else { "luks" };
    if let Some(format) = given.format().filter(|format| format != name) {
        return Err(Error::invalid(format!(
            "Header reported '{name}' encryption format but options specify '{format}'"
        )));
    }
    let key_secret = given.key_secret()?;
    let unlock = Unlock { prefix: PREFIX, key_secret: key_secret.as_deref(), secrets: &context.secrets };
    let passphrase = || if flags.no_io { Ok(None) } else { unlock.passphrase().map(Some) };
    if legacy {
        let crypt = passphrase()?.map(Crypt::legacy).transpose()?;
        return Ok((crypt, Some(json!({ "format": "aes" }))));
    }
    let pointer = header
        .crypto
        .ok_or_else(|| Error::invalid(format!("Missing CRYPTO header for crypt method {}", header.crypt_method)))?;
    let passphrase = passphrase()?;
    let window = HeaderWindow { storage: &**file, offset: pointer.offset, len: pointer.len };
    let opened = luks::open(window, passphrase, context.policy.limits.key_rounds)?;
    Ok((opened.cipher.map(|cipher| Crypt::luks(cipher, passphrase)), Some(opened.info.qcow2_json())))
}

/// How a new image is to be encrypted, decided by its creation options.
#[derive(Debug)]
pub struct CreateCrypt {
    passphrase: Secret,
    /// `None` for legacy AES.
    luks: Option<luks::CreateOptions>,
}

/// Options that only LUKS has, without prefix.
const LUKS_OPTIONS: &[&str] =
    &["cipher-alg", "cipher-mode", "ivgen-alg", "ivgen-hash-alg", "hash-alg", "iter-time", "detached-header"];

impl CreateCrypt {
    /// Reads `encryption` and `encrypt.*`. `None` if the image is not to be encrypted.
    pub fn parse(options: &CreateOptions, secrets: &Secrets) -> Result<Option<Self>> {
        let get = |name: &str| options.get(&format!("{PREFIX}{name}"));
        let alias = match options.get("encryption") {
            None | Some("off") => None,
            Some("on") => Some("aes"),
            Some(_) => return Err(Error::invalid("Parameter 'encryption' expects 'on' or 'off'")),
        };
        let format = match (get("format"), alias) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid(
                    "'encrypt.format' and its alias 'encryption' can't be used at the same time",
                ));
            }
            (Some(format), None) => format,
            (None, Some(alias)) => alias,
            (None, None) if options.0.iter().any(|(name, _)| name.starts_with(PREFIX)) => {
                return Err(Error::invalid("Parameter 'encrypt.format' is missing"));
            }
            (None, None) => return Ok(None),
        };
        let luks = match format {
            // The reference knows its first encryption by two names.
            "aes" | "qcow" => {
                if let Some(name) = LUKS_OPTIONS.iter().find(|name| get(name).is_some()) {
                    return Err(Error::invalid(format!("Parameter '{PREFIX}{name}' is unexpected")));
                }
                None
            }
            "luks" => Some(luks::Choices::parse(PREFIX, get)?),
            _ => return Err(Error::invalid(format!("Parameter 'format' does not accept value '{format}'"))),
        };
        let passphrase = Unlock { prefix: PREFIX, key_secret: get("key-secret"), secrets }.passphrase()?.clone();
        let luks = luks.map(luks::Choices::check).transpose()?;
        Ok(Some(CreateCrypt { passphrase, luks }))
    }

    /// The value of the header's encryption method field.
    pub fn method(&self) -> u32 {
        if self.luks.is_some() { crypt_method::LUKS } else { crypt_method::AES }
    }

    /// The length in bytes of the region for the LUKS header, which the header extension states; 0 for legacy AES.
    pub fn header_len(&self) -> u64 {
        self.luks.map_or(0, |luks| luks.payload_offset())
    }

    /// Makes the key. Returns what is to be written at the start of the region for the LUKS header (the rest of the
    /// region being zeros), and the cipher of the new image. For LUKS this takes as long as `encrypt.iter-time` says.
    pub fn create(&self) -> Result<(Vec<u8>, Crypt)> {
        match &self.luks {
            None => Ok((Vec::new(), Crypt::legacy(&self.passphrase)?)),
            Some(luks) => {
                let new = luks.create(&self.passphrase)?;
                Ok((new.header, Crypt::luks(new.cipher, Some(&self.passphrase))))
            }
        }
    }
}

#[cfg(test)]
#[path = "crypt_tests.rs"]
mod tests;
