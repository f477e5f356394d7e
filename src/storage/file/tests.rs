use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::error::Kind as Cause;
use crate::storage::{AlignedBuf, FileRole, Preallocation};

const MIB: u64 = 1 << 20;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn file(dir: &tempfile::TempDir, content: &[u8]) -> PathBuf {
    let path = dir.path().join("f");
    std::fs::write(&path, content).unwrap();
    path
}

fn open(path: &Path, cache: CacheMode) -> FileStorage {
    FileStorage::open(name(path), OpenMode::WRITE, cache).unwrap()
}

fn read(storage: &dyn Storage, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xee; len];
    storage.read_at(&mut buf, offset).unwrap();
    buf
}

/// Numbers that look random but are the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn refuses_what_cannot_hold_an_image() {
    let dir = dir();
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let regular = file(&dir, b"x");
    let text = |path: &Path, protocol| {
        FileStorage::open(name(path), OpenMode { write: false, protocol }, CacheMode::WRITEBACK)
            .unwrap_err()
            .to_string()
    };
    let requires = |path: &Path| format!("'file' driver requires '{}' to be a regular file", name(path));
    assert_eq!(text(dir.path(), Protocol::Any), requires(dir.path()));
    assert_eq!(text(&pipe, Protocol::Any), requires(&pipe));
    assert_eq!(text(Path::new("/dev/null"), Protocol::File), requires(Path::new("/dev/null")));
    assert_eq!(
        text(&regular, Protocol::HostDevice),
        format!("'host_device' driver requires '{}' to be either a character or block device", name(&regular))
    );
    assert_eq!(text(Path::new(""), Protocol::Any), "The 'file' block driver requires a file name");
    let missing = dir.path().join("missing");
    assert_eq!(
        text(&missing, Protocol::Any),
        format!("Could not open '{}': No such file or directory", name(&missing))
    );
}

#[test]
fn direct_io_refused_by_the_file_system_is_said_so() {
    let mode = OpenMode::READ;
    let error = FileStorage::open("/proc/version", mode, CacheMode::NONE).unwrap_err();
    assert_eq!(error.to_string(), "Could not open '/proc/version': filesystem does not support O_DIRECT");
}

#[test]
fn character_devices_are_devices_of_no_length() {
    let null = FileStorage::open("/dev/null", OpenMode::WRITE, CacheMode::WRITEBACK).unwrap();
    assert_eq!((null.len().unwrap(), null.protocol()), (0, "host_device"));
    null.write_at(b"gone", 77).unwrap();
    null.zero(0, 100, ZeroMode::Discard).unwrap();
    null.flush().unwrap();
    assert_eq!(null.set_len(1).unwrap_err().to_string(), "Cannot grow device files");
    let full = FileStorage::open("/dev/full", OpenMode::WRITE, CacheMode::WRITEBACK).unwrap();
    assert_eq!(full.write_at(b"x", 0).unwrap_err().errno(), libc::ENOSPC);
}

#[test]
fn every_cache_mode_reads_and_writes_at_any_offset() {
    let modes =
        [CacheMode::WRITEBACK, CacheMode::UNSAFE, CacheMode::NONE, CacheMode::WRITETHROUGH, CacheMode::DIRECTSYNC];
    for mode in modes {
        let dir = dir();
        let mut model = vec![0; 10_001];
        let storage = open(&file(&dir, &model), mode);
        let mut random = Random(7);
        for round in 0..60u8 {
            let offset = random.below(40_000) as usize;
            let len = 1 + random.below(20_000) as usize;
            // Memory that is aligned, and memory that is not.
            let mut buf = AlignedBuf::new(len + 3);
            let part = if round % 2 == 0 { 0..len } else { 3..len + 3 };
            buf[part.clone()].fill(round + 1);
            storage.write_at(&buf[part], offset as u64).unwrap();
            if model.len() < offset + len {
                model.resize(offset + len, 0);
            }
            model[offset..offset + len].fill(round + 1);
            assert_eq!(storage.len().unwrap(), model.len() as u64, "{mode:?} round {round}");

            let offset = random.below(60_000) as usize;
            let len = random.below(30_000) as usize;
            let mut expected = vec![0; len];
            let there = model.len().min(offset + len).saturating_sub(offset);
            expected[..there].copy_from_slice(&model[offset.min(model.len())..][..there]);
            assert!(read(&storage, offset as u64, len) == expected, "{mode:?} round {round}");
        }
        storage.flush().unwrap();
        drop(storage);
        assert!(std::fs::read(dir.path().join("f")).unwrap() == model, "{mode:?}");
    }
}

