//! The header: written and read back, and every field with values that make no sense.

use std::sync::Arc;

use super::*;
use crate::storage::MemStorage;
use crate::storage::fault::{FaultStorage, Op};

fn sample(version: u32) -> Header {
    Header {
        version,
        cluster_bits: 16,
        refcount_order: 4,
        size: 10 << 20,
        crypt_method: crypt_method::NONE,
        l1_size: 1,
        l1_offset: 0x30000,
        refcount_table_offset: 0x10000,
        refcount_table_clusters: 1,
        nb_snapshots: 0,
        snapshots_offset: 0,
        incompatible: 0,
        compatible: 0,
        autoclear: 0,
        compression: CompressionType::Zlib,
        backing_file: None,
        backing_format: None,
        data_file: None,
        crypto: None,
        bitmaps: None,
        unknown_fields: Vec::new(),
        unknown_extensions: Vec::new(),
    }
}

fn read(bytes: Vec<u8>) -> Result<Header> {
    Header::read(&MemStorage::new(bytes), Purpose::Read)
}

#[test]
fn comes_back_as_it_was_written() {
    let full = Header {
        backing_file: Some(b"base \xff.raw".to_vec()),
        backing_format: Some(b"raw".to_vec()),
        bitmaps: Some(BitmapsPointer { count: 2, directory_size: 64, directory_offset: 0x50000 }),
        autoclear: autoclear::BITMAPS,
        compatible: compatible::LAZY_REFCOUNTS,
        unknown_fields: vec![0; 8],
        unknown_extensions: vec![(0x1234_5678, vec![1, 2, 3])],
        ..sample(3)
    };
    let external = Header {
        incompatible: incompatible::DATA_FILE | incompatible::EXTENDED_L2,
        autoclear: autoclear::DATA_FILE_RAW,
        data_file: Some(b"d.raw".to_vec()),
        ..sample(3)
    };
    let luks = Header {
        crypt_method: crypt_method::LUKS,
        crypto: Some(CryptoPointer { offset: 0x40000, len: 0x1f_9000 }),
        ..sample(3)
    };
    let zstd = Header { compression: CompressionType::Zstd, incompatible: incompatible::COMPRESSION, ..sample(3) };
    for header in [sample(2), sample(3), full, external, luks, zstd] {
        let bytes = header.to_bytes().expect("it fits");
        assert_eq!(read(bytes).expect("it is valid"), header);
        // Extensions begin where the header ends, which may be anywhere.
        for more in 0..if header.version == 3 { 20 } else { 0 } {
            let header = Header { unknown_fields: vec![1; more], ..header.clone() };
            let bytes = header.to_bytes().expect("it fits");
            assert_eq!(read(bytes).expect("it is valid"), header, "{more} bytes more");
        }
    }
}

/// What lies behind the part that is read first is found all the same, wherever it begins.
#[test]
fn headers_are_read_to_their_end() {
    let base = Some(b"base.raw".to_vec());
    let lens = [HEAD, LONG_HEAD].into_iter().flat_map(|border| border.saturating_sub(600)..border + 16);
    for len in lens.chain([LONG_HEAD * 3]) {
        let unknown_extensions = vec![(0x1234_5678, vec![7; len])];
        for (backing_file, cluster_bits) in [(None, 16), (base.clone(), 16), (None, 9), (base.clone(), 12)] {
            let l1_size = if cluster_bits == 16 { 1 } else { 400 };
            let unknown_extensions = unknown_extensions.clone();
            let header = Header { unknown_extensions, backing_file, cluster_bits, l1_size, ..sample(3) };
            match header.to_bytes() {
                Ok(bytes) => assert_eq!(read(bytes).expect("it is valid"), header, "{len}, 2^{cluster_bits}"),
                Err(error) => assert!(error.errno() == libc::ENOSPC && cluster_bits < 16, "{error}"),
            }
        }
    }
    let header = Header { unknown_fields: vec![9; LONG_HEAD], backing_file: base, ..sample(3) };
    assert_eq!(read(header.to_bytes().expect("it fits")).expect("it is valid"), header);
    // An extension that ends with the cluster, without one that says so.
    let mut bytes = sample(3).to_bytes().expect("it fits");
    bytes[112..116].fill(0x55);
    bytes[116..120].copy_from_slice(&(65536_u32 - 120).to_be_bytes());
    assert_eq!(read(bytes.clone()).expect("it is valid").unknown_extensions[0].1.len(), 65536 - 120);
    bytes[116..120].copy_from_slice(&(65536_u32 - 119).to_be_bytes());
    assert_eq!(read(bytes).expect_err("too long").to_string(), "Header extension too large");
}

