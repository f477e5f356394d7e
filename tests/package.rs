//! The Debian package: its scripts give the name `qemu-img` to this program and back. The package here is put together by
//! hand, around the program under test; `scripts/release --deb` makes the real one.
//!
//! Needs root and overlay file systems. Where there are none these tests fail, and `scripts/test` reports them as not run.

mod common;

use std::fs;
use std::path::Path;

use common::Sandbox;
use common::run::{Tool, program_in};

const CONTROL: &str = "Package: qemu-img-rs\nVersion: 0\nArchitecture: all\nMaintainer: nobody\nDescription: a test\n";

#[test]
fn the_package_is_installed_switched_and_removed() {
    let (sandbox, sources) = (Sandbox::new(), Path::new(env!("CARGO_MANIFEST_DIR")));
    let package = sandbox.file("package");
    for folder in ["DEBIAN", "usr/bin"] {
        fs::create_dir_all(package.join(folder)).expect("a folder");
    }
    fs::write(package.join("DEBIAN/control"), CONTROL).expect("control file");
    for file in fs::read_dir(sources.join("packaging/debian")).expect("packaging/debian") {
        let file = file.expect("a file").path();
        fs::copy(&file, package.join("DEBIAN").join(file.file_name().expect("its name"))).expect("a copy");
    }
    fs::copy(Tool::Ours.path(), package.join("usr/bin/qemu-img-rs")).expect("the program");
    program_in(sandbox.path(), "dpkg-deb", &["-Znone", "--build", "package", "ours.deb"]).expect_ok("dpkg-deb");
    let script = sources.join("scripts/check-package");
    program_in(sandbox.path(), script.to_str().expect("its name"), &["ours.deb"]).expect_ok("check-package");
}

/// What the package takes along exists, and so do the scripts it names.
#[test]
fn the_metadata_names_what_there_is() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(sources.join("Cargo.toml")).expect("Cargo.toml");
    let assets = manifest.split_once("assets = [").expect("assets").1;
    let assets = assets.split_once("\n]").expect("their end").0;
    let names: Vec<&str> =
        assets.lines().filter_map(|line| line.trim().strip_prefix("[\"")?.split('"').next()).collect();
    assert!(names.contains(&"target/release/qemu-img") && names.len() > 5, "{names:?}");
    for name in names.into_iter().filter(|name| !name.starts_with("target/")) {
        assert!(sources.join(name).exists(), "{name}");
    }
}
