use super::{Driver, PROBE_LEN, probe};

fn head(parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut head = vec![0; PROBE_LEN];
    for (at, bytes) in parts {
        head[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    head
}

#[test]
fn supported_formats_are_found() {
    assert_eq!(probe(&head(&[(0, b"QFI\xfb\0\0\0\x03")]), "x").unwrap().name, "qcow2");
    assert_eq!(probe(&head(&[(0, b"QFI\xfb\0\0\0\x02")]), "x").unwrap().name, "qcow2");
    assert_eq!(probe(&head(&[]), "x").unwrap().name, "raw");
    assert_eq!(probe(b"", "x").unwrap().name, "raw");
    assert_eq!(probe(b"QFI", "x").unwrap().name, "raw");
    assert_eq!(probe(b"# text", "x").unwrap().name, "raw");
}

#[test]
fn foreign_formats_are_not_taken_for_raw() {
    let cases: &[(&str, &str, Vec<u8>)] = &[
        ("qcow", "x", head(&[(0, b"QFI\xfb\0\0\0\x01")])),
        ("vmdk", "x", head(&[(0, b"KDMV")])),
        ("vmdk", "x", head(&[(0, b"# Disk DescriptorFile\n \r\n\nversion=1\nCID=1")])),
        ("vdi", "x", head(&[(64, &[0x7f, 0x10, 0xda, 0xbe])])),
        ("vhdx", "x", head(&[(0, b"vhdxfile")])),
        ("vpc", "x", head(&[(0, b"conectix")])),
        ("qed", "x", head(&[(0, b"QED\0")])),
        ("parallels", "x", head(&[(0, b"WithouFreSpacExt\x02\0\0\0")])),
        ("luks", "x", head(&[(0, b"LUKS\xba\xbe\0\x01")])),
        ("dmg", "x.dmg", head(&[])),
        ("bochs", "x", head(&[(0, b"Bochs Virtual HD Image"), (32, b"Redolog"), (48, b"Growing"), (66, &[2])])),
    ];
    for (name, filename, bytes) in cases {
        let error = probe(bytes, filename).unwrap_err().to_string();
        assert_eq!(error, format!("Images in {name} format are not supported yet"));
        let mut short = bytes.clone();
        while short.pop().is_some() {
            let _ = probe(&short, filename);
        }
    }
}

#[test]
fn drivers_by_name() {
    assert!(matches!(Driver::find("qcow2"), Ok(Driver::Format(format)) if format.name == "qcow2"));
    assert!(matches!(Driver::find("file"), Ok(Driver::Protocol("file"))));
    let message = |name| Driver::find(name).unwrap_err().to_string();
    assert_eq!(message("foo"), "Unknown driver 'foo'");
    assert_eq!(message("vmdk"), "Images in vmdk format are not supported yet");
    assert_eq!(message("nbd"), "The block driver 'nbd' is not supported yet");
}
