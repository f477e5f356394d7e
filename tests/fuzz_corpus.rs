//! The bodies of the fuzz targets (`fuzz/`) on the stored corpus: a choice of what they found, and every input that once made
//! one fail.

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, reason = "each fuzz target uses its own body")]
mod bodies;
mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::corpus::{entries, inputs, stored};

/// How long one input may take. Without optimisation of the program itself, and with other tests at the same time.
const LONGEST: Duration = Duration::from_secs(20);
/// How large the stored corpus may be in all, in bytes.
const CORPUS_MAX: u64 = 2 << 20;

#[test]
fn every_target_has_a_corpus_and_a_program() {
    let mut bytes = 0;
    let folders: Vec<_> = entries(&stored()).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    let names: Vec<_> = bodies::TARGETS.iter().map(|(name, _)| std::ffi::OsString::from(name)).collect();
    assert_eq!(folders, names, "folders in fuzz/corpus");
    for (name, _) in bodies::TARGETS {
        let files = entries(&stored().join(name));
        assert!(files.len() >= 5, "{name} has a corpus of {} inputs", files.len());
        bytes += files.iter().map(|file| file.metadata().expect("metadata").len()).sum::<u64>();
        let program = stored().with_file_name("fuzz_targets").join(format!("{name}.rs"));
        assert!(program.exists(), "{}", program.display());
    }
    assert!(bytes <= CORPUS_MAX, "the corpus takes {bytes} bytes");
}

#[test]
fn no_stored_input_makes_a_target_fail() {
    let mut failures = Vec::new();
    let mut run = 0;
    for (name, body) in bodies::TARGETS {
        for file in inputs(name) {
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
    println!("{run} inputs");
    assert!(failures.is_empty(), "{run} inputs:\n{}", failures.join("\n"));
}
