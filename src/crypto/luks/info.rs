//! What `info` shows of a LUKS volume.

use serde_json::{Map, Value, json};

use super::header::{Header, SECTOR, STRIPES};
use crate::crypto::ivgen::IvGenAlg;

/// A key slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LuksSlot {
    /// Whether it holds a key.
    pub active: bool,
    /// Rounds of its key derivation.
    pub iterations: u32,
    /// Where its key material starts, in bytes from the start of the header.
    pub key_offset: u64,
}

/// What can be known about a volume without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LuksInfo {
    /// Cipher, as options name it.
    pub cipher_alg: &'static str,
    /// Mode of the cipher.
    pub cipher_mode: &'static str,
    /// Generator of initialisation vectors.
    pub ivgen_alg: &'static str,
    /// Hash of the generator, for ESSIV.
    pub ivgen_hash_alg: Option<&'static str>,
    /// Hash of key derivation.
    pub hash_alg: &'static str,
    /// The volume's UUID.
    pub uuid: String,
    /// Where the payload starts, in bytes from the start of the header.
    pub payload_offset: u64,
    /// Rounds of the derivation of the master key's digest.
    pub master_key_iters: u32,
    /// The key slots.
    pub slots: Vec<LuksSlot>,
}

impl LuksInfo {
    pub(super) fn new(header: &Header) -> Self {
        let spec = header.spec;
        LuksInfo {
            cipher_alg: spec.cipher.name(),
            cipher_mode: spec.mode.name(),
            ivgen_alg: spec.ivgen.name(),
            ivgen_hash_alg: spec.ivgen_hash.filter(|_| spec.ivgen == IvGenAlg::Essiv).map(|hash| hash.name()),
            hash_alg: header.hash.name(),
            uuid: header.uuid.clone(),
            payload_offset: u64::from(header.payload_offset) * SECTOR,
            master_key_iters: header.digest_iterations,
            slots: header
                .slots
                .iter()
                .map(|slot| LuksSlot {
                    active: slot.active,
                    iterations: slot.iterations,
                    key_offset: u64::from(slot.key_offset) * SECTOR,
                })
                .collect(),
        }
    }

    /// The `encrypt` object of a qcow2 image.
    pub fn qcow2_json(&self) -> Value {
        self.json(Some("luks"))
    }

    /// The `data` object of a plain LUKS volume.
    pub fn luks_json(&self) -> Value {
        self.json(None)
    }

    /// The keys in the reference's order, which is not a sorted one.
    fn json(&self, format: Option<&str>) -> Value {
        let mut map = Map::new();
        map.insert("ivgen-alg".into(), self.ivgen_alg.into());
        map.insert("detached-header".into(), false.into());
        map.insert("hash-alg".into(), self.hash_alg.into());
        map.insert("cipher-alg".into(), self.cipher_alg.into());
        map.insert("uuid".into(), self.uuid.as_str().into());
        if let Some(hash) = self.ivgen_hash_alg {
            map.insert("ivgen-hash-alg".into(), hash.into());
        }
        if let Some(format) = format {
            map.insert("format".into(), format.into());
        }
        map.insert("cipher-mode".into(), self.cipher_mode.into());
        map.insert("slots".into(), self.slots.iter().map(LuksSlot::json).collect());
        map.insert("payload-offset".into(), self.payload_offset.into());
        map.insert("master-key-iters".into(), self.master_key_iters.into());
        Value::Object(map)
    }
}

impl LuksSlot {
    fn json(&self) -> Value {
        if self.active {
            json!({ "active": true, "iters": self.iterations, "key-offset": self.key_offset, "stripes": STRIPES })
        } else {
            json!({ "active": false, "key-offset": self.key_offset })
        }
    }
}
