use serde_json::json;

use super::text;
use crate::image::{BackingRef, LayerInfo, NodeReport};

fn report() -> NodeReport {
    NodeReport {
        filename: "a.qcow2".to_owned(),
        driver: "qcow2",
        is_file: false,
        size: 10 << 20,
        tells_dirty: true,
        allocated: Some(200_704),
        info: LayerInfo::default(),
        backing: None,
        full_backing: None,
        children: Vec::new(),
    }
}

#[test]
fn nested_information_is_indented() {
    let mut image = report();
    image.info = LayerInfo {
        cluster_size: Some(65536),
        encrypted: true,
        dirty: true,
        format_specific: Some(json!({"type": "qcow2", "data": {
            "bitmaps": [{"name": "b0", "flags": ["auto"], "granularity": 65536}, {"flags": []}],
            "compat": "1.1", "lazy-refcounts": false,
        }})),
        ..LayerInfo::default()
    };
    image.children = vec![("file", NodeReport { is_file: true, driver: "file", ..report() })];
    let expected = "\
image: a.qcow2
file format: qcow2
virtual size: 10 MiB (10485760 bytes)
disk size: 196 KiB
encrypted: yes
cluster_size: 65536
cleanly shut down: no
Format specific information:
    compat: 1.1
    lazy refcounts: false
    bitmaps:
        [0]:
            flags:
                [0]: auto
            name: b0
            granularity: 65536
        [1]:
            flags:
Child node '/file':
    filename: a.qcow2
    protocol type: file
    file length: 10 MiB (10485760 bytes)
    disk size: 196 KiB
";
    assert_eq!(text(&image), expected);
}

#[test]
fn backing_files_are_shown_with_their_path() {
    let cases = [
        (Some("b"), "backing file: b\n"),
        (Some("x/b"), "backing file: b (actual path: x/b)\n"),
        (None, "backing file: b (cannot determine actual path)\n"),
    ];
    for (full, expected) in cases {
        let mut image = report();
        image.backing = Some(BackingRef { filename: "b".to_owned(), format: Some("raw".to_owned()) });
        image.full_backing = full.map(str::to_owned);
        let text = text(&image);
        assert!(text.contains(expected), "{text}");
        assert!(text.ends_with("backing file format: raw\n"));
    }
}