#[test]
fn direct_writes_from_many_threads_do_not_undo_each_other() {
    let dir = dir();
    let storage = open(&file(&dir, b""), CacheMode::NONE);
    // Every thread writes its own pieces; neighbours share blocks, and the file grows all the time.
    let piece = 1111;
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let storage = &storage;
            scope.spawn(move || {
                for n in 0..40 {
                    let at = (n * 4 + thread) * piece;
                    storage.write_at(&vec![thread as u8 + 1; piece as usize], at).unwrap();
                }
            });
        }
    });
    let all = read(&storage, 0, 160 * piece as usize);
    for (n, bytes) in all.chunks(piece as usize).enumerate() {
        assert!(bytes.iter().all(|byte| *byte == n as u8 % 4 + 1), "piece {n}");
    }
}

#[test]
fn zeroing_grows_the_file_and_leaves_the_rest() {
    for cache in [CacheMode::WRITEBACK, CacheMode::NONE, CacheMode::DIRECTSYNC] {
        for mode in [ZeroMode::Discard, ZeroMode::Allocate, ZeroMode::Write] {
            let dir = dir();
            let storage = open(&file(&dir, &[1; 10_000]), cache);
            storage.zero(100, 7_000, mode).unwrap();
            storage.zero(9_999, 5_000, mode).unwrap();
            storage.zero(1 << 21, 0, mode).unwrap();
            let mut expected = vec![1; 14_999];
            expected[100..7_100].fill(0);
            expected[9_999..].fill(0);
            assert_eq!(storage.len().unwrap(), 14_999, "{cache:?} {mode:?}");
            assert!(read(&storage, 0, 14_999) == expected, "{cache:?} {mode:?}");
        }
    }
}

#[test]
fn zeroing_modes_differ_in_space() {
    let dir = dir();
    let storage = open(&file(&dir, &[1; MIB as usize]), CacheMode::WRITEBACK);
    storage.flush().unwrap();
    storage.zero(0, 4 * MIB, ZeroMode::Discard).unwrap();
    assert_eq!(storage.len().unwrap(), 4 * MIB);
    assert!(storage.allocated().unwrap() <= 4096, "at most a block that says where blocks are (ext2)");
    storage.zero(MIB, MIB, ZeroMode::Allocate).unwrap();
    assert!((MIB..2 * MIB).contains(&storage.allocated().unwrap()));
    storage.zero(2 * MIB, MIB, ZeroMode::Write).unwrap();
    storage.flush().unwrap();
    assert!((2 * MIB..3 * MIB).contains(&storage.allocated().unwrap()));
    assert_eq!(storage.len().unwrap(), 4 * MIB);
}

