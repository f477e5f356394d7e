use std::fs;

use super::*;
use crate::format::{self, CreateOptions, CreateRequest};
use crate::text;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        text::from_os(self.0.path().join(name).as_os_str())
    }

    fn raw(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// An empty image of 1 MiB with this backing file.
    fn overlay(&self, name: &str, backing: &str, backing_format: &str) -> String {
        let mut options = CreateOptions::default();
        options.set("backing_file", backing);
        options.set("backing_fmt", backing_format);
        let filename = self.path(name);
        let context = OpenContext::default();
        let request =
            CreateRequest { filename: &filename, size: 1 << 20, options: &options, context: &context, no_flush: false };
        format::find("qcow2").unwrap().create.unwrap()(request).unwrap();
        filename
    }
}

fn open(name: &str) -> Result<Chain> {
    open_chain(&ImageSpec::name(name, None), OpenFlags::READ, &OpenContext::default())
}

fn error(name: &str) -> String {
    open(name).unwrap_err().to_string()
}

#[test]
fn chains_end_where_no_backing_file_is_named() {
    let files = Files::new();
    files.raw("base.raw", &[7; 4096]);
    files.overlay("a.qcow2", "base.raw", "raw");
    let top = files.overlay("b.qcow2", "a.qcow2", "qcow2");
    let chain = open(&top).unwrap();
    assert_eq!(chain.nodes().len(), 3);
    let mut buf = [1; 8192];
    chain.read(0, &mut buf).unwrap();
    // What lies behind the end of the short base reads as zeros.
    assert!(buf[..4096].iter().all(|byte| *byte == 7) && buf[4096..].iter().all(|byte| *byte == 0));
}

#[test]
fn loops_and_missing_files_are_errors() {
    let files = Files::new();
    let own = files.overlay("own.qcow2", "own.qcow2", "qcow2");
    let expected = format!("Backing file '{own}' creates an infinite loop.");
    assert_eq!(error(&own), format!("Could not open '{own}': Could not open backing file: {expected}"));
    let two = files.overlay("two.qcow2", "./one.qcow2", "qcow2");
    files.overlay("one.qcow2", "././two.qcow2", "qcow2");
    assert!(error(&two).ends_with("creates an infinite loop."));

    let orphan = files.overlay("orphan.qcow2", "missing", "raw");
    let missing = files.path("missing");
    assert_eq!(
        error(&orphan),
        format!(
            "Could not open '{orphan}': Could not open backing file: Could not open '{missing}': No such file or directory"
        )
    );
}

#[test]
fn descriptions_lead_to_parts_and_inner_images() {
    let files = Files::new();
    let disk: Vec<u8> = (0..4096u32).map(|at| (at / 512) as u8).collect();
    let raw = files.raw("disk.raw", &disk);
    let top = files.overlay("top.qcow2", "disk.raw", "raw");
    let cases = [
        (format!(r#"json:{{"driver":"raw","offset":1024,"size":512,"file":{{"filename":"{raw}"}}}}"#), 512, 2),
        (format!(r#"json:{{"driver":"raw","file.driver":"qcow2","file":{{"file.filename":"{top}"}}}}"#), 1 << 20, 0),
        (format!("file:{raw}"), 4096, 0),
    ];
    for (name, size, first) in cases {
        let chain = open(&name).unwrap();
        assert_eq!(chain.size(), size, "{name}");
        let mut byte = [9];
        chain.read(0, &mut byte).unwrap();
        assert_eq!(byte, [first], "{name}");
    }
}

#[test]
fn what_cannot_be_opened_is_said() {
    let files = Files::new();
    let raw = files.raw("disk.raw", &[0; 512]);
    let foreign = files.raw("disk.vmdk", b"KDMV");
    let deep = format!(
        "json:{{\"driver\":\"raw\",\"file\":{}{{}}{}}}",
        "{\"driver\":\"raw\",\"file\":".repeat(100),
        "}".repeat(100)
    );
    let cases = [
        ("nope:x".to_owned(), "Unknown protocol 'nope'"),
        ("nbd://x".to_owned(), "The protocol 'nbd' is not supported yet, only local files are"),
        (String::new(), "The 'file' block driver requires a file name"),
        ("json:{}".to_owned(), "Must specify either driver or file"),
        ("json:[]".to_owned(), "Invalid JSON object given"),
        (r#"json:{"driver":"qcow2"}"#.to_owned(), "A block device must be specified for \"file\""),
        (r#"json:{"driver":"raw","file":"x"}"#.to_owned(), "Cannot find device='x' nor node-name='x'"),
        (
            format!(r#"json:{{"driver":"raw","file.filename":"{raw}","x":1}}"#),
            "Block format 'raw' does not support the option 'x'",
        ),
        (
            format!(r#"json:{{"driver":"raw","file":{{"filename":"{raw}","x":1}}}}"#),
            "Block protocol 'file' doesn't support the option 'x'",
        ),
        (
            format!(r#"json:{{"driver":"raw","file.filename":"{raw}","backing.driver":"raw"}}"#),
            "Driver doesn't support backing files",
        ),
        (foreign, "Images in vmdk format are not supported yet"),
        (deep, "Too many images inside images"),
    ];
    for (name, expected) in cases {
        assert_eq!(error(&name), format!("Could not open '{name}': {expected}"));
    }
}
