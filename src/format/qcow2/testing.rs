//! For the tests of this format: the reference's tools, and images that lie in any storage.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::open;
use crate::error::Result;
use crate::format::OpenRequest;
use crate::image::{CheckNote, ExtentKind, Layer, OpenContext, OpenFlags, Options, Repair};
use crate::storage::{MemStorage, Storage};

/// How a tool ended.
#[derive(Debug)]
pub struct Done {
    /// The exit code; -1 for a signal.
    pub code: i32,
    /// Standard output and after it standard error.
    pub text: String,
    /// Standard output.
    pub stdout: Vec<u8>,
}

/// Whether the reference is there to compare with; says so where it is not.
pub fn available() -> bool {
    let found = ["qemu-img", "qemu-io"].iter().all(|program| Path::new("/usr/bin").join(program).exists());
    if !found {
        eprintln!("not run: the reference is not installed");
    }
    found
}

/// Runs one of the reference's tools in `dir`.
pub fn tool(dir: &Path, program: &str, args: &[&str]) -> Done {
    for _ in 0..50 {
        let output = Command::new(Path::new("/usr/bin").join(program)).args(args).current_dir(dir).output();
        let output = output.expect("the tool starts");
        // A process that another test is just starting still holds our descriptors, and with them our locks.
        if !String::from_utf8_lossy(&output.stderr).contains("lock\n") {
            let text = [&output.stdout[..], &output.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            return Done { code: output.status.code().unwrap_or(-1), text, stdout: output.stdout };
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{program} {args:?} finds the image locked");
}

/// The same where it must work; returns what the tool wrote.
#[track_caller]
pub fn expect(dir: &Path, program: &str, args: &[&str]) -> String {
    let done = tool(dir, program, args);
    assert_eq!(done.code, 0, "{program} {args:?}: {}", done.text);
    done.text
}

/// Opens an image wherever it lies.
pub fn open_storage(storage: Arc<dyn Storage>, flags: OpenFlags) -> Result<Box<dyn Layer>> {
    let (mut options, mut data_file) = (Options::new(), None);
    open::open(OpenRequest {
        storage,
        filename: "i",
        options: &mut options,
        flags,
        probed: false,
        context: &OpenContext::default(),
        data_file: &mut data_file,
        nesting: 0,
    })
}

/// All that the guest sees of an image without a backing file.
pub fn read_all(layer: &dyn Layer) -> Result<Vec<u8>> {
    let mut all = vec![0; layer.size() as usize];
    let mut at = 0;
    while at < layer.size() {
        let extent = layer.map(at, layer.size() - at)?;
        let part = &mut all[at as usize..(at + extent.len) as usize];
        if !matches!(extent.kind, ExtentKind::Zero { .. } | ExtentKind::Unallocated) {
            layer.read(&extent, at, part)?;
        }
        at += extent.len;
    }
    Ok(all)
}

/// Whether nothing is wrong with an image but that space is lost. Our `check` looks at every image, the reference's at one
/// in sixteen.
pub fn soundness(dir: &Path, bytes: &[u8]) -> Result<(), String> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let layer = open_storage(Arc::new(MemStorage::new(bytes.to_vec())), OpenFlags { check: true, ..OpenFlags::READ });
    let mut lines = Vec::new();
    let report = layer.and_then(|layer| {
        let checks = layer.checks().expect("qcow2 has them");
        checks.check(Repair::Nothing, &mut |note| {
            if let CheckNote::Line(line) = note {
                lines.push(line.to_owned());
            }
        })
    });
    let report = report.map_err(|error| format!("our check: {error}"))?;
    if report.corruptions + report.check_errors > 0 {
        return Err(format!("our check: {}", lines.join("\n")));
    }
    if CALLS.fetch_add(1, Ordering::Relaxed).is_multiple_of(16) {
        std::fs::write(dir.join("o"), bytes).expect("a temporary file");
        let done = tool(dir, "qemu-img", &["check", "--image-opts", "driver=qcow2,backing=,file.filename=o"]);
        if !matches!(done.code, 0 | 3) {
            return Err(format!("the reference's check: {} {}", done.code, done.text));
        }
    }
    Ok(())
}

/// Says how many states an operation's crashes left, for the documentation.
pub fn report(what: &str, states: usize) {
    println!("{what}: {states} states after a crash");
}

/// Images that have been looked at. What is said of an image depends on its bytes alone, so each is worth one look.
#[derive(Default)]
pub struct Seen(Vec<Vec<u8>>);

impl Seen {
    /// Whether these bytes come for the first time.
    pub fn is_new(&mut self, bytes: &[u8]) -> bool {
        let new = !self.0.iter().any(|seen| seen == bytes);
        if new {
            self.0.push(bytes.to_vec());
        }
        new
    }
}
