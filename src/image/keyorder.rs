//! The order of keys in the reference's JSON objects.
//!
//! The reference keeps objects in a hash table of 512 buckets and prints them bucket by bucket, the youngest key of a
//! bucket first. That order is visible in all its JSON output, in the human form of `info`, and in `json:{...}` file
//! names, so it is reproduced here.

use serde_json::{Map, Value};

const BUCKETS: u32 = 512;

/// The bucket of a key: the string hash of the Trivial Database.
pub(super) fn bucket(key: &str) -> u32 {
    // The length is only a seed, it may wrap.
    let mut hash = 0x238f_13af_u32.wrapping_mul(key.len() as u32);
    for (at, byte) in key.bytes().enumerate() {
        hash = hash.wrapping_add(u32::from(byte) << (at * 5 % 24));
    }
    1_103_515_243_u32.wrapping_mul(hash).wrapping_add(12345) % BUCKETS
}

/// The keys of an object in the reference's order, if they were added in the order in which they are in there.
pub fn ordered_keys(object: &Map<String, Value>) -> Vec<&str> {
    let mut keys: Vec<&str> = object.keys().rev().map(String::as_str).collect();
    // A stable sort: within a bucket, the youngest stays first.
    keys.sort_by_key(|key| bucket(key));
    keys
}

/// The same value with the keys of all objects in the reference's order. Printing it as it is then gives what the
/// reference prints.
pub fn in_reference_order(value: Value) -> Value {
    match value {
        Value::Object(mut object) => {
            let keys: Vec<String> = ordered_keys(&object).into_iter().map(str::to_owned).collect();
            let mut ordered = Map::new();
            for key in keys {
                if let Some(value) = object.get_mut(&key).map(Value::take) {
                    ordered.insert(key, in_reference_order(value));
                }
            }
            Value::Object(ordered)
        }
        Value::Array(values) => values.into_iter().map(in_reference_order).collect(),
        other => other,
    }
}

#[cfg(test)]
#[path = "keyorder_tests.rs"]
mod tests;
