//! What the fuzz targets have found worth keeping.

use std::path::{Path, PathBuf};

/// The stored corpus: a folder for each target.
pub fn stored() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// Everything in a folder, sorted.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    paths
}

/// The inputs of a target: the stored ones, and those in `$FUZZ_INPUTS/TARGET` (`scripts/soak` names what `scripts/fuzz` has
/// found).
pub fn inputs(target: &str) -> Vec<PathBuf> {
    let mut files = entries(&stored().join(target));
    if let Some(more) = std::env::var_os("FUZZ_INPUTS") {
        files.extend(entries(&Path::new(env!("CARGO_MANIFEST_DIR")).join(more).join(target)));
    }
    files
}
