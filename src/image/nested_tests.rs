use super::*;
use crate::error::Kind;
use crate::format::{self, CreateOptions, CreateRequest};
use crate::image::{ImageSpec, OpenContext, OpenFlags, open_chain};

const SIZE: u64 = 1 << 20;

/// A new qcow2 image, opened for writing, as a storage.
fn outer(path: &str, cluster: &str) -> Nested {
    let mut options = CreateOptions::default();
    options.set("cluster_size", cluster);
    let context = OpenContext::default();
    let qcow2 = format::find("qcow2").expect("it is in the table");
    let create = qcow2.create.expect("it can be created");
    create(CreateRequest { filename: path, size: SIZE, options: &options, context: &context, no_flush: false })
        .expect("created");
    open(path)
}

fn open(path: &str) -> Nested {
    let spec = ImageSpec::name(path.to_owned(), Some("qcow2"));
    for _ in 0..50 {
        match open_chain(&spec, OpenFlags::WRITE, &OpenContext::default()) {
            Ok(chain) => return Nested::new(Arc::new(chain)),
            // A process that another test is just starting still holds our descriptors, and with them our locks.
            Err(error) if matches!(error.kind(), Kind::Locked { .. }) => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("{path} stays locked");
}

/// Whatever is written where, by several threads at once: afterwards it is there, also when the image is opened anew.
#[test]
fn holds_what_was_written() {
    for cluster in ["512", "65536"] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("outer").to_str().expect("plain").to_owned();
        let nested = outer(&path, cluster);
        let mut model = vec![0u8; SIZE as usize];
        // Each thread has its own part of the disk; the borders lie inside clusters.
        let part = SIZE as usize / 4 + 333;
        std::thread::scope(|scope| {
            for (number, mine) in model.chunks_mut(part).enumerate() {
                let nested = &nested;
                scope.spawn(move || {
                    let mut state = 77 + number;
                    let mut random = |below: usize| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        (state >> 33) % below
                    };
                    for step in 0..60 {
                        let at = random(mine.len());
                        let len = 1 + random((mine.len() - at).min(9000));
                        let offset = (number * part + at) as u64;
                        let range = at..at + len;
                        match random(4) {
                            0 => {
                                let modes = [ZeroMode::Discard, ZeroMode::Allocate, ZeroMode::Write];
                                nested.zero(offset, len as u64, modes[random(3)]).expect("zeroed");
                                mine[range].fill(0);
                            }
                            1 => {
                                let mut found = vec![1; len];
                                nested.read_at(&mut found, offset).expect("read");
                                assert_eq!(found, mine[range], "at {offset}");
                            }
                            _ => {
                                mine[range.clone()].fill(step + 1);
                                nested.write_at(&mine[range], offset).expect("written");
                            }
                        }
                    }
                });
            }
        });
        nested.flush().expect("flushed");
        drop(nested);
        let mut found = vec![1; SIZE as usize + 100];
        open(&path).read_at(&mut found, 0).expect("read");
        assert_eq!(&found[..SIZE as usize], &model[..]);
        assert_eq!(&found[SIZE as usize..], [0; 100], "zeros behind the end");
    }
}

/// What lies behind the end is refused rather than lost.
#[test]
fn does_not_grow() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let nested = outer(dir.path().join("outer").to_str().expect("plain"), "65536");
    let full = |result: Result<()>| assert_eq!(result.expect_err("it is full").errno(), libc::ENOSPC);
    full(nested.write_at(&[1; 2], SIZE - 1));
    full(nested.write_at(&[1], u64::MAX));
    full(nested.zero(SIZE, 1, ZeroMode::Discard));
    full(nested.set_len(SIZE + 1));
    assert_eq!(nested.set_len(SIZE / 2).map(|()| nested.len().ok()).ok(), Some(Some(SIZE)));
    assert_eq!(nested.extent(0, SIZE).ok(), Some((RangeKind::Hole, SIZE)), "nothing was written");
}
