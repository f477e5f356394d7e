//! Secrets by name, as `--object secret,id=...` defines them.

use std::collections::HashMap;
use std::fmt;

use zeroize::Zeroizing;

/// The bytes of a secret; wiped when dropped, never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// A secret of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Secret(Zeroizing::new(bytes))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Zeroizing<Vec<u8>>> for Secret {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Secret(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// All secrets of one run, by ID.
#[derive(Clone, Debug, Default)]
pub struct Secrets(HashMap<String, Secret>);

impl Secrets {
    /// Adds a secret.
    pub fn insert(&mut self, id: impl Into<String>, secret: Secret) {
        self.0.insert(id.into(), secret);
    }

    /// The secret with this ID.
    pub fn get(&self, id: &str) -> Option<&Secret> {
        self.0.get(id)
    }
}
