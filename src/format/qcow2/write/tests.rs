//! Writes into images made by the reference, judged by the reference: its `check` must find nothing, and what it reads
//! must be what a plain array of bytes says.

use std::path::Path;
use std::sync::Arc;

use super::super::create::write_image;
use super::super::options;
use crate::crypto::Secrets;
use crate::error::Kind;
use crate::format::CreateOptions;
use crate::format::qcow2::testing::{available, expect, open_storage};
use crate::image::{ExtentKind, ImageSpec, Layer, OpenContext, OpenFlags, Payload, Place, ZeroFlags, open_layer};
use crate::storage::Storage;
use crate::storage::fault::{Event, FaultStorage};

const SIZE: u64 = 3 * 1024 * 1024 + 512 * 3;

/// A small generator of repeatable noise.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Paths are absolute here.
fn reference(program: &str, arguments: &[&str]) -> String {
    expect(Path::new("/"), program, arguments)
}

fn open(path: &str) -> Box<dyn Layer> {
    let spec = ImageSpec::name(path.to_owned(), Some("qcow2"));
    for _ in 0..50 {
        match open_layer(&spec, OpenFlags::WRITE, &OpenContext::default()) {
            Ok(node) => return node.layer,
            Err(error) if matches!(error.kind(), Kind::Locked { .. }) => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("{path} stays locked");
}

fn write(layer: &dyn Layer, guest: u64, data: &[u8]) {
    let place = Place { guest, len: data.len() as u64, payload: Payload::Plain };
    let pending = layer.prepare(&[place]).unwrap();
    pending.write(guest, data).unwrap();
    pending.commit().unwrap();
}

fn write_compressed(layer: &dyn Layer, guest: u64, data: &[u8]) {
    let cluster = layer.limits().cluster as usize;
    let mut whole = data.to_vec();
    whole.resize(cluster, 0);
    let mut deflater = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut out = vec![0; deflater.deflate_compress_bound(cluster)];
    let len = deflater.deflate_compress(&whole, &mut out).unwrap();
    if len >= cluster {
        return write(layer, guest, data);
    }
    let payload = Payload::Compressed { stored: len as u64 };
    match layer.prepare(&[Place { guest, len: data.len() as u64, payload }]) {
        Ok(pending) => {
            pending.write_compressed(guest, &out[..len]).unwrap();
            pending.commit().unwrap();
        }
        Err(error) => {
            assert_eq!(error.errno(), libc::EIO, "{error}");
            write(layer, guest, data);
        }
    }
}

/// A range of whole granules.
fn range(layer: &dyn Layer, noise: &mut Noise) -> (u64, u64) {
    let granule = layer.limits().granule;
    let units = SIZE.div_ceil(granule);
    let first = noise.below(units);
    let longest = if noise.below(3) == 0 { units } else { 5 };
    let count = 1 + noise.below(longest.min(units - first));
    let from = first * granule;
    (from, ((first + count) * granule).min(SIZE) - from)
}

fn step(layer: &dyn Layer, noise: &mut Noise, model: &mut [u8], compress: bool) {
    let (from, len) = range(layer, noise);
    let part = from as usize..(from + len) as usize;
    match noise.below(if compress { 8 } else { 6 }) {
        0 | 1 => {
            model[part].fill(0);
            layer.zero(from, len, ZeroFlags { may_unmap: noise.below(2) == 0 }).unwrap();
        }
        2 => {
            // Reserved, and partly written, but never published.
            let place = Place { guest: from, len, payload: Payload::Plain };
            drop(layer.prepare(&[place]).unwrap());
        }
        3..=5 => {
            // Not into places that are written in place without being published: those bytes count at once.
            let seed = noise.next() as u8;
            for (number, byte) in model[part.clone()].iter_mut().enumerate() {
                *byte = seed.wrapping_add((number / 300) as u8) | 1;
            }
            write(layer, from, &model[part]);
        }
        _ => {
            let cluster = layer.limits().cluster;
            let from = from / cluster * cluster;
            let to = (from + cluster).min(SIZE);
            let part = from as usize..to as usize;
            model[part.clone()].fill(noise.next() as u8 | 1);
            write_compressed(layer, from, &model[part]);
        }
    }
}

/// Some bytes, wherever they begin and end, if there are places for them.
fn overwrite(layer: &dyn Layer, noise: &mut Noise, model: &mut [u8]) {
    let from = noise.below(SIZE);
    let len = 1 + noise.below(20_000.min(SIZE - from));
    if let Some(pending) = layer.prepare_part(from, len).unwrap() {
        let part = &mut model[from as usize..(from + len) as usize];
        part.fill(noise.next() as u8);
        pending.write(from, part).unwrap();
        pending.commit().unwrap();
    }
}

fn check(path: &str, model: &[u8], what: &str) {
    let raw = format!("{path}.raw");
    let text = reference("qemu-img", &["check", "-f", "qcow2", path]);
    assert!(text.contains("No errors were found"), "{what}: {text}");
    reference("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", path, &raw]);
    let bytes = std::fs::read(&raw).unwrap();
    let differs = bytes.iter().zip(model).position(|(a, b)| a != b);
    assert_eq!((differs, bytes.len()), (None, model.len()), "{what}");
}

/// Random writes into an image with these options; with snapshots taken by the reference in between, each of which must
/// keep its content.
fn torture(options: &str, snapshots: bool, backing: bool, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2").to_str().unwrap().to_owned();
    let base = dir.path().join("base.raw").to_str().unwrap().to_owned();
    let mut noise = Noise(seed);
    let mut model = vec![0; SIZE as usize];
    let size = SIZE.to_string();
    let options = options.replace("DIR", dir.path().to_str().unwrap());
    if backing {
        model.fill(0x33);
        std::fs::write(&base, &model).unwrap();
        reference("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &base, "-F", "raw", "-o", &options, &path]);
    } else {
        reference("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, &path, &size]);
    }
    let compress = !options.contains("data_file");
    let mut kept = Vec::new();
    for round in 0..4 {
        let layer = open(&path);
        for _ in 0..12 {
            step(&*layer, &mut noise, &mut model, compress);
            overwrite(&*layer, &mut noise, &mut model);
        }
        layer.flush().unwrap();
        drop(layer);
        check(&path, &model, &format!("{options} seed {seed} round {round}"));
        if snapshots && round < 3 {
            let name = format!("s{round}");
            reference("qemu-img", &["snapshot", "-c", &name, &path]);
            kept.push((name, model.clone()));
        }
    }
    for (name, content) in kept {
        reference("qemu-img", &["snapshot", "-a", &name, &path]);
        check(&path, &content, &format!("{options} seed {seed} snapshot {name}"));
    }
}

const LAYOUTS: &[&str] = &[
    "cluster_size=64k",
    "cluster_size=512",
    "cluster_size=512,refcount_bits=64",
    "cluster_size=4k,refcount_bits=8",
    "cluster_size=2M",
    "compat=0.10,cluster_size=4k",
    "compat=0.10,cluster_size=64k",
    "cluster_size=16k,extended_l2=on",
    "cluster_size=128k,extended_l2=on,refcount_bits=32",
    "cluster_size=64k,preallocation=metadata",
    "cluster_size=16k,extended_l2=on,preallocation=metadata",
];

#[test]
fn random_writes_check_clean() {
    if !available() {
        return;
    }
    for (seed, options) in (1..).zip(LAYOUTS) {
        torture(options, false, false, seed * 7919);
    }
    torture("cluster_size=64k,refcount_bits=1", false, false, 99);
    torture("cluster_size=4k,refcount_bits=2", false, false, 98);
}

#[test]
fn random_writes_keep_snapshots() {
    if !available() {
        return;
    }
    for (seed, options) in (1..).zip(LAYOUTS) {
        torture(options, true, false, seed * 104_729);
    }
    torture("cluster_size=4k,refcount_bits=4", true, false, 97);
}

#[test]
fn random_writes_over_a_backing_file() {
    if !available() {
        return;
    }
    for (seed, options) in (1..).zip(LAYOUTS.iter().filter(|options| !options.contains("prealloc"))) {
        torture(options, true, true, seed * 1_299_709);
    }
}

#[test]
fn random_writes_with_a_data_file() {
    if !available() {
        return;
    }
    for options in [
        "data_file=DIR/data",
        "data_file=DIR/data,data_file_raw=on",
        "data_file=DIR/data,cluster_size=16k,extended_l2=on",
        "data_file=DIR/data,data_file_raw=on,preallocation=metadata,cluster_size=4k",
    ] {
        torture(options, false, false, 77);
    }
}

/// A new image of clusters of 64 KiB in memory, with or without subclusters.
fn in_memory(extended_l2: &str) -> (Arc<FaultStorage>, Box<dyn Layer>) {
    let mut options = CreateOptions::default();
    options.set("extended_l2", extended_l2);
    let image = options::check(&options, SIZE, &Secrets::default()).unwrap();
    let storage = Arc::new(FaultStorage::in_memory());
    let file = Arc::clone(&storage) as Arc<dyn Storage>;
    write_image(&file, None, image).unwrap();
    (storage, open_storage(file, OpenFlags::WRITE).unwrap())
}

/// Two that write to one of many clusters at a time: the first to publish wins, nothing of the other is left, not even
/// clusters that are counted.
#[test]
fn a_cluster_within_a_run_changes_meanwhile() {
    const CLUSTER: u64 = 65536;
    for extended_l2 in ["off", "on"] {
        let (storage, layer) = in_memory(extended_l2);
        let reserve = |guest, len| layer.prepare(&[Place { guest, len, payload: Payload::Plain }]).unwrap();
        let (many, one) = (reserve(0, 20 * CLUSTER), reserve(19 * CLUSTER, CLUSTER));
        many.write(0, &[1; 20 * CLUSTER as usize]).unwrap();
        one.write(19 * CLUSTER, &[2; CLUSTER as usize]).unwrap();
        one.commit().unwrap();
        assert_eq!(many.commit().unwrap_err().errno(), libc::EBUSY);
        layer.flush().unwrap();
        let mapped = layer.map(0, SIZE).unwrap();
        assert_eq!((mapped.len, mapped.kind), (19 * CLUSTER, ExtentKind::Unallocated), "extended_l2={extended_l2}");
        assert!(matches!(layer.map(19 * CLUSTER, CLUSTER).unwrap().kind, ExtentKind::Data { .. }));
        drop(layer);
        if available() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.qcow2");
            let mut bytes = vec![0; storage.len().unwrap() as usize];
            storage.read_at(&mut bytes, 0).unwrap();
            std::fs::write(&path, bytes).unwrap();
            let mut model = vec![0; SIZE as usize];
            model[19 * CLUSTER as usize..20 * CLUSTER as usize].fill(2);
            check(path.to_str().unwrap(), &model, &format!("extended_l2={extended_l2}"));
        }
    }
}

/// Places that are there already and nobody shares take single bytes; nothing else is written then.
#[test]
fn parts_of_clusters() {
    const CLUSTER: u64 = 65536;
    let (storage, layer) = in_memory("off");
    write(&*layer, 0, &[1; 2 * CLUSTER as usize]);
    write_compressed(&*layer, 3 * CLUSTER, &[2; CLUSTER as usize]);
    layer.zero(CLUSTER, CLUSTER, ZeroFlags { may_unmap: false }).unwrap();
    layer.flush().unwrap();
    let may = |guest, len| layer.prepare_part(guest, len).unwrap().is_some();
    let cases = [
        (0, CLUSTER, true),
        (1000, 7, true),
        (CLUSTER - 1, 2, false), // A place that reads as zeros,
        (CLUSTER, 1, false),
        (2 * CLUSTER, 1, false), // none,
        (3 * CLUSTER, 1, false), // compressed,
        (SIZE, 1, false),        // behind the end.
        (u64::MAX, 1, false),
    ];
    for (guest, len, expected) in cases {
        assert_eq!(may(guest, len), expected, "{len} bytes at {guest}");
    }
    storage.clear_events();
    let pending = layer.prepare_part(1000, 7).unwrap().unwrap();
    let host = pending.pieces()[0].host;
    pending.write(1000, b"written").unwrap();
    pending.commit().unwrap();
    layer.flush().unwrap();
    assert_eq!(storage.events(), [Event::Write { offset: host, data: b"written".to_vec() }, Event::Flush]);
    layer.snapshots().unwrap().create("shares").unwrap();
    assert!(!may(1000, 7), "a shared cluster");
}
