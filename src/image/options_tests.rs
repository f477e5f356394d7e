use serde_json::{Value, json};

use super::NodeOptions;

fn options(value: Value) -> NodeOptions {
    match value {
        Value::Object(object) => NodeOptions::new(object),
        _ => unreachable!("tests pass objects"),
    }
}

#[test]
fn nested_options_become_flat_and_win() {
    let flat = options(json!({"a": {"b": {"c": 1}, "e": []}, "a.b.c": 2, "l": [5, {"x": null}], "n": {}}));
    let expected = json!({"a.b.c": 1, "a.e": [], "l.0": 5, "l.1.x": null, "n": {}});
    assert_eq!(Value::Object(flat.into_map()), expected);
}

#[test]
fn children_are_taken_out() {
    let mut all = options(json!({"file.driver": "file", "file": {"x": {"y": 1}}, "filename": "z", "driver": "raw"}));
    let file = all.take_child("file");
    assert_eq!(Value::Object(file.into_map()), json!({"driver": "file", "x.y": 1}));
    assert_eq!(Value::Object(all.into_map()), json!({"filename": "z", "driver": "raw"}));
}

#[test]
fn values_are_checked_by_type() {
    let bools =
        [(json!(true), Some(true)), (json!("off"), Some(false)), (json!("yes"), Some(true)), (json!(null), None)];
    for (value, expected) in bools {
        assert_eq!(options(json!({"b": value})).take_bool("b").unwrap(), expected);
    }
    let error = options(json!({"b": 1})).take_bool("b").unwrap_err();
    assert_eq!(error.to_string(), "Parameter 'b' expects 'on' or 'off'");

    let sizes = [(json!("1k"), Some(1024)), (json!(77), Some(77)), (json!({}), None)];
    for (value, expected) in sizes {
        assert_eq!(options(json!({"s": value})).take_size("s").unwrap(), expected);
    }
    let error = options(json!({"s": -1})).take_size("s").unwrap_err();
    assert_eq!(error.to_string(), "Value '-1' is out of range for parameter 's'");
    let error = options(json!({"s": 1.5})).take_size("s").unwrap_err();
    assert_eq!(error.to_string(), "Parameter 's' expects a non-negative number below 2^64");
    assert_eq!(error.hints().len(), 2);

    assert_eq!(options(json!({"n": "10"})).take_number("n").unwrap(), Some(10));
    let error = options(json!({"n": "x"})).take_number("n").unwrap_err();
    assert_eq!(error.to_string(), "Parameter 'n' expects a number");
}
