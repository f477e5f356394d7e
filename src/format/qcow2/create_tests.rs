//! New images, side by side with those the reference makes of the same options.

use std::path::Path;

use super::*;
use crate::crypto::{Secret, Secrets};
use crate::format::CreateOptions;
use crate::format::qcow2::header::Purpose;
use crate::format::qcow2::testing::{Done, available, tool};
use crate::image::OpenContext;
use crate::storage::MemStorage;

fn run(program: &str, arguments: &[&str]) -> Done {
    tool(Path::new("/"), program, arguments)
}

fn context() -> OpenContext {
    let mut secrets = Secrets::default();
    secrets.insert("s0", Secret::new(b"abc".to_vec()));
    OpenContext { secrets, ..OpenContext::default() }
}

/// The options as the command line gives them to `create`: sizes in bytes.
fn options(list: &str) -> CreateOptions {
    let mut options = CreateOptions::default();
    for (name, value) in list.split(',').filter_map(|item| item.split_once('=')) {
        let value = match name {
            "cluster_size" => crate::number::parse_size(value).unwrap().to_string(),
            _ => value.to_owned(),
        };
        options.set(name, value);
    }
    options
}

fn ours(filename: &str, list: &str, size: u64) -> Result<()> {
    for _ in 0..50 {
        let result =
            create(CreateRequest { filename, size, options: &options(list), context: &context(), no_flush: false });
        if !matches!(&result, Err(error) if matches!(error.kind(), crate::error::Kind::Locked { .. })) {
            return result;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{filename} stays locked");
}

fn theirs(filename: &str, list: &str, size: u64) -> Done {
    let size = size.to_string();
    let mut arguments = vec!["create", "-q", "--object", "secret,id=s0,data=abc", "-u", "-f", "qcow2"];
    if !list.is_empty() {
        arguments.extend(["-o", list]);
    }
    arguments.extend([filename, &size]);
    run("qemu-img", &arguments)
}

const SAME_BYTES: &[&str] = &[
    "",
    "compat=0.10",
    "compat=v2,cluster_size=512",
    "cluster_size=512",
    "cluster_size=512,refcount_bits=64",
    "cluster_size=4k,refcount_bits=1",
    "cluster_size=2M,lazy_refcounts=on",
    "extended_l2=on,cluster_size=16k",
    "compression_type=zstd",
    "backing_file=/nowhere/base,backing_fmt=raw",
    "backing_file=/nowhere/base,compat=0.10,backing_fmt=qcow2",
    "encrypt.format=aes,encrypt.key-secret=s0",
    "encryption=on,encrypt.key-secret=s0",
];

#[test]
fn plain_images_are_the_reference_s_byte_for_byte() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for list in SAME_BYTES {
        for size in [0, 1, 512 * 3, 10 << 20, 3 << 30] {
            if list.contains("cluster_size=512") && size > 1 << 30 {
                continue; // the L1 table needs more refcount blocks, which lie in another order
            }
            let made = theirs(&path("theirs"), list, size);
            assert!(made.code == 0, "{list}: {}", made.text);
            ours(&path("ours"), list, size).unwrap();
            let (a, b) = (std::fs::read(path("ours")).unwrap(), std::fs::read(path("theirs")).unwrap());
            let differs = a.iter().zip(&b).position(|(a, b)| a != b);
            assert_eq!((differs, a.len()), (None, b.len()), "{list} size {size}");
        }
    }
}

const SAME_PICTURE: &[&str] = &[
    "preallocation=metadata",
    "preallocation=falloc",
    "preallocation=full",
    "preallocation=metadata,cluster_size=4k",
    "preallocation=falloc,cluster_size=4k",
    "preallocation=metadata,extended_l2=on,cluster_size=16k",
    "preallocation=full,extended_l2=on",
    "preallocation=metadata,extended_l2=on,backing_file=DIR/base,backing_fmt=raw",
    "preallocation=metadata,compat=0.10,cluster_size=2M",
    "preallocation=metadata,refcount_bits=64,cluster_size=8k",
    "data_file=DIR/data",
    "data_file=DIR/data,data_file_raw=on",
    "data_file=DIR/data,preallocation=metadata",
    "data_file=DIR/data,preallocation=falloc,extended_l2=on",
    "data_file=DIR/data,data_file_raw=on,preallocation=full",
    "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10",
    "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10,cluster_size=512,compat=0.10",
    "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10,preallocation=metadata",
];

/// What programs see of an image.
fn picture(path: &str, dir: &Path, luks: bool) -> Vec<String> {
    let options = format!("driver=qcow2,file.filename={path},encrypt.key-secret=s0");
    let check = if luks {
        let secret = "secret,id=s0,data=abc";
        run("qemu-img", &["check", "--object", secret, "--image-opts", "--output=json", &options])
    } else {
        run("qemu-img", &["check", "-f", "qcow2", "--output=json", path])
    };
    let check: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap_or_else(|_| panic!("{}", check.text));
    assert_eq!((check.get("leaks"), check.get("corruptions")), (None, None), "{check}");
    let info = run("qemu-img", &["info", "-f", "qcow2", "--output=json", path]);
    let mut info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    for key in ["filename", "actual-size", "children"] {
        info.as_object_mut().unwrap().remove(key);
    }
    if let Some(encrypt) = info.pointer_mut("/format-specific/data/encrypt") {
        *encrypt = encrypt["cipher-alg"].clone();
    }
    let mut map = String::new();
    if !luks {
        let mut rows: serde_json::Value =
            serde_json::from_slice(&run("qemu-img", &["map", "-f", "qcow2", "--output=json", path]).stdout).unwrap();
        for row in rows.as_array_mut().unwrap() {
            // Where exactly clusters are does not matter; how they are cut by it neither.
            row.as_object_mut().unwrap().retain(|key, _| matches!(key.as_str(), "present" | "zero" | "data" | "depth"));
        }
        let rows = rows.as_array_mut().unwrap();
        rows.dedup();
        map = serde_json::to_string(rows).unwrap();
    }
    let data = std::fs::metadata(dir.join("data")).map(|data| data.len()).unwrap_or(0);
    let file = std::fs::metadata(path).unwrap().len();
    vec![check["image-end-offset"].to_string(), info.to_string(), map, data.to_string(), file.to_string()]
}

#[test]
fn preallocated_and_other_images_look_like_the_reference_s() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image").to_str().unwrap().to_owned();
    std::fs::write(dir.path().join("base"), vec![7; 10 << 20]).unwrap();
    for list in SAME_PICTURE {
        let list = list.replace("DIR", dir.path().to_str().unwrap());
        // For every LUKS header the reference measures for seconds how fast it is.
        let sizes: &[u64] = if list.contains("luks") { &[10 << 20] } else { &[128 << 10, 10 << 20] };
        for &size in sizes {
            let _ = std::fs::remove_file(dir.path().join("data"));
            let made = theirs(&path, &list, size);
            assert!(made.code == 0, "{list}: {}", made.text);
            let expected = picture(&path, dir.path(), list.contains("luks"));
            let _ = std::fs::remove_file(dir.path().join("data"));
            ours(&path, &list, size).unwrap();
            assert_eq!(picture(&path, dir.path(), list.contains("luks")), expected, "{list} size {size}");
        }
    }
}

