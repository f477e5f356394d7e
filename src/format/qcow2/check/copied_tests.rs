use std::sync::Arc;

use super::*;
use crate::format::qcow2::header::{Header, Purpose};
use crate::format::qcow2::testing::{available, expect, open_storage};
use crate::image::OpenFlags;
use crate::storage::{MemStorage, Storage};

/// Refcounts of one bit each look like L1 entries with a flag that is wrong. Taking the flag away would lower a refcount.
#[test]
fn no_flags_are_written_into_an_l1_table_on_a_refcount_block() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let options = "refcount_bits=1,cluster_size=4k";
    expect(dir.path(), "qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, "i", "4M"]);
    expect(dir.path(), "qemu-io", &["-c", "write 0 1M", "i"]);
    let storage = Arc::new(MemStorage::new(std::fs::read(dir.path().join("i")).expect("the image")));
    let header = Header::read(&*storage, Purpose::Check).expect("a sound header");
    let mut entry = [0; 8];
    storage.read_at(&mut entry, header.refcount_table_offset).expect("in memory");
    storage.write_at(&entry, 40).expect("in memory");
    let block = u64::from_be_bytes(entry);
    let counts = |storage: &MemStorage| {
        let mut counts = [0; 4096];
        storage.read_at(&mut counts, block).expect("in memory");
        counts
    };
    let before = counts(&storage);
    assert_eq!(before[..16], [0xff; 16], "all of the first clusters are in use");

    let flags = OpenFlags { check: true, ..OpenFlags::WRITE };
    let layer = open_storage(Arc::clone(&storage) as _, flags).expect("it opens");
    let mut lines = Vec::new();
    let result = layer.checks().expect("qcow2 has them").check(Repair::All, &mut |note| {
        if let crate::image::CheckNote::Line(line) = note {
            lines.push(line.to_owned());
        }
    });
    assert!(result.is_err(), "{result:?}");
    let refusal = "ERROR: Could not write L1 table; metadata overlap check failed: Input/output error";
    assert!(lines.iter().any(|line| line == refusal), "{lines:?}");
    let lowered = before.iter().zip(counts(&storage)).filter(|(before, after)| **before & !after != 0).count();
    assert_eq!(lowered, 0, "{lines:?}");
}