/// A bad sector elsewhere is no reason not to open an image.
#[test]
fn nothing_behind_the_header_is_read() {
    for (cluster_bits, len, reads) in [(9, 0, 1), (16, 0, 1), (12, 600, 2), (16, 600, 2), (16, 5000, 3)] {
        let unknown_extensions = if len > 0 { vec![(0x1234_5678, vec![7; len])] } else { Vec::new() };
        let header = Header { cluster_bits, l1_size: 400 << 9 >> (cluster_bits - 9), unknown_extensions, ..sample(3) };
        let bytes = header.to_bytes().expect("it fits");
        let file = FaultStorage::new(Arc::new(MemStorage::new(bytes)));
        file.fail_from(Op::Read, reads + 1, libc::EIO);
        assert!(Header::read(&file, Purpose::Read).is_ok(), "{reads} reads, 2^{cluster_bits}, {len} bytes");
        assert_eq!(file.count(Op::Read), reads);
    }
}

/// What lies behind the beginning of the backing file name is no extension.
#[test]
fn names_of_features_end_where_the_backing_name_begins() {
    let mut bytes = Header { backing_file: Some(b"base.raw".to_vec()), ..sample(3) }.to_bytes().expect("it fits");
    bytes[121] = 10;
    bytes[72..80].copy_from_slice(&0x400_u64.to_be_bytes());
    assert!(read(bytes.clone()).expect_err("unknown feature").to_string().ends_with(": dirty bit"));
    bytes[8..16].copy_from_slice(&130_u64.to_be_bytes());
    let text = read(bytes).expect_err("unknown feature").to_string();
    assert_eq!(text, "Unsupported qcow2 feature(s): Unknown incompatible feature: 400");
}

#[test]
fn does_not_write_beyond_the_first_cluster() {
    let header = Header { cluster_bits: 9, backing_file: Some(vec![b'x'; 400]), ..sample(3) };
    assert_eq!(header.to_bytes().expect_err("too long").errno(), libc::ENOSPC);
}

/// A field of the header: offset and length in bytes.
type Field = (usize, usize);
const MAGIC_FIELD: Field = (0, 4);
const VERSION: Field = (4, 4);
const BACKING_OFFSET: Field = (8, 8);
const BACKING_LEN: Field = (16, 4);
const CLUSTER_BITS: Field = (20, 4);
const SIZE: Field = (24, 8);
const CRYPT: Field = (32, 4);
const L1_SIZE: Field = (36, 4);
const L1_OFFSET: Field = (40, 8);
const REFCOUNT_OFFSET: Field = (48, 8);
const REFCOUNT_CLUSTERS: Field = (56, 4);
const SNAPSHOTS: Field = (60, 4);
const SNAPSHOTS_OFFSET: Field = (64, 8);
const INCOMPATIBLE: Field = (72, 8);
const REFCOUNT_ORDER: Field = (96, 4);
const HEADER_LENGTH: Field = (100, 4);
const COMPRESSION: Field = (104, 1);
const EXTENSION_LENGTH: Field = (116, 4);

