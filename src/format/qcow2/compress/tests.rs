use flate2::{Compress, Compression, FlushCompress};

use super::*;

const CLUSTER: usize = 65536;

/// Bytes that compress well, with repetitions near and far.
fn text(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if state >> 28 == 0 && out.len() > 40_000 {
            let from = (state >> 8) as usize % 9_000;
            out.extend_from_within(from..from + 300);
        }
        out.push(b'a' + (state >> 24) as u8 % 9);
    }
    out.truncate(len);
    out
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| byte()).collect()
}

fn deflate(data: &[u8], window_bits: u8, flush: FlushCompress) -> Vec<u8> {
    let mut state = Compress::new_with_window_bits(Compression::new(6), false, window_bits);
    let mut out = Vec::with_capacity(data.len() + 1000);
    state.compress_vec(data, &mut out, flush).unwrap();
    out
}

fn zstd(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; zstd_safe::compress_bound(data.len())];
    let len = zstd_safe::compress(&mut out[..], data, 3).unwrap();
    out.truncate(len);
    out
}

/// What a reader makes of a stream that is followed by the rest of a sector.
fn read(kind: CompressionType, stored: &[u8]) -> Option<Vec<u8>> {
    let mut padded = stored.to_vec();
    padded.resize(stored.len().next_multiple_of(512), 0xee);
    let mut out = vec![0; CLUSTER];
    match decompress(kind, &padded, &mut out) {
        Ok(()) => Some(out),
        Err(error) => {
            assert_eq!(error.to_string(), "Input/output error");
            None
        }
    }
}

// The expected results of the two following tests were observed on the reference with images made by hand.

#[test]
fn deflate_streams_end_anywhere_once_the_cluster_is_full() {
    let plain = text(CLUSTER);
    let longer = text(CLUSTER + 100);
    let finish = |data: &[u8]| deflate(data, 12, FlushCompress::Finish);
    let whole = finish(&plain);
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("whole", whole.clone(), true),
        ("32 KiB window", deflate(&plain, 15, FlushCompress::Finish), true),
        ("goes on after the cluster", finish(&longer), true),
        ("too short", finish(&plain[..CLUSTER - 1]), false),
        ("no end, garbage", deflate(&plain, 12, FlushCompress::Sync), false),
        ("cut", whole[..whole.len() - 700].to_vec(), false),
        ("two streams", [finish(&plain[..30_000]), finish(&plain[30_000..])].concat(), false),
        ("garbage", vec![0xff; 100], false),
        ("empty", vec![], false),
    ];
    for (name, stored, good) in cases {
        assert_eq!(read(CompressionType::Zlib, &stored), good.then(|| plain.clone()), "{name}");
    }
}

#[test]
fn zstd_frames_end_with_the_cluster() {
    let plain = text(CLUSTER);
    let whole = zstd(&plain);
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4].to_vec();
    let (head, tail) = plain.split_at(30_000);
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("whole", whole.clone(), true),
        ("two frames", [zstd(head), zstd(tail)].concat(), true),
        ("empty frame first", [zstd(&[]), whole.clone()].concat(), true),
        ("empty frame last", [whole.clone(), zstd(&[])].concat(), true),
        ("skippable frame between", [zstd(head), skippable, zstd(tail)].concat(), true),
        ("too long", zstd(&[&plain[..], b"more"].concat()), false),
        ("second frame too long", [zstd(head), zstd(&[tail, b"more"].concat())].concat(), false),
        ("too short", zstd(&plain[..CLUSTER - 1]), false),
        ("cut", whole[..whole.len() - 600].to_vec(), false),
        ("last byte missing", whole[..whole.len() - 1].to_vec(), false),
        ("garbage", vec![0x42; 100], false),
        ("empty", vec![], false),
    ];
    for (name, stored, good) in cases {
        assert_eq!(read(CompressionType::Zstd, &stored), good.then(|| plain.clone()), "{name}");
    }
    // An error leaves nothing behind in the context that this thread goes on using.
    assert_eq!(read(CompressionType::Zstd, &whole), Some(plain));
}

#[test]
fn compressed_clusters_are_read_back() {
    for kind in [CompressionType::Zlib, CompressionType::Zstd] {
        for size in [512, 4096, CLUSTER, 2 << 20] {
            let mut compressor = compressor(kind, CompressionLevel::Default, size as u64).unwrap();
            // In turn, so that state left over from one would harm the next.
            for plain in [text(size), noise(size), vec![0; size], noise(size), text(size)] {
                let stored = compressor.compress(&plain).unwrap().map(<[u8]>::to_vec);
                assert_eq!(stored.is_none(), plain == noise(size), "{kind:?} {size}");
                if let Some(stored) = stored {
                    let mut out = vec![1; size];
                    decompress(kind, &stored, &mut out).unwrap();
                    assert!(out == plain && stored.len() < size, "{kind:?} {size}");
                }
            }
        }
    }
}

#[test]
fn every_level_is_read_back_and_higher_ones_are_not_larger() {
    let plain = text(CLUSTER);
    for kind in [CompressionType::Zlib, CompressionType::Zstd] {
        let size = |level| {
            let mut compressor = compressor(kind, level, CLUSTER as u64).unwrap();
            let stored = compressor.compress(&plain).unwrap().unwrap().to_vec();
            let mut out = vec![1; CLUSTER];
            decompress(kind, &stored, &mut out).unwrap();
            assert!(out == plain, "{kind:?} {level:?}");
            stored.len()
        };
        let last = kind.level(CompressionLevel::Best).unwrap();
        let sizes: Vec<usize> = (1..=last).map(|level| size(CompressionLevel::Number(level))).collect();
        assert!(sizes[0] > sizes[sizes.len() - 1], "{kind:?} {sizes:?}");
        assert_eq!(size(CompressionLevel::Fast), sizes[0]);
        assert_eq!(size(CompressionLevel::Best), sizes[sizes.len() - 1]);
        for wrong in [-1, 0, last + 1, i32::MAX] {
            assert!(compressor(kind, CompressionLevel::Number(wrong), CLUSTER as u64).is_err(), "{kind:?} {wrong}");
        }
    }
}

#[test]
fn a_short_last_cluster_is_compressed_by_its_own_length() {
    for kind in [CompressionType::Zlib, CompressionType::Zstd] {
        let mut compressor = compressor(kind, CompressionLevel::Default, CLUSTER as u64).unwrap();
        assert!(compressor.compress(&noise(1000)).unwrap().is_none());
        let plain = text(1000);
        let stored = compressor.compress(&plain).unwrap().unwrap().to_vec();
        let mut out = vec![0; 1000];
        decompress(kind, &stored, &mut out).unwrap();
        assert!(out == plain && stored.len() < 1000);
    }
}

#[test]
fn a_reader_with_a_window_of_4_kib_and_one_buffer_reads_our_clusters() {
    let plain = text(CLUSTER);
    let mut compressor = compressor(CompressionType::Zlib, CompressionLevel::Default, CLUSTER as u64).unwrap();
    let stored = compressor.compress(&plain).unwrap().unwrap();
    let mut out = vec![0; CLUSTER];
    let mut reader = flate2::Decompress::new_with_window_bits(false, 12);
    reader.decompress(stored, &mut out, flate2::FlushDecompress::Finish).unwrap();
    assert!(out == plain);
}
