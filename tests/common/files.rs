//! Sandbox folders, sparse copies and fingerprints of folders.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::Hasher;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::run::{Outcome, Tool, run_in, script_in};

static ON_DISK: AtomicBool = AtomicBool::new(false);

/// For tests of what depends on the file system: from now on sandboxes are on the disk, whatever `SANDBOX_DIR` says.
pub fn stay_on_disk() {
    ON_DISK.store(true, Ordering::Relaxed);
}

/// A folder of its own for one case, removed at the end (kept with `KEEP=1`). `SANDBOX_DIR` says where.
pub struct Sandbox {
    dir: tempfile::TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        let memory = std::env::var_os("SANDBOX_DIR").filter(|_| !ON_DISK.load(Ordering::Relaxed));
        let dir = tempfile::Builder::new()
            .prefix("case-")
            .disable_cleanup(std::env::var_os("KEEP").is_some())
            .tempdir_in(memory.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into()))
            .expect("sandbox folder");
        Sandbox { dir }
    }

    /// A sandbox that holds copies of everything in `source`.
    pub fn copy_of(source: &Path) -> Self {
        let sandbox = Self::new();
        copy_tree(source, sandbox.path());
        sandbox
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a tool here, with the arguments of a command line split at blanks.
    pub fn run(&self, tool: Tool, line: &str) -> Outcome {
        run_in(self.path(), tool, &words(line))
    }

    pub fn reference(&self, line: &str) -> Outcome {
        self.run(Tool::Reference, line)
    }

    pub fn script(&self, tool: Tool, script: &str) -> Outcome {
        script_in(self.path(), tool, script)
    }
}

/// Splits at blanks; a part in single quotes stays together, and `''` is an empty word.
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut open, mut any) = (String::new(), false, false);
    for c in line.chars() {
        match c {
            '\'' => {
                open = !open;
                any = true;
            }
            ' ' if !open => {
                if any {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            other => {
                word.push(other);
                any = true;
            }
        }
    }
    if any {
        words.push(word);
    }
    words
}

/// Copies a folder and everything below it; files keep their holes.
pub fn copy_tree(source: &Path, target: &Path) {
    for entry in fs::read_dir(source).expect("folder to copy") {
        let entry = entry.expect("folder to copy");
        let to = target.join(entry.file_name());
        let kind = entry.file_type().expect("file type");
        if kind.is_dir() {
            fs::create_dir_all(&to).expect("folder");
            copy_tree(&entry.path(), &to);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).expect("link"), &to).expect("link");
        } else {
            copy_sparse(&entry.path(), &to).expect("sparse copy");
        }
    }
}

/// Copies a file; runs of 4096 zero bytes become holes.
pub fn copy_sparse(source: &Path, target: &Path) -> io::Result<()> {
    let from = File::open(source)?;
    let to = File::create(target)?;
    let len = from.metadata()?.len();
    to.set_len(len)?;
    for (offset, data) in data_ranges(&from, len) {
        let mut buf = vec![0; 1 << 20];
        let mut at = offset;
        while at < offset + data {
            let want = (offset + data - at).min(buf.len() as u64) as usize;
            from.read_exact_at(&mut buf[..want], at)?;
            to.write_all_at(&buf[..want], at)?;
            at += want as u64;
        }
    }
    Ok(())
}

/// The parts of a file that are not holes, as `(offset, length)`.
pub fn data_ranges(file: &File, len: u64) -> Vec<(u64, u64)> {
    use nix::unistd::{Whence, lseek};
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < len {
        let Ok(start) = lseek(file, at as i64, Whence::SeekData) else { break };
        let end = lseek(file, start, Whence::SeekHole).unwrap_or(len as i64);
        ranges.push((start as u64, (end - start) as u64));
        at = end as u64;
    }
    ranges
}

/// Bytes the file system holds for a file.
pub fn allocated(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

/// Length and a hash of the content of every file below `dir`, by relative path.
pub fn fingerprint(dir: &Path) -> BTreeMap<String, (u64, u64)> {
    let mut found = BTreeMap::new();
    walk(dir, "", &mut |name, path| {
        found.insert(name.to_owned(), (fs::metadata(path).map_or(0, |meta| meta.len()), hash_file(path)));
    });
    found
}

/// Length and time of last change of every file below `dir`: a program that only reads changes neither.
pub fn stamps(dir: &Path) -> BTreeMap<String, (u64, i64, i64)> {
    let mut found = BTreeMap::new();
    walk(dir, "", &mut |name, path| {
        let meta = fs::metadata(path).expect("metadata");
        found.insert(name.to_owned(), (meta.len(), meta.mtime(), meta.mtime_nsec()));
    });
    found
}

/// The relative paths of all files below `dir`.
pub fn names(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    walk(dir, "", &mut |name, _| found.push(name.to_owned()));
    found.sort();
    found
}

fn walk(dir: &Path, prefix: &str, visit: &mut dyn FnMut(&str, &Path)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), &format!("{name}/"), visit),
            Ok(kind) if kind.is_file() => visit(&name, &entry.path()),
            _ => {}
        }
    }
}

/// A hash of a file's content that does not read holes but gives the same value whether or not zeros are stored.
pub fn hash_file(path: &Path) -> u64 {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let len = file.metadata().expect("metadata").len();
    let mut hasher = std::hash::DefaultHasher::new();
    let mut buf = vec![0; 1 << 16];
    for (offset, data) in data_ranges(&file, len) {
        let mut at = offset;
        while at < offset + data {
            let block = (at / 65536 + 1) * 65536;
            let want = (block.min(offset + data) - at) as usize;
            file.read_exact_at(&mut buf[..want], at).expect("read");
            for (index, part) in buf[..want].chunks(4096).enumerate() {
                if part.iter().any(|byte| *byte != 0) {
                    hasher.write_u64(at + index as u64 * 4096);
                    hasher.write(part);
                }
            }
            at += want as u64;
        }
    }
    hasher.write_u64(len);
    hasher.finish()
}
