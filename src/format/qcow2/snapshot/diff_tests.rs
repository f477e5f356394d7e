//! Ranges one by one; `tests/snapshot_model.rs` compares what is found with the content of random disks.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::format::qcow2::testing::{available, expect, open_storage};
use crate::image::OpenFlags;
use crate::storage::{MemStorage, Storage};

const KIB: u64 = 1024;

/// Options of an image, steps before each of its two snapshots, and what differs.
type Case = (&'static str, &'static [&'static str], &'static [&'static str], &'static [Row]);

/// A range in KiB and what it holds: `data-zero`.
type Row = (u64, u64, &'static str);

fn differences(bytes: &[u8], from: &str, to: Option<&str>) -> Result<Vec<Difference>> {
    let file: Arc<dyn Storage> = Arc::new(MemStorage::new(bytes.to_vec()));
    let layer = open_storage(file, OpenFlags::INFO)?;
    let mut found = Vec::new();
    layer.snapshots().expect("qcow2 has them").differences(from, to, &mut |row| {
        found.push(*row);
        Ok(())
    })?;
    Ok(found)
}

fn rows(found: &[Difference]) -> Vec<(u64, u64, String)> {
    let row = |row: &Difference| (row.start / KIB, row.len / KIB, format!("{}-{}", row.from.name(), row.to.name()));
    found.iter().map(row).collect()
}

/// An image of 1 MiB with a snapshot `a` after the first steps, and `b` after the others; a step is a command of `qemu-io`, or
/// `resize SIZE`.
fn image(dir: &Path, options: &str, before: &[&str], after: &[&str]) -> Vec<u8> {
    let _ = std::fs::remove_file(dir.join("i"));
    std::fs::write(dir.join("base"), vec![7; 1 << 20]).expect("a backing file");
    expect(dir, "qemu-img", &["create", "-q", "-u", "-f", "qcow2", "-o", options, "i", "1M"]);
    for (name, steps) in [("a", before), ("b", after)] {
        for step in steps {
            match step.strip_prefix("resize ") {
                Some(size) => expect(dir, "qemu-img", &["resize", "-q", "--shrink", "i", size]),
                None => expect(dir, "qemu-io", &["-c", step, "i"]),
            };
        }
        expect(dir, "qemu-img", &["snapshot", "-c", name, "i"]);
    }
    std::fs::read(dir.join("i")).expect("the image")
}

#[test]
fn what_is_a_difference() {
    const PLAIN: &str = "cluster_size=64k";
    const BACKED: &str = "cluster_size=64k,backing_file=base,backing_fmt=raw";
    const PARTS: &str = "cluster_size=64k,extended_l2=on";
    let cases: &[Case] = &[
        (PLAIN, &[], &[], &[]),
        (PLAIN, &["write 0 128k"], &[], &[]),
        (
            PLAIN,
            &["write 0 1M"],
            &["write 70k 1k", "write 128k 64k", "write 300k 4k"],
            &[(64, 128, "data-data"), (256, 64, "data-data")],
        ),
        (PLAIN, &[], &["write 100k 1k"], &[(64, 64, "unallocated-data")]),
        (PLAIN, &["write 0 128k"], &["write -z 0 64k", "discard 64k 64k"], &[(0, 128, "data-zero")]),
        // Zeros are zeros: with a place and without, and where there is nothing below also what is not there at all.
        (PLAIN, &["write 0 64k", "write -z 0 64k"], &["write -z -u 0 64k"], &[]),
        (PLAIN, &["write 0 64k"], &["write -z 64k 64k"], &[]),
        (BACKED, &["write 0 64k"], &["write -z 64k 64k"], &[(64, 64, "unallocated-zero")]),
        (BACKED, &["write 0 64k"], &["write 300k 1k"], &[(256, 64, "unallocated-data")]),
        (
            PLAIN,
            &["write -c 0 64k", "write -c 64k 64k"],
            &["discard 64k 64k", "write -c 64k 64k", "write 0 1k"],
            &[(0, 64, "compressed-data"), (64, 64, "compressed-compressed")],
        ),
        // Parts of clusters, of 2 KiB.
        (PARTS, &["write 0 4k", "write 64k 64k"], &["write -z 66k 2k"], &[(66, 2, "data-zero")]),
        (PARTS, &["write 0 4k", "write 64k 64k"], &["write 66k 2k"], &[(64, 64, "data-data")]),
        (
            PARTS,
            &["write 64k 64k"],
            &["write 2k 2k", "write 6k 2k"],
            &[(2, 2, "unallocated-data"), (6, 2, "unallocated-data")],
        ),
        // Other sizes; the end of a disk may be inside a cluster.
        (
            PLAIN,
            &["write 0 1M", "resize 900k"],
            &["resize 1200k", "write 1100k 1k"],
            &[
                (900, 60, "absent-data"),
                (960, 128, "absent-unallocated"),
                (1088, 64, "absent-data"),
                (1152, 48, "absent-unallocated"),
            ],
        ),
        (PLAIN, &["write 0 1M"], &["resize 101k", "write 70k 1k"], &[(64, 37, "data-data"), (101, 923, "data-absent")]),
        (PLAIN, &["write 0 64k"], &["resize 8T"], &[(1024, (8 << 30) - 1024, "absent-unallocated")]),
    ];
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (options, before, after, wanted) in cases {
        let case = format!("{options} {before:?} {after:?}");
        let bytes = image(dir.path(), options, before, after);
        let wanted: Vec<_> = wanted.iter().map(|(start, len, held)| (*start, *len, (*held).to_owned())).collect();
        assert_eq!(rows(&differences(&bytes, "a", Some("b")).expect("sound")), wanted, "{case}");
        // The present state is that of the second snapshot, which the first one's ID names, too.
        assert_eq!(rows(&differences(&bytes, "1", None).expect("sound")), wanted, "{case}");
        let back = |(start, len, held): &(u64, u64, String)| {
            let (from, to) = held.split_once('-').expect("two kinds");
            (*start, *len, format!("{to}-{from}"))
        };
        let back: Vec<_> = wanted.iter().map(back).collect();
        assert_eq!(rows(&differences(&bytes, "b", Some("a")).expect("sound")), back, "{case}, the other way round");
        assert_eq!(differences(&bytes, "b", Some("2")).expect("sound"), [], "{case}");
    }
}

#[test]
fn what_ends_it() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let sound = image(dir.path(), "cluster_size=64k", &["write 0 1M"], &["write 0 1k", "write 128k 1k"]);
    for (from, to) in [("c", None), ("a", Some("c")), ("", None)] {
        let error = differences(&sound, from, to).expect_err("no such snapshot");
        assert!(error.to_string().starts_with("snapshot not found: '"), "{error}");
    }
    // Whoever is shown a range may have enough.
    let file: Arc<dyn Storage> = Arc::new(MemStorage::new(sound.clone()));
    let layer = open_storage(file, OpenFlags::READ).expect("sound");
    let snapshots = layer.snapshots().expect("qcow2 has them");
    let mut shown = 0;
    let result = snapshots.differences("a", None, &mut |_| {
        shown += 1;
        Err(Error::os(libc::ENOSPC))
    });
    assert_eq!((result.expect_err("enough").errno(), shown), (libc::ENOSPC, 1));
    // What a snapshot on show holds is not the present state.
    snapshots.view(None, Some("a")).expect("it is there");
    let mut found = Vec::new();
    let result = snapshots.differences("a", None, &mut |row| {
        found.push(*row);
        Ok(())
    });
    result.expect("sound");
    assert_eq!(rows(&found), [(0, 64, "data-data".to_owned()), (128, 64, "data-data".to_owned())]);
    // Damage.
    let number = |at: usize| u64::from_be_bytes(sound[at..at + 8].try_into().expect("8 bytes")) as usize;
    let l1 = number(40);
    let mut damaged = sound.clone();
    damaged[l1 + 6] |= 2;
    let error = differences(&damaged, "a", None).expect_err("no table is there");
    assert!(error.notices()[0].contains("unaligned (L1 index: 0)"), "{error:?}");
    let l2 = number(l1) & 0xffff_ffff_ffff;
    let mut damaged = sound.clone();
    damaged[l2 + 6] |= 2;
    let error = differences(&damaged, "a", None).expect_err("no cluster is there");
    assert!(error.notices()[0].contains("Cluster allocation offset"), "{error:?}");
}