const REFUSED: &[&str] = &[
    "cluster_size=3k",
    "cluster_size=256",
    "cluster_size=4M",
    "compat=foo",
    "compat=0.10,lazy_refcounts=on",
    "compat=0.10,refcount_bits=8",
    "refcount_bits=7",
    "refcount_bits=0",
    "refcount_bits=128",
    "extended_l2=on,cluster_size=8k",
    "extended_l2=on,compat=0.10",
    "data_file=d,compat=0.10",
    "data_file_raw=on",
    "compression_type=zstd,compat=0.10",
    "compression_type=lz4",
    "preallocation=foo",
    "data_file=d,data_file_raw=on,backing_file=/nowhere/base,backing_fmt=raw",
    "backing_file=/nowhere/base,backing_fmt=raw,preallocation=metadata",
    "backing_file=/nowhere/base,backing_fmt=raw,preallocation=full",
    "backing_fmt=raw",
    "encrypt.format=luks",
    "encrypt.format=foo",
    "encrypt.key-secret=s0",
    "encrypt.format=luks,encrypt.key-secret=s1",
    "encryption=on,encrypt.format=aes",
    "encryption=on",
    "data_file=/nowhere/data",
    "compat=0.10,compression_type=zstd,data_file=d",
    "cluster_size=3k,refcount_bits=7,compat=0.10",
    "preallocation=metadata,backing_file=/nowhere/base,backing_fmt=raw,cluster_size=1",
];

#[test]
fn what_cannot_be_is_refused_in_the_reference_s_words() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image").to_str().unwrap().to_owned();
    for list in REFUSED {
        let _ = std::fs::remove_file(&path);
        let made = theirs(&path, list, 1 << 20);
        std::fs::write(&path, b"precious").unwrap();
        let error = ours(&path, list, 1 << 20).unwrap_err();
        assert_eq!(made.text.trim_end(), format!("qemu-img: {path}: {error}"), "{list}");
        if !list.contains("/nowhere/data") {
            assert_eq!(std::fs::read(&path).unwrap(), b"precious", "{list}");
        }
    }
}

#[test]
fn the_largest_disks() {
    let image = |list: &str, size| options::check(&options(list), size, &Secrets::default());
    let small = image("cluster_size=512", 200 << 30).unwrap();
    let error = check_size(&small.header).unwrap_err();
    assert_eq!(error.to_string(), "Could not resize image: Failed to grow the L1 table: File too large");
    assert!(check_size(&image("cluster_size=512", 128 << 30).unwrap().header).is_ok());
    assert!(image("", u64::MAX).is_err());
}

#[test]
fn a_device_full_of_old_bytes_becomes_a_clean_image() {
    let file: Arc<dyn Storage> = Arc::new(MemStorage::new(vec![0xaa; 4 << 20]));
    let image = options::check(&options("cluster_size=4k"), 1 << 30, &Secrets::default()).unwrap();
    write_image(&file, None, image).unwrap();
    let header = Header::read(&*file, Purpose::Write).unwrap();
    let mut l1 = vec![1; header.l1_size as usize * 8];
    file.read_at(&mut l1, header.l1_offset).unwrap();
    assert!(l1.iter().all(|byte| *byte == 0));
}

#[test]
fn a_failed_request_is_an_error() {
    use crate::storage::fault::{FaultStorage, Op};
    for list in
        ["", "cluster_size=4k,preallocation=metadata", "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10"]
    {
        let image = || options::check(&options(list), 9 << 20, &context().secrets).expect("good options");
        for op in [Op::Write, Op::Zero, Op::SetLen, Op::Flush] {
            // Measuring how fast a key can be derived takes its time.
            for nth in (1..200).step_by(if list.contains("luks") { 25 } else { 1 }) {
                let storage = Arc::new(FaultStorage::in_memory());
                storage.fail(op, nth, libc::ENOSPC);
                let result = write_image(&(Arc::clone(&storage) as _), None, image());
                let reached = storage.count(op) >= nth;
                assert_eq!(result.is_err(), reached, "{list}: {op:?} {nth}");
                if !reached {
                    break;
                }
            }
        }
    }
}
