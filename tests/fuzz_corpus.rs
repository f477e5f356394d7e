//! The bodies of the fuzz targets (`fuzz/`) on the stored corpus, which has every input that once made one fail.

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, reason = "each fuzz target uses its own body")]
mod bodies;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long one input may take. Without optimisation of the program itself, and with other tests at the same time.
const LONGEST: Duration = Duration::from_secs(20);
/// How large the stored corpus may be in all, in bytes.
const CORPUS_MAX: u64 = 2 << 20;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn inputs(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    files
}

#[test]
fn every_target_has_a_corpus_and_a_program() {
    let mut bytes = 0;
    let mut folders: Vec<_> = inputs(&corpus()).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    folders.retain(|name| name.to_str() != Some("seeds"));
    let names: Vec<_> = bodies::TARGETS.iter().map(|(name, _)| std::ffi::OsString::from(name)).collect();
    assert_eq!(folders, names, "folders in fuzz/corpus");
    for (name, _) in bodies::TARGETS {
        let files = inputs(&corpus().join(name));
        assert!(files.len() >= 5, "{name} has a corpus of {} inputs", files.len());
        bytes += files.iter().map(|file| file.metadata().expect("metadata").len()).sum::<u64>();
        let program = corpus().with_file_name("fuzz_targets").join(format!("{name}.rs"));
        assert!(program.exists(), "{}", program.display());
    }
    assert!(bytes <= CORPUS_MAX, "the corpus takes {bytes} bytes");
}

#[test]
fn no_stored_input_makes_a_target_fail() {
    let mut failures = Vec::new();
    let mut run = 0;
    for (name, body) in bodies::TARGETS {
        for file in inputs(&corpus().join(name)) {
            let data = fs::read(&file).expect("input");
            let start = Instant::now();
            if std::panic::catch_unwind(|| body(&data)).is_err() {
                failures.push(format!("{name} panics on {}", file.display()));
            }
            if start.elapsed() > LONGEST {
                failures.push(format!("{name} takes {:?} for {}", start.elapsed(), file.display()));
            }
            run += 1;
        }
    }
    assert!(failures.is_empty(), "{run} inputs:\n{}", failures.join("\n"));
}
