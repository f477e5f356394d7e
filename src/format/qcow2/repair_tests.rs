//! Images that a killed reference leaves dirty.

use std::path::Path;
use std::process::Command;

use crate::image::{ImageSpec, OpenContext, OpenFlags, Payload, Place, open_layer};

fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    for _ in 0..50 {
        let output = Command::new(format!("/usr/bin/{program}")).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        // A process that another test is just starting still holds our descriptors, and with them our locks.
        if !text.contains("lock\n") {
            return (output.status.success(), text);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{program} {arguments:?} finds the image locked");
}

#[test]
fn a_dirty_image_is_counted_anew_before_it_is_written() {
    if !Path::new("/usr/bin/qemu-io").exists() {
        eprintln!("not run: the reference is not installed");
        return;
    }
    for options in ["cluster_size=64k", "cluster_size=512", "cluster_size=4k,refcount_bits=64", "extended_l2=on"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2").to_str().unwrap().to_owned();
        let options = format!("lazy_refcounts=on,{options}");
        assert!(run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, &path, "8M"]).0);
        assert!(run("qemu-io", &["-c", "write -P 1 0 3M", &path]).0);
        assert!(run("qemu-img", &["snapshot", "-c", "s", &path]).0);
        assert!(run("qemu-img", &["bitmap", "--add", &path, "b"]).0);
        run("qemu-io", &["-c", "write -P 2 1M 4M", "-c", "flush", "-c", "sigraise 9", &path]);
        let (_, info) = run("qemu-img", &["info", "--output=json", &path]);
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

        let (_, info) = run("qemu-img", &["info", "--output=json", &path]);
        assert!(info.contains("\"dirty-flag\": false"), "{info}");
        let (clean, text) = run("qemu-img", &["check", &path]);
        assert!(clean && text.contains("No errors"), "{options}: {text}");
        let reads = ["-c", "read -P 1 0 1M", "-c", "read -P 2 1M 4M", "-c", "read -P 3 5M 1M", "-c", "read -P 0 6M 2M"];
        let (good, text) = run("qemu-io", &[&reads[..], &[&path]].concat());
        assert!(good && !text.contains("failed"), "{options}: {text}");
    }
}