#[test]
fn extents_follow_the_holes() {
    let dir = dir();
    let path = file(&dir, b"");
    let storage = open(&path, CacheMode::WRITEBACK);
    storage.set_len(4 * MIB).unwrap();
    storage.write_at(&[1; 65536], MIB).unwrap();
    storage.flush().unwrap();
    let reader = FileStorage::open(name(&path), OpenMode::READ, CacheMode::WRITEBACK).unwrap();
    for storage in [&storage, &reader] {
        let cases = [
            // The first block of a new file is written.
            (0, 10 * MIB, RangeKind::Data, 4096),
            (4096, 10 * MIB, RangeKind::Hole, MIB - 4096),
            (8192, 1024, RangeKind::Hole, 1024),
            (MIB, 10 * MIB, RangeKind::Data, 65536),
            (MIB + 100, 10 * MIB, RangeKind::Data, 65436),
            (MIB + 100, 10, RangeKind::Data, 10),
            // The last hole and what lies behind the end are one.
            (2 * MIB, 10 * MIB, RangeKind::Hole, 10 * MIB),
            (4 * MIB, MIB, RangeKind::Hole, MIB),
            (u64::MAX - 5, 5, RangeKind::Hole, 5),
        ];
        for (offset, len, kind, end) in cases {
            assert_eq!(storage.extent(offset, len).unwrap(), (kind, end), "{offset} {len}");
        }
    }
}

#[test]
fn a_file_cut_off_meanwhile_is_an_error_to_read() {
    let dir = dir();
    let path = file(&dir, &[1; 100_000]);
    let reader = FileStorage::open(name(&path), OpenMode::READ, CacheMode::WRITEBACK).unwrap();
    assert_eq!(reader.extent(0, 1000).unwrap(), (RangeKind::Data, 1000));
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(10).unwrap();
    reader.extent(500, 1000).unwrap();
    assert_eq!(read(&reader, 0, 10), [1; 10]);
    // Zeros there would be taken for the disk's.
    let error = reader.read_at(&mut [0; 20], 0).unwrap_err();
    assert_eq!(error.errno(), libc::EIO);
    assert!(error.to_string().ends_with("f' has become shorter while it was read"), "{error}");
    assert_eq!(reader.extent(200_000, 7).unwrap_err().errno(), libc::EIO);
}

#[test]
fn offsets_beyond_any_file_are_errors() {
    let dir = dir();
    let storage = open(&file(&dir, b"x"), CacheMode::WRITEBACK);
    for offset in [u64::MAX, i64::MAX as u64] {
        assert_eq!(storage.read_at(&mut [0; 2], offset).unwrap_err().errno(), libc::EFBIG);
        assert_eq!(storage.write_at(&[0; 2], offset).unwrap_err().errno(), libc::EFBIG);
        assert_eq!(storage.zero(offset, 2, ZeroMode::Discard).unwrap_err().errno(), libc::EFBIG);
    }
}

#[test]
fn locks_keep_writers_apart() {
    let dir = dir();
    let path = file(&dir, b"");
    let lock = |permissions: Permissions| {
        let storage = open(&path, CacheMode::WRITEBACK);
        storage.lock(permissions).map(|()| storage)
    };
    let qcow2 = |write, share| Permissions::for_file(FileRole::Metadata, write, share, false);
    let raw = |write| Permissions::for_file(FileRole::Raw, write, false, false);
    let hint = format!("Is another process using the image [{}]?", name(&path));
    let check = |wanted, message: &str| {
        let error = lock(wanted).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert!(matches!(error.kind(), Cause::Locked { .. }));
        assert_eq!(error.hints(), std::slice::from_ref(&hint));
    };

    let writer = lock(qcow2(true, false)).unwrap();
    check(qcow2(true, false), "Failed to get \"write\" lock");
    check(qcow2(false, false), "Failed to get shared \"write\" lock");
    check(raw(true), "Failed to get \"write\" lock");
    check(Permissions::CREATE, "Failed to get \"write\" lock");
    lock(qcow2(false, true)).unwrap();
    drop(writer);

    let readers = [lock(qcow2(false, false)).unwrap(), lock(qcow2(false, false)).unwrap()];
    check(qcow2(true, false), "Failed to get \"write\" lock");
    drop(readers);

    // Two writers of raw images are let in, as by the reference.
    let writers = [lock(raw(true)).unwrap(), lock(raw(true)).unwrap()];
    check(raw(false), "Failed to get shared \"write\" lock");
    drop(writers);
    lock(raw(false)).unwrap();
}

