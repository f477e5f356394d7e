//! What there is to see of an image, for tests that interrupt or hinder its changing; and images to do that to.

use std::path::Path;

use serde_json::Value;

use super::files::{hash_file, words};
use super::run::{Tool, run_in};

/// A script for the reference that makes all images: small clusters, so that there is much to do. `disk` has snapshots and
/// `marks` bitmaps, refcounts of `broken` are wrong, `top` lies on `base`, which `other` is nearly the same as.
pub const IMAGES: &str = "
set -e
head -c 6M /dev/urandom > noise
io() { qemu-io -f qcow2 -c \"$1\" $2 > log || { cat log; exit 1; }; }
qemu-img convert -f raw -O qcow2 -o cluster_size=4k noise disk
qemu-img resize -q disk 12M
qemu-img snapshot -c one disk
for at in 0 1 2 3 5 7 11; do io \"write -P $at ${at}M 200k\" disk; done
qemu-img snapshot -c two disk
for at in 1 4 6; do io \"write -P 7$at ${at}M 300k\" disk; done
cp disk broken
# Refcounts of the first block too small and too great.
printf '\\0\\3\\0\\1\\0\\0\\0\\7' | dd of=broken bs=1 seek=$((4096 * 2 + 700)) conv=notrunc status=none
qemu-img create -q -f qcow2 -o cluster_size=4k marks 12M
qemu-img bitmap --add -g 512 marks fine
qemu-img bitmap --add -g 64k marks coarse
for at in 1 4 9; do io \"write -P $at ${at}M 100k\" marks; done
qemu-img convert -f raw -O qcow2 -o cluster_size=4k noise base
cp base other
io 'write -P 3 1M 2M' other
qemu-img create -q -f qcow2 -o cluster_size=4k -b base -F qcow2 top
for at in 0 2 3 5; do io \"write -P 9$at ${at}M 200k\" top; done
io 'write -z 4M 300k' top
rm log
";

/// A change of one of the images.
#[derive(Clone, Copy)]
pub struct Change {
    pub line: &'static str,
    /// The image that is looked at.
    pub image: &'static str,
    /// Meanwhile the disk holds neither what it held nor what it will.
    pub mixes: bool,
}

const fn change(line: &'static str, image: &'static str) -> Change {
    Change { line, image, mixes: false }
}

/// A change by every command that changes images.
pub const CHANGES: [Change; 15] = [
    change("snapshot -c three disk", "disk"),
    change("snapshot -a one disk", "disk"),
    change("snapshot -d one disk", "disk"),
    change("resize -q disk 30M", "disk"),
    change("resize -q --preallocation=metadata marks 14M", "marks"),
    change("resize -q --shrink disk 5M", "disk"),
    change("amend -f qcow2 -o refcount_bits=64 disk", "disk"),
    change("amend -f qcow2 -o compat=0.10 disk", "disk"),
    change("bitmap --add --enable marks more", "marks"),
    change("bitmap --merge fine marks coarse", "marks"),
    change("commit -q top", "top"),
    change("rebase -b other -F qcow2 top", "top"),
    change("rebase -b '' top", "top"),
    Change { line: "convert -n -f raw -O qcow2 noise disk", image: "disk", mixes: true },
    change("check -q -r all broken", "broken"),
];

/// What there is to see of an image: size, bitmaps, names of snapshots, and what each and the disk hold.
pub fn look(dir: &Path, change: &Change) -> Result<Vec<String>, String> {
    let info = run_in(dir, Tool::Reference, &words(&format!("info --output=json {}", change.image)));
    let info: Value = serde_json::from_str(&info.stdout).map_err(|_| format!("cannot be opened: {info}"))?;
    let mut found = vec![info["virtual-size"].to_string(), info["format-specific"]["data"]["bitmaps"].to_string()];
    let empty = Vec::new();
    let names = info["snapshots"].as_array().unwrap_or(&empty).iter().filter_map(|one| one["name"].as_str());
    // There may be no room in the folder itself.
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let target = elsewhere.path().join("read");
    for name in names.map(Some).chain((!change.mixes).then_some(None)) {
        let choice = name.map(|name| format!("-l snapshot.name={name}")).unwrap_or_default();
        let line = format!("convert {choice} -f qcow2 -O raw {} {}", change.image, target.display());
        let read = run_in(dir, Tool::Reference, &words(&line));
        if !read.ok() {
            return Err(format!("{name:?} cannot be read: {read}"));
        }
        found.push(format!("{name:?}: {:x}", hash_file(&target)));
    }
    Ok(found)
}

/// What is wrong with an image whose changing did not come to its end.
pub fn differences(dir: &Path, change: &Change, wanted: &[&Vec<String>]) -> Vec<String> {
    let mut differences = Vec::new();
    match look(dir, change) {
        Err(text) => differences.push(text),
        Ok(found) if wanted.contains(&&found) => {}
        Ok(found) => differences.push(format!("neither before nor after:\n{found:?}\n{wanted:?}")),
    }
    let broken = change.image == "broken";
    if broken {
        let again = run_in(dir, Tool::Ours, &words(change.line));
        if !again.ok() {
            differences.push(format!("the next repair: {again}"));
        }
    }
    let check = run_in(dir, Tool::Reference, &words(&format!("check -f qcow2 {}", change.image)));
    if !matches!((check.code, broken), (0, _) | (3, false)) {
        differences.push(format!("check: {check}"));
    }
    differences
}
