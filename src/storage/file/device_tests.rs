//! Block devices and file systems other than that of the temporary directory.

use super::*;
use crate::error::Kind as Cause;
use crate::storage::FileRole;
use crate::storage::Preallocation;
use crate::storage::testing::{LoopDevice, Mount};

const MIB: u64 = 1 << 20;

const MODES: [CacheMode; 3] = [CacheMode::WRITEBACK, CacheMode::NONE, CacheMode::DIRECTSYNC];

#[test]
fn devices_have_a_fixed_length() {
    let Some(device) = LoopDevice::new(MIB as usize, 512, 1, false) else { return };
    for cache in MODES {
        let storage = FileStorage::open(&device.name, OpenMode::WRITE, cache).unwrap();
        assert_eq!(storage.len().unwrap(), MIB);
        let limits = storage.limits();
        assert!(limits.fixed_len && !limits.zero_init);
        assert_eq!(limits.alignment > 1, cache.direct);
        assert_eq!((storage.protocol(), storage.allocated().unwrap()), ("host_device", 0));
        storage.set_len(MIB).unwrap();
        storage.set_len(10).unwrap();
        assert_eq!(storage.set_len(MIB + 1).unwrap_err().to_string(), "Cannot grow device files");
        assert_eq!(storage.extent(100, 2 * MIB).unwrap(), (RangeKind::Data, MIB - 100));
        assert_eq!(storage.extent(MIB, 5).unwrap(), (RangeKind::Hole, 5));
        assert_eq!(storage.write_at(&[1; 2], MIB - 1).unwrap_err().errno(), libc::ENOSPC, "{cache:?}");
        let mut buf = [7; 10];
        storage.read_at(&mut buf, MIB - 4).unwrap();
        assert_eq!(buf, [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn devices_are_written_and_zeroed_at_any_offset() {
    for sector in [512, 4096] {
        let Some(device) = LoopDevice::new(MIB as usize, sector, 1, false) else { return };
        let mut model = vec![1; MIB as usize];
        for cache in MODES {
            let storage = FileStorage::open(&device.name, OpenMode::WRITE, cache).unwrap();
            let mut value = 2;
            for mode in [ZeroMode::Discard, ZeroMode::Allocate, ZeroMode::Write] {
                for (offset, len) in [(0, 4096), (511, 2), (4095, 8194), (100_000, 333_333), (MIB as usize - 513, 513)]
                {
                    storage.write_at(&vec![value; len + 2], offset as u64 - u64::from(offset > 0)).unwrap_or_else(
                        |error| assert_eq!(error.errno(), libc::ENOSPC, "the last one is too long by a byte"),
                    );
                    let start = offset - usize::from(offset > 0);
                    model[start..(start + len + 2).min(MIB as usize)].fill(value);
                    storage.zero(offset as u64, len as u64, mode).unwrap();
                    model[offset..offset + len].fill(0);
                    value += 1;
                }
                let mut all = vec![9; MIB as usize];
                storage.read_at(&mut all, 0).unwrap();
                assert!(all == model, "{sector} {cache:?} {mode:?}");
            }
            storage.flush().unwrap();
        }
    }
}

#[test]
fn a_device_in_use_elsewhere_is_still_zeroed() {
    let Some(device) = LoopDevice::new(8 * MIB as usize, 512, 1, false) else { return };
    let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_EXCL;
    // As a mount does it.
    let _holder = nix::fcntl::open(device.name.as_str(), flags, nix::sys::stat::Mode::empty()).unwrap();
    for cache in MODES {
        for mode in [ZeroMode::Discard, ZeroMode::Allocate, ZeroMode::Write] {
            let storage = FileStorage::open(&device.name, OpenMode::WRITE, cache).unwrap();
            storage.write_at(&[1; 4096], 4096).unwrap();
            storage.zero(4096, 4096, mode).unwrap();
            let mut buf = [9; 4098];
            storage.read_at(&mut buf, 4095).unwrap();
            assert!(buf[0] == 1 && buf[4097] == 1 && buf[1..4097] == [0; 4096], "{cache:?} {mode:?}");
        }
    }
}

#[test]
fn a_write_protected_device_is_refused_for_writing() {
    let Some(device) = LoopDevice::new(MIB as usize, 512, 1, true) else { return };
    FileStorage::open(&device.name, OpenMode::READ, CacheMode::WRITEBACK).unwrap();
    let error = FileStorage::open(&device.name, OpenMode::WRITE, CacheMode::WRITEBACK).unwrap_err();
    assert_eq!(error.to_string(), "The device is not writable: Permission denied");
    let error = FileStorage::create(&device.name, &NewFile::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Protocol driver 'host_device' does not support creating new images, so an existing image must be selected \
         as the target; however, opening the given target as an existing image failed: The device is not writable: \
         Permission denied"
    );
}

#[test]
fn an_image_is_created_on_a_device_in_place() {
    let Some(device) = LoopDevice::new(MIB as usize, 512, 1, false) else { return };
    let new = NewFile { size: MIB / 2, role: FileRole::Raw, ..NewFile::default() };
    let creation = FileStorage::create(&device.name, &new).unwrap();
    let mut start = [7; 1024];
    creation.storage.read_at(&mut start, 0).unwrap();
    assert_eq!(start, [[0; 512], [1; 512]].concat()[..]);
    // Nothing happens to a device that is not finished.
    drop(creation);
    assert!(std::path::Path::new(&device.name).exists());
    let text = |new: NewFile| FileStorage::create(&device.name, &new).unwrap_err().to_string();
    assert_eq!(text(NewFile { size: MIB + 1, ..new }), "Cannot grow device files");
    assert_eq!(text(NewFile { preallocation: Preallocation::Full, ..new }), "Unsupported preallocation mode 'full'");
    // A raw image on a device may be shared by writers, other images may not.
    let user = FileStorage::open(&device.name, OpenMode::WRITE, CacheMode::WRITEBACK).unwrap();
    user.lock(Permissions::for_file(FileRole::Raw, true, false, false)).unwrap();
    FileStorage::create(&device.name, &new).unwrap().guard.keep();
    let error = FileStorage::create(&device.name, &NewFile { role: FileRole::Metadata, ..new }).unwrap_err();
    assert_eq!(error.to_string(), "Failed to get shared \"write\" lock");
    assert!(matches!(error.kind(), Cause::Locked { .. }));
}

#[test]
fn a_full_disk_is_said_so_and_leaves_nothing() {
    let Some(mount) = Mount::tmpfs(2 * MIB) else { return };
    let path = mount.path().join("image");
    let name = path.to_str().unwrap();
    let cases = [
        (Preallocation::Falloc, "Could not preallocate new data: No space left on device"),
        (Preallocation::Full, "Could not write zeros for preallocation: No space left on device"),
    ];
    for (preallocation, message) in cases {
        let new = NewFile { size: 8 * MIB, preallocation, ..NewFile::default() };
        let error = FileStorage::create(name, &new).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(error.errno(), libc::ENOSPC);
        assert!(!path.exists());
    }
    let creation = FileStorage::create(name, &NewFile { size: 8 * MIB, ..NewFile::default() }).unwrap();
    let error = creation.storage.write_at(&vec![1; 4 * MIB as usize], 0).unwrap_err();
    assert_eq!(error.errno(), libc::ENOSPC);
    let error = creation.storage.zero(0, 8 * MIB, ZeroMode::Allocate).unwrap_err();
    assert_eq!(error.errno(), libc::ENOSPC);
}

/// The same requests give the same bytes on every file system, whatever it can or cannot do.
#[test]
fn file_systems_agree() {
    let mounts = [
        Mount::tmpfs(64 * MIB),
        Mount::new("ext4", 64 * MIB),
        Mount::new("xfs", 320 * MIB),
        Mount::new("btrfs", 128 * MIB),
        Mount::new("ext2", 64 * MIB),
        Mount::new("vfat", 64 * MIB),
    ];
    for mount in mounts.into_iter().flatten() {
        for cache in MODES {
            let path = mount.path().join("f");
            let name = path.to_str().unwrap();
            FileStorage::create(name, &NewFile { size: 1000, ..NewFile::default() }).unwrap().guard.keep();
            let storage = match FileStorage::open(name, OpenMode::WRITE, cache) {
                Ok(storage) => storage,
                Err(error) if cache.direct && error.to_string().ends_with("does not support O_DIRECT") => continue,
                Err(error) => panic!("{error}"),
            };
            let mut model = vec![0; 1000];
            let mut value = 1;
            for mode in [ZeroMode::Discard, ZeroMode::Allocate, ZeroMode::Write] {
                for (offset, len) in [(1000, 70_000), (3, 4099), (200_000, 1), (190_000, 50_000), (8192, 65536)] {
                    if model.len() < offset + len {
                        model.resize(offset + len, 0);
                    }
                    storage.write_at(&vec![value; len], offset as u64).unwrap();
                    model[offset..offset + len].fill(value);
                    let (offset, len) = (offset + len / 3, len);
                    if model.len() < offset + len {
                        model.resize(offset + len, 0);
                    }
                    storage.zero(offset as u64, len as u64, mode).unwrap();
                    model[offset..offset + len].fill(0);
                    value += 1;
                }
                storage.flush().unwrap();
                let at = mount.path();
                assert_eq!(storage.len().unwrap(), model.len() as u64, "{at:?} {cache:?} {mode:?}");
                let mut all = vec![9; model.len()];
                storage.read_at(&mut all, 0).unwrap();
                assert!(all == model, "{at:?} {cache:?} {mode:?}");
                check_extents(&storage, &model);
            }
        }
    }
}

/// No hole may cover bytes that are not zero, and the extents must reach the end.
fn check_extents(storage: &FileStorage, model: &[u8]) {
    let mut at = 0;
    while at < model.len() {
        let (kind, len) = storage.extent(at as u64, (model.len() - at) as u64).unwrap();
        assert!(len > 0);
        let end = at + len as usize;
        assert!(kind == RangeKind::Data || model[at..end].iter().all(|byte| *byte == 0));
        at = end;
    }
}

#[test]
fn space_is_allocated_in_larger_units_where_that_can_be_asked_for() {
    let Some(mount) = Mount::new("xfs", 320 * MIB) else { return };
    let path = mount.path().join("f");
    let name = path.to_str().unwrap();
    let hint = |extent_size_hint| {
        let new = NewFile { extent_size_hint, ..NewFile::default() };
        FileStorage::create(name, &new).map(|creation| creation.storage.extent_size_hint())
    };
    assert_eq!(hint(None).unwrap(), Some(MIB));
    assert_eq!(hint(Some(0)).unwrap(), None);
    assert_eq!(hint(Some(8192)).unwrap(), Some(8192));
    let new = NewFile { extent_size_hint: Some(1000), ..NewFile::default() };
    let warning = FileStorage::create(name, &new).unwrap().warning;
    assert_eq!(warning.as_deref(), Some("Failed to set extent size hint: Invalid argument"));
    assert_eq!(hint(Some(1 << 33)).unwrap_err().to_string(), "Extent size hint is too large");
}