#[test]
fn a_failed_change_of_locks_leaves_the_old_ones() {
    let dir = dir();
    let path = file(&dir, b"");
    let (first, second) = (open(&path, CacheMode::WRITEBACK), open(&path, CacheMode::WRITEBACK));
    let reading = Permissions::for_file(FileRole::Metadata, false, false, false);
    first.lock(reading).unwrap();
    second.lock(reading).unwrap();
    assert!(second.lock(Permissions::FORMAT).is_err());
    // The attempt has left nothing behind, and the second still refuses writers.
    first.lock(Permissions::NONE).unwrap();
    assert!(first.lock(Permissions::FORMAT).is_err());
    second.lock(Permissions::NONE).unwrap();
    first.lock(Permissions::FORMAT).unwrap();
}

#[test]
fn creates_with_the_mode_and_size_of_the_reference() {
    let dir = dir();
    let path = dir.path().join("new");
    let new = NewFile { size: 3 * MIB, ..NewFile::default() };
    let Creation { storage, guard, .. } = FileStorage::create(name(&path), &new).unwrap();
    let info = std::fs::metadata(&path).unwrap();
    assert_eq!(info.len(), 3 * MIB);
    assert!((1..3 * MIB / 512).contains(&info.blocks()), "the first block, and not the rest: {}", info.blocks());
    let umask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    nix::sys::stat::umask(umask);
    assert_eq!(info.permissions().mode() & 0o777, 0o644 & !umask.bits());
    storage.write_at(b"head", 0).unwrap();
    drop(storage);
    guard.keep();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 3 * MIB);

    // Made anew: nothing of the old contents stays, and mode and inode do.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    FileStorage::create(name(&path), &NewFile { size: 10, ..new }).unwrap().guard.keep();
    assert_eq!(std::fs::read(&path).unwrap(), [0; 10]);
    let again = std::fs::metadata(&path).unwrap();
    assert_eq!((again.ino(), again.permissions().mode() & 0o777), (info.ino(), 0o600));
}

#[test]
fn preallocation_takes_the_space() {
    for preallocation in [Preallocation::Falloc, Preallocation::Full] {
        let dir = dir();
        let path = dir.path().join("new");
        let new = NewFile { size: MIB + 5, preallocation, nocow: true, ..NewFile::default() };
        FileStorage::create(name(&path), &new).unwrap().guard.keep();
        let info = std::fs::metadata(&path).unwrap();
        assert_eq!(info.len(), MIB + 5);
        assert!(info.blocks() * 512 >= MIB, "{preallocation:?}");
    }
}

#[test]
fn unfinished_files_do_not_stay() {
    let dir = dir();
    let path = dir.path().join("new");
    let new = NewFile { size: 10, ..NewFile::default() };
    drop(FileStorage::create(name(&path), &new).unwrap());
    assert!(!path.exists());

    // What existed stays as an empty file.
    std::fs::write(&path, b"precious").unwrap();
    drop(FileStorage::create(name(&path), &new).unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), b"");

    // What could not be touched stays as it was.
    std::fs::write(&path, b"precious").unwrap();
    let user = open(&path, CacheMode::WRITEBACK);
    user.lock(Permissions::FORMAT).unwrap();
    let error = FileStorage::create(name(&path), &new).unwrap_err();
    assert_eq!(error.to_string(), "Failed to get \"write\" lock");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    drop(user);

    // What somebody else put there meanwhile stays.
    let guard = UnfinishedFile::before(name(&dir.path().join("other")));
    std::fs::write(dir.path().join("other"), b"1").unwrap();
    let guard = guard.armed();
    std::fs::write(dir.path().join("third"), b"2").unwrap();
    std::fs::rename(dir.path().join("third"), dir.path().join("other")).unwrap();
    drop(guard);
    assert_eq!(std::fs::read(dir.path().join("other")).unwrap(), b"2");

    // A link that leads nowhere yet: the file behind it goes, the link stays.
    let (link, behind) = (dir.path().join("link"), dir.path().join("behind"));
    std::os::unix::fs::symlink(&behind, &link).unwrap();
    let creation = FileStorage::create(name(&link), &new).unwrap();
    assert!(behind.exists());
    drop(creation);
    assert!(!behind.exists() && link.is_symlink());
}

