use serde_json::{Value, json};

use super::{FileOptions, General, check_qcow2};
use crate::image::options::NodeOptions;
use crate::storage::CacheMode;

fn options(value: Value) -> NodeOptions {
    match value {
        Value::Object(object) => NodeOptions::new(object),
        _ => unreachable!("tests pass objects"),
    }
}

#[test]
fn general_options() {
    let mut all = options(json!({"read-only": "on", "cache": {"direct": true}, "node-name": "a.b-c_1", "x": 1}));
    let general = General::take(&mut all).unwrap();
    assert_eq!(general.read_only, Some(true));
    assert!(general.cache(CacheMode::WRITEBACK).direct);
    assert_eq!(all.first(), Some("x"));
    let cases = [
        (json!({"discard": "foo"}), "Invalid discard option"),
        (json!({"detect-zeroes": "foo"}), "invalid parameter value: foo"),
        (json!({"node-name": "1a"}), "Invalid node-name: '1a'"),
        (json!({"node-name": "#a"}), "Invalid node-name: '#a'"),
        (json!({"cache.direct": "maybe"}), "Parameter 'cache.direct' expects 'on' or 'off'"),
    ];
    for (value, message) in cases {
        assert_eq!(General::take(&mut options(value)).unwrap_err().to_string(), message);
    }
    General::take(&mut options(json!({"detect-zeroes": "unmap", "discard": "unmap"}))).unwrap();
}

#[test]
fn file_options() {
    let take = |value| FileOptions::take(&mut options(value));
    assert!(!take(json!({"locking": "off"})).unwrap().locking);
    take(json!({"locking": "x"})).unwrap_err();
    let native = take(json!({"aio": "native"})).unwrap();
    assert!(native.locking);
    native.check(true).unwrap();
    native.check(false).unwrap_err();
}

#[test]
fn qcow2_options() {
    let check = |value| check_qcow2(&mut options(value), 65536, 8 << 20, true).map_err(|error| error.to_string());
    check(json!({"lazy-refcounts": true, "l2-cache-size": "1M", "overlap-check": {"template": "all"}})).unwrap();
    let cases = [
        (
            json!({"l2-cache-entry-size": 3}),
            "L2 cache entry size must be a power of two between 512 and the cluster size (65536)",
        ),
        (json!({"cache-size": 1, "l2-cache-size": 2}), "l2-cache-size may not exceed cache-size"),
        (json!({"cache-clean-interval": "99999999999"}), "Cache clean interval too big"),
        (json!({"cache-size": "1E"}), "Refcount cache size too big"),
        (json!({"refcount-cache-size": "9E", "discard-no-unref": true}), "Refcount cache size too big"),
        (json!({"cache-clean-interval": "x"}), "Parameter 'cache-clean-interval' expects a number"),
    ];
    for (value, message) in cases {
        assert_eq!(check(value).unwrap_err(), message);
    }
    assert!(check_qcow2(&mut options(json!({"lazy-refcounts": true})), 512, 8 << 20, false).is_err());
    assert!(check_qcow2(&mut options(json!({"discard-no-unref": "on"})), 512, 8 << 20, false).is_err());
    check(json!({"cache-size": "9E", "l2-cache-size": "9E"})).unwrap();
    let mut rest = options(json!({"overlap-check": {"x": true}}));
    check_qcow2(&mut rest, 512, 8 << 20, true).unwrap();
    assert_eq!(rest.first(), Some("overlap-check.x"));
}
