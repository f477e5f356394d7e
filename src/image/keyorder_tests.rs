use serde_json::{Map, Value, json};

use super::{in_reference_order, ordered_keys};

fn object(keys: &[&str]) -> Map<String, Value> {
    keys.iter().map(|key| ((*key).to_owned(), Value::Null)).collect()
}

#[test]
fn keys_are_in_the_order_of_the_reference() {
    let cases: &[&[&str]] = &[
        &["children", "snapshots", "virtual-size", "filename", "cluster-size", "format", "actual-size"],
        &["format-specific", "full-backing-filename", "encrypted", "backing-filename", "dirty-flag"],
        &["compat", "compression-type", "lazy-refcounts", "bitmaps", "refcount-bits", "corrupt", "extended-l2"],
        &["encrypt.key-secret", "driver", "file"],
        &["offset", "driver", "size", "file"],
        &["icount", "vm-clock-nsec", "name", "date-sec", "date-nsec", "vm-clock-sec", "id", "vm-state-size"],
    ];
    for expected in cases {
        let mut shuffled = expected.to_vec();
        shuffled.sort_unstable();
        assert_eq!(ordered_keys(&object(&shuffled)), *expected);
    }
}

#[test]
fn the_youngest_of_a_bucket_comes_first() {
    assert_eq!(
        ordered_keys(&object(&["backing-filename-format", "children"])),
        ["children", "backing-filename-format"]
    );
    assert_eq!(
        ordered_keys(&object(&["children", "backing-filename-format"])),
        ["backing-filename-format", "children"]
    );
}

#[test]
fn nested_objects_are_ordered_too() {
    let value = in_reference_order(json!({"file": [{"filename": "x", "driver": "file"}], "driver": "raw"}));
    assert_eq!(value.to_string(), r#"{"driver":"raw","file":[{"driver":"file","filename":"x"}]}"#);
}