#[test]
fn names_are_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let dir = dir();
    let path = dir.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe name"));
    let carried = crate::text::from_os(path.as_os_str());
    let creation = FileStorage::create(&carried, &NewFile::default()).unwrap();
    assert!(path.exists());
    FileStorage::open(&carried, OpenMode::READ, CacheMode::WRITEBACK).unwrap();
    drop(creation);
    assert!(!path.exists());
}

#[test]
fn creating_says_what_is_wrong() {
    let dir = dir();
    let new = NewFile { size: 10, ..NewFile::default() };
    let text = |path: &Path| FileStorage::create(name(path), &new).unwrap_err().to_string();
    assert_eq!(text(dir.path()), format!("Could not create '{}': Is a directory", name(dir.path())));
    let nowhere = dir.path().join("no/where");
    assert_eq!(text(&nowhere), format!("Could not create '{}': No such file or directory", name(&nowhere)));
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(text(&pipe), "Could not resize file: Invalid argument");
    assert!(pipe.exists());
    assert_eq!(text(Path::new("/dev/null")), "Cannot grow device files");
    let huge = NewFile { size: 1 << 63, ..NewFile::default() };
    let path = dir.path().join("huge");
    let error = FileStorage::create(name(&path), &huge).unwrap_err();
    assert_eq!(error.errno(), libc::EFBIG);
    assert!(!path.exists());
}

#[test]
fn a_read_only_file_is_not_written() {
    let dir = dir();
    let path = file(&dir, b"abc");
    let storage = FileStorage::open(name(&path), OpenMode::READ, CacheMode::WRITEBACK).unwrap();
    assert_eq!(storage.write_at(b"x", 0).unwrap_err().errno(), libc::EBADF);
    assert!(storage.zero(0, 1, ZeroMode::Discard).is_err());
    storage.flush().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"abc");
}

#[test]
fn a_signal_removes_unfinished_files() {
    // In a process of its own, as all unfinished files of the process go.
    const NAME: &str = "storage::file::tests::a_signal_removes_unfinished_files";
    const VARIABLE: &str = "TEST_UNFINISHED_FILE";
    if let Some(path) = std::env::var_os(VARIABLE) {
        let creation = FileStorage::create(path.to_str().unwrap(), &NewFile::default()).unwrap();
        let kept = format!("{}.kept", path.to_str().unwrap());
        FileStorage::create(&kept, &NewFile::default()).unwrap().guard.keep();
        remove_unfinished();
        assert!(!Path::new(&path).exists());
        drop(creation);
        std::process::exit(0);
    }
    let dir = dir();
    let path = dir.path().join("new");
    let this = std::env::current_exe().unwrap();
    let child = std::process::Command::new(this).args(["--exact", NAME]).env(VARIABLE, &path).output().unwrap();
    assert!(child.status.success(), "{child:?}");
    assert!(!path.exists());
    assert!(dir.path().join("new.kept").exists());
}

#[test]
fn writing_back_begins_in_every_cache_mode_and_changes_nothing() {
    let dir = dir();
    for cache in ["none", "writethrough", "writeback", "directsync", "unsafe"] {
        let path = file(&dir, b"");
        let storage = open(&path, CacheMode::parse(cache).unwrap());
        storage.write_at(&[7; 8192], 4096).unwrap();
        // Of what is there, of nothing, and beyond the end.
        for (offset, len) in [(4096, 8192), (0, 0), (MIB, MIB)] {
            storage.start_writeback(offset, len).unwrap_or_else(|error| panic!("{cache}: {error}"));
        }
        storage.flush().unwrap();
        assert_eq!(read(&storage, 0, 12288), [vec![0; 4096], vec![7; 8192]].concat(), "{cache}");
        assert_eq!(storage.len().unwrap(), 12288);
    }
}
