//! `snapshot -l --output=json`: what `info` says about snapshots, by itself.

mod common;

use common::Sandbox;
use common::run::Tool;
use serde_json::Value;

#[test]
fn the_list_as_json_is_the_one_of_info() {
    let sandbox = Sandbox::new();
    let ours = |line: &str| sandbox.run(Tool::Ours, line).expect_ok(line).stdout;
    let json = |line: &str| serde_json::from_str::<Value>(&ours(line)).expect("JSON");
    ours("create -q -f qcow2 disk 1M");
    assert_eq!(json("snapshot -l --output=json disk"), Value::Array(Vec::new()));
    ours("snapshot -c one disk");
    ours("snapshot -c two disk");
    let list = json("snapshot -l --output=json disk");
    assert_eq!(list, json("info --output=json disk")["snapshots"]);
    assert_eq!(list[1]["name"], "two");
    assert_eq!(ours("snapshot -l --output=human disk"), ours("snapshot -l disk"));
    let wrong = sandbox.run(Tool::Ours, "snapshot -c three --output=json disk");
    assert_eq!((wrong.code, json("snapshot -l --output=json disk")), (1, list));
}
