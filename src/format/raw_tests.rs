use super::*;
use crate::image::{OpenContext, OpenFlags};
use crate::storage::MemStorage;

fn open_with(bytes: Vec<u8>, options: Value, probed: bool) -> Result<Box<dyn Layer>> {
    let Value::Object(mut options) = options else { panic!("options are an object") };
    let context = OpenContext::default();
    let storage = Arc::new(MemStorage::new(bytes));
    open(OpenRequest {
        storage,
        filename: "x",
        options: &mut options,
        flags: OpenFlags::WRITE,
        context: &context,
        probed,
        data_file: &mut None,
        nesting: 0,
    })
}

#[test]
fn windows() {
    // length of the file, offset, size, expected offset and size or the start of a message
    let cases = [
        (1024, None, None, Ok((0, 1024))),
        (1000, None, None, Ok((0, 1024))),
        (1024, Some(1024), None, Ok((1024, 0))),
        (1024, Some(100), None, Ok((100, 1024))),
        (4096, Some(100), Some(512), Ok((100, 512))),
        (4096, None, Some(0), Ok((0, 0))),
        (4096, None, Some(100), Err("Specified size")),
        (4096, Some(4097), None, Err("Offset (4097)")),
        (4096, Some(1024), Some(4096), Err("The sum of offset (1024) and size (4096)")),
        (4096, Some(1), Some(u64::MAX), Err("The sum")),
    ];
    for (len, offset, size, expected) in cases {
        let found = Part::new(len, offset, size);
        match (found, expected) {
            (Ok(window), Ok((offset, size))) => assert_eq!(window, Part { offset, size }),
            (Err(error), Err(start)) => assert!(error.to_string().starts_with(start), "{error}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn options_are_numbers_or_text() {
    for (options, size) in [
        (serde_json::json!({"offset": 512, "size": "1k"}), Some(1024)),
        (serde_json::json!({"size": "x"}), None),
        (serde_json::json!({"size": -1}), None),
        (serde_json::json!({"offset": "-1"}), None),
    ] {
        let layer = open_with(vec![0; 8192], options.clone(), false);
        assert_eq!(layer.ok().map(|layer| layer.size()), size, "{options}");
    }
}

#[test]
fn reads_and_writes_stay_in_the_window() {
    let bytes: Vec<u8> = (0..8192u32).map(|at| (at / 512) as u8).collect();
    let layer = open_with(bytes, serde_json::json!({"offset": 1024, "size": 2048}), false).unwrap();
    let extent = layer.map(512, 1536).unwrap();
    assert_eq!((extent.len, extent.kind), (1536, ExtentKind::Data { host: 1536, encrypted: false }));
    let mut buf = [0; 512];
    layer.read(&extent, 512, &mut buf).unwrap();
    assert_eq!(buf, [3; 512]);
    let pending = layer.prepare(&[Place { guest: 0, len: 512, payload: Payload::Plain }]).unwrap();
    pending.write(0, &[9; 512]).unwrap();
    pending.commit().unwrap();
    layer.storage().read_at(&mut buf, 1024).unwrap();
    assert_eq!(buf, [9; 512]);
}

#[test]
fn a_guessed_raw_image_cannot_become_another_format() {
    let magic = |len: usize| {
        let mut bytes = vec![0; len];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes
    };
    for (probed, guest, data, allowed) in [
        (true, 0, magic(512), false),
        (true, 0, magic(4096), false),
        (true, 4, vec![1; 4], true),
        (true, 512, magic(512), true),
        (true, 0, vec![7; 4096], true),
        (false, 0, magic(512), true),
    ] {
        let layer = open_with(vec![0; 8192], serde_json::json!({}), probed).unwrap();
        let place = Place { guest, len: data.len() as u64, payload: Payload::Plain };
        let pending = layer.prepare(&[place]).unwrap();
        let result = pending.write(guest, &data);
        assert_eq!(result.is_ok(), allowed, "{probed} {guest} {}", data.len());
        if let Err(error) = result {
            assert_eq!(error.errno(), libc::EPERM);
        }
    }
}
