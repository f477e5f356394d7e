//! Finding the passphrase that options name.

use super::{Secret, Secrets};
use crate::error::{Error, Result};

/// Which secret opens an image.
#[derive(Clone, Copy, Debug)]
pub struct Unlock<'a> {
    /// What stands before `key-secret` in the name of the option: "encrypt." for qcow2, nothing for plain LUKS.
    pub prefix: &'static str,
    /// The ID of the secret, if the option was given.
    pub key_secret: Option<&'a str>,
    /// All secrets.
    pub secrets: &'a Secrets,
}

impl<'a> Unlock<'a> {
    /// The passphrase. It has to be text, as keys are derived from what a user types.
    pub fn passphrase(&self) -> Result<&'a Secret> {
        let id = self
            .key_secret
            .ok_or_else(|| Error::invalid(format!("Parameter '{}key-secret' is required for cipher", self.prefix)))?;
        let secret = self.secrets.get(id).ok_or_else(|| Error::not_found(format!("No secret with id '{id}'")))?;
        // The reference's check takes a zero byte for a mistake, too.
        if std::str::from_utf8(secret.bytes()).is_err() || secret.bytes().contains(&0) {
            return Err(Error::invalid(format!("Data from secret {id} is not valid UTF-8")));
        }
        Ok(secret)
    }
}
