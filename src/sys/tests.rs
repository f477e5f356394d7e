use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::copy::{Copied, clone_range, copy_range};
use super::fs::{FileSystem, file_system};
use super::space::{Found, Space, next_data, next_hole, set_range};
use crate::storage::testing::Mount;

const MIB: u64 = 1 << 20;

fn create(dir: &Path, name: &str, len: usize) -> File {
    let path = dir.join(name);
    std::fs::write(&path, (0..len).map(|n| (n / 1000) as u8).collect::<Vec<_>>()).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

fn content(file: &File) -> Vec<u8> {
    let mut all = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut all, 0).unwrap();
    all
}

#[test]
fn copies_inside_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (create(dir.path(), "a", 300_000), create(dir.path(), "b", 10));
    let mut done = 0;
    while done < 200_000 {
        match copy_range(from.as_fd(), 1000 + done, to.as_fd(), 500 + done, 200_000 - done).unwrap() {
            Copied::Bytes(count) => done += count,
            other => panic!("{other:?}"),
        }
    }
    assert!(content(&to)[500..] == content(&from)[1000..201_000]);
    assert_eq!(copy_range(from.as_fd(), 300_000, to.as_fd(), 0, 10).unwrap(), Copied::End);
    // A device and a pipe are nothing for it; a full disk is an error, not a reason to try otherwise.
    let null = File::options().write(true).open("/dev/null").unwrap();
    assert_eq!(copy_range(from.as_fd(), 0, null.as_fd(), 0, 10).unwrap(), Copied::NotHere);
    assert!(!clone_range(from.as_fd(), 0, null.as_fd(), 0, 4096).unwrap());
    assert_eq!(file_system(null.as_fd()), FileSystem::Other);
}

#[test]
fn clones_where_the_file_system_can() {
    for (kind, len) in [("xfs", 320 * MIB), ("btrfs", 128 * MIB), ("ext4", 64 * MIB)] {
        let Some(mount) = Mount::new(kind, len) else { continue };
        let (from, to) = (create(mount.path(), "a", 2 << 20), create(mount.path(), "b", 0));
        let expected = match kind {
            "xfs" => FileSystem::Xfs,
            "btrfs" => FileSystem::Btrfs,
            _ => FileSystem::Ext4,
        };
        assert_eq!(file_system(from.as_fd()), expected);
        let cloned = clone_range(from.as_fd(), MIB, to.as_fd(), 65536, MIB).unwrap();
        assert_eq!(cloned, kind != "ext4", "{kind}");
        if cloned {
            assert!(content(&to)[65536..] == content(&from)[MIB as usize..]);
        }
        // Not a multiple of the block size: not here, and nothing changes.
        assert!(!clone_range(from.as_fd(), 1, to.as_fd(), 0, 4096).unwrap());
        let elsewhere = tempfile::tempfile().unwrap();
        assert!(!clone_range(from.as_fd(), 0, elsewhere.as_fd(), 0, 4096).unwrap());
    }
}

#[test]
fn a_full_disk_is_an_error_of_copying() {
    let Some(mount) = Mount::tmpfs(MIB) else { return };
    let (from, to) = (create(mount.path(), "a", 700_000), create(mount.path(), "b", 0));
    let mut done = 0;
    let error = loop {
        match copy_range(from.as_fd(), done, to.as_fd(), done, 700_000 - done) {
            Ok(Copied::Bytes(count)) => done += count,
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.errno(), libc::ENOSPC);
}

#[test]
fn space_is_reserved_given_back_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let file = create(dir.path(), "a", 0);
    let fd = file.as_fd();
    let blocks = || file.metadata().unwrap().blocks() * 512;
    if !set_range(fd, Space::ReserveKeepSize, 0, MIB).unwrap() {
        println!("skipped: this file system cannot reserve space");
        return;
    }
    assert_eq!((file.metadata().unwrap().len(), blocks() >= MIB), (0, true));
    assert!(super::space::preallocate(fd, 0, 2 * MIB, false).unwrap());
    assert_eq!(file.metadata().unwrap().len(), 2 * MIB);
    file.write_all_at(&[1; 65536], MIB).unwrap();
    file.sync_all().unwrap();
    // In memory, reserved space counts as data.
    if file_system(fd) != FileSystem::Tmpfs {
        assert_eq!(next_data(fd, 0).unwrap(), Found::At(MIB));
        assert_eq!(next_hole(fd, MIB).unwrap(), Found::At(MIB + 65536));
        assert_eq!(next_data(fd, MIB + 65536).unwrap(), Found::Nothing);
    }
    assert_eq!(next_data(fd, 3 * MIB).unwrap(), Found::Nothing);
    assert!(set_range(fd, Space::Punch, 0, 2 * MIB).unwrap());
    assert_eq!((file.metadata().unwrap().len(), blocks()), (2 * MIB, 0));
    assert_eq!(set_range(fd, Space::Reserve, u64::MAX, 1).unwrap_err().errno(), libc::EFBIG);
}

#[test]
fn advice_never_hurts() {
    let dir = tempfile::tempdir().unwrap();
    let file = create(dir.path(), "a", 100_000);
    super::advise::write_out(file.as_fd(), 0, 100_000, true).unwrap();
    super::advise::write_out(file.as_fd(), 0, 0, false).unwrap();
    super::advise::drop_cache(file.as_fd(), 0, 100_000);
    let null = File::open("/dev/null").unwrap();
    super::advise::write_out(null.as_fd(), 0, 10, true).unwrap();
    super::advise::drop_cache(null.as_fd(), 0, 10);
}

#[test]
fn files_can_be_exempt_from_copy_on_write() {
    let Some(mount) = Mount::new("btrfs", 128 * MIB) else { return };
    let file = create(mount.path(), "a", 0);
    assert!(!super::fs::is_nocow(file.as_fd()));
    assert!(super::fs::set_nocow(file.as_fd()).unwrap());
    assert!(super::fs::is_nocow(file.as_fd()));
    let other = tempfile::tempfile().unwrap();
    if file_system(other.as_fd()) == FileSystem::Ext4 {
        assert!(!super::fs::set_nocow(other.as_fd()).unwrap());
    }
}

/// The words that are written down are those of the library that this test is built with.
#[cfg(target_env = "gnu")]
#[test]
fn error_numbers_have_the_words_of_the_gnu_library() {
    for errno in 1..140 {
        let error = std::io::Error::from_raw_os_error(errno);
        let theirs = error.to_string().replace(&format!(" (os error {errno})"), "");
        assert_eq!(crate::error::os_text(&error), theirs, "{errno}");
    }
}
