//! The Debian package: its scripts give the name `qemu-img` to this program and back. The package here is put together by
//! hand, around the program under test; `scripts/release --deb` makes the real one.
//!
//! Needs root and overlay file systems. Where there are none these tests fail, and `scripts/test` reports them as not run.

mod common;
#[path = "../scripts/licences.rs"]
#[allow(dead_code, reason = "its main is the script's")]
mod licences;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// The licence of everything that is linked in goes along, and of nothing else.
#[test]
fn every_crate_has_its_licence() {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let arguments = ["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform", &target];
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let output =
        Command::new(env!("CARGO")).args(arguments).args(["--manifest-path", manifest]).output().expect("cargo");
    let metadata = serde_json::from_slice(&output.stdout).expect("its metadata");
    let packages = licences::linked(&metadata);
    let names: Vec<_> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    for name in ["blake3", "libdeflate-sys", "qcow2-rs", "zlib-rs", "zstd-sys"] {
        assert!(names.contains(&name), "{name}");
    }
    // The program itself, what only tests and building need, procedural macros.
    for name in ["qemu-img-rs", "clap_mangen", "cc", "thiserror-impl"] {
        assert!(!names.contains(&name), "{name}");
    }
    let mut notices = licences::Notices::default();
    packages.iter().for_each(|package| notices.add_crate(package).expect("a licence"));
    let text = notices.text();
    assert!(names.iter().all(|name| text.contains(&format!("\n{name} "))), "{text}");
    for words in ["Meta Platforms", "Eric Biggers", "Trifecta Tech"] {
        assert!(text.contains(words), "{words}");
    }
    assert!(!text.contains("GNU GENERAL PUBLIC LICENSE"));
}

#[test]
fn texts_are_printed_once_and_missing_ones_are_errors() {
    let sandbox = Sandbox::new();
    let file = |name: &str, text: &str| -> PathBuf {
        fs::write(sandbox.file(name), text).expect("a file");
        sandbox.file(name)
    };
    let (one, same, other) =
        (file("one", "Do as\nyou like.\n"), file("same", "Do as you like."), file("other", "Do not."));
    let mut notices = licences::Notices::default();
    notices.add("a", "X", &[one]).expect("a");
    notices.add("b", "X", &[same, other]).expect("b");
    let text = notices.text();
    assert_eq!(
        (text.matches("you like").count(), text.matches("a, b\n").count(), text.matches("Do not.").count()),
        (1, 1, 1)
    );
    assert!(notices.add("c", "X", &[sandbox.file("missing")]).is_err());
    fs::create_dir(sandbox.file("bare")).expect("a folder");
    let package = serde_json::json!({"name": "bare", "version": "1", "manifest_path": sandbox.file("bare/Cargo.toml")});
    assert!(notices.add_crate(&package).unwrap_err().to_string().contains("comes without its licence"));
}