#[test]
fn refuses_what_makes_no_sense() {
    let unknown = "Unsupported qcow2 feature(s): Unknown incompatible feature";
    let cases: &[(&[(Field, u64)], &str)] = &[
        (&[(MAGIC_FIELD, 0)], "Image is not in qcow2 format"),
        (&[(VERSION, 4)], "Unsupported qcow2 version 4"),
        (&[(VERSION, 1)], "Unsupported qcow2 version 1"),
        (&[(CLUSTER_BITS, 8)], "Unsupported cluster size: 2^8"),
        (&[(CLUSTER_BITS, 22)], "Unsupported cluster size: 2^22"),
        (&[(CLUSTER_BITS, u32::MAX as u64)], "Unsupported cluster size: 2^4294967295"),
        (&[(SIZE, 1 << 63)], "Image is too big"),
        (&[(SIZE, u64::MAX)], "Could not refresh total sector count: File too large"),
        (&[(SIZE, 1 << 56)], "L1 table is too small"),
        (&[(CRYPT, 3)], "Unsupported encryption method 3"),
        (&[(L1_SIZE, 0)], "L1 table is too small"),
        (&[(L1_SIZE, 1 << 26)], "Active L1 table too large"),
        (&[(L1_OFFSET, 0x30001)], "Active L1 table offset invalid"),
        (&[(L1_OFFSET, 1 << 63)], "Active L1 table offset invalid"),
        (&[(REFCOUNT_OFFSET, 0x10200)], "Reference count table offset invalid"),
        (&[(REFCOUNT_CLUSTERS, 0)], "Image does not contain a reference count table"),
        (&[(REFCOUNT_CLUSTERS, u32::MAX as u64)], "Reference count table too large"),
        (&[(SNAPSHOTS, 70000)], "Snapshot table too large"),
        (&[(SNAPSHOTS, 1), (SNAPSHOTS_OFFSET, 0x1ff)], "Snapshot table offset invalid"),
        (&[(INCOMPATIBLE, 0x300)], &format!("{unknown}: 300")),
        (&[(INCOMPATIBLE, 16), (CLUSTER_BITS, 13)], "Unsupported subcluster size: 256"),
        (&[(INCOMPATIBLE, 8)], "qcow2: Compression type incompatible feature bit must not be set"),
        (&[(COMPRESSION, 1)], "qcow2: Compression type incompatible feature bit must be set"),
        (&[(COMPRESSION, 7)], "qcow2: unknown compression type: 7"),
        (&[(HEADER_LENGTH, 72)], "qcow2 header too short"),
        (&[(HEADER_LENGTH, 70000)], "qcow2 header exceeds cluster size"),
        (&[(REFCOUNT_ORDER, 7)], "Reference count entry width too large; may not exceed 64 bits"),
        (&[(BACKING_OFFSET, 0x20000)], "Invalid backing file offset"),
        (&[(BACKING_OFFSET, 0x300), (BACKING_LEN, 2000)], "Backing file name too long"),
        (&[(EXTENSION_LENGTH, 0xfff_ffff)], "Header extension too large"),
    ];
    for (patches, expected) in cases {
        let mut bytes = sample(3).to_bytes().expect("it fits");
        for &((at, len), value) in *patches {
            bytes[at..at + len].copy_from_slice(&value.to_be_bytes()[8 - len..]);
        }
        let error = read(bytes).expect_err(expected);
        assert_eq!(&error.to_string(), expected);
    }
}

#[test]
fn names_unknown_features_as_the_image_does() {
    let mut bytes = sample(3).to_bytes().expect("it fits");
    // The first record of the feature name table becomes bit 9.
    assert_eq!(&bytes[122..131], b"dirty bit");
    bytes[121] = 9;
    bytes[72..80].copy_from_slice(&0x600_u64.to_be_bytes());
    let text = read(bytes).expect_err("unknown features").to_string();
    assert_eq!(text, "Unsupported qcow2 feature(s): dirty bit, Unknown incompatible feature: 400");
}

#[test]
fn a_corrupt_image_is_read_but_not_written() {
    let header = Header { incompatible: incompatible::CORRUPT, ..sample(3) };
    let file = MemStorage::new(header.to_bytes().expect("it fits"));
    assert!(Header::read(&file, Purpose::Read).is_ok());
    let text = Header::read(&file, Purpose::Write).expect_err("it must not be written").to_string();
    assert_eq!(text, "qcow2: Image is corrupt; cannot be opened read/write");
}

#[test]
fn no_length_of_file_makes_it_panic() {
    let full = Header { backing_file: Some(b"base.raw".to_vec()), ..sample(3) }.to_bytes().expect("it fits");
    for len in 0..full.len() {
        let _ = read(full[..len].to_vec());
    }
}
