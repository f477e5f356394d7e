//! Images that a killed reference leaves dirty.

use crate::format::qcow2::testing::{available, expect, tool};
use crate::image::{ImageSpec, OpenContext, OpenFlags, Payload, Place, open_layer};

#[test]
fn a_dirty_image_is_counted_anew_before_it_is_written() {
    if !available() {
        return;
    }
    for options in ["cluster_size=64k", "cluster_size=512", "cluster_size=4k,refcount_bits=64", "extended_l2=on"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2").to_str().unwrap().to_owned();
        let options = format!("lazy_refcounts=on,{options}");
        expect(dir.path(), "qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, &path, "8M"]);
        expect(dir.path(), "qemu-io", &["-c", "write -P 1 0 3M", &path]);
        expect(dir.path(), "qemu-img", &["snapshot", "-c", "s", &path]);
        expect(dir.path(), "qemu-img", &["bitmap", "--add", &path, "b"]);
        tool(dir.path(), "qemu-io", &["-c", "write -P 2 1M 4M", "-c", "flush", "-c", "sigraise 9", &path]);
        let info = expect(dir.path(), "qemu-img", &["info", "--output=json", &path]);
        assert!(info.contains("\"dirty-flag\": true"), "{info}");

        let mut layer = None;
        for _ in 0..50 {
            let spec = ImageSpec::name(path.clone(), Some("qcow2"));
            match open_layer(&spec, OpenFlags::WRITE, &OpenContext::default()) {
                Ok(node) => layer = Some(node.layer),
                Err(error) if error.to_string().contains("lock") => continue,
                Err(error) => panic!("{error}"),
            }
            break;
        }
        let layer = layer.unwrap();
        let pending = layer.prepare(&[Place { guest: 5 << 20, len: 1 << 20, payload: Payload::Plain }]).unwrap();
        pending.write(5 << 20, &vec![3; 1 << 20]).unwrap();
        pending.commit().unwrap();
        layer.flush().unwrap();
        drop(layer);

        let info = expect(dir.path(), "qemu-img", &["info", "--output=json", &path]);
        assert!(info.contains("\"dirty-flag\": false"), "{info}");
        let text = expect(dir.path(), "qemu-img", &["check", &path]);
        assert!(text.contains("No errors"), "{options}: {text}");
        let reads = ["-c", "read -P 1 0 1M", "-c", "read -P 2 1M 4M", "-c", "read -P 3 5M 1M", "-c", "read -P 0 6M 2M"];
        let text = expect(dir.path(), "qemu-io", &[&reads[..], &[&path]].concat());
        assert!(!text.contains("failed"), "{options}: {text}");
    }
}
