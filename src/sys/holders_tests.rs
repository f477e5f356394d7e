use std::fs::File;
use std::os::fd::AsFd;

use super::*;
use crate::sys::lock::lock_shared;

#[test]
fn reads_the_lines_of_the_kernel() {
    let line = "lock:\t1: OFDLCK  ADVISORY  READ -1 fe:00:10019137 100 101";
    let cases = [
        (line, 100, true),
        (line, 101, true),
        (line, 99, false),
        (line, 102, false),
        ("lock:\t2: POSIX  ADVISORY  WRITE 12 fe:00:1 0 EOF", 5000, true),
        ("lock:\t3: FLOCK  ADVISORY  WRITE 12 fe:00:1 0 EOF", 100, false),
        ("pos:\t100", 100, false),
        ("lock:", 100, false),
        ("lock:\t1: OFDLCK 100 x", 100, false),
    ];
    for (line, offset, expected) in cases {
        assert_eq!(covers(line, offset), expected, "{line} {offset}");
    }
}

#[test]
fn finds_this_process() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let holding = File::open(file.path()).expect("it opens");
    lock_shared(holding.as_fd(), 200).expect("nobody else has it");
    let info = holding.metadata().expect("it is open");
    let byte = |offset| LockedByte { device: info.dev(), inode: info.ino(), offset };
    if !held_by_this_process(byte(200)) {
        println!("skipped: this kernel does not tell");
        return;
    }
    let found = holders(byte(200));
    assert!(found.iter().any(Holder::is_this_process), "{found:?}");
    assert!(found.iter().all(|holder| !holder.command.is_empty()), "{found:?}");
    assert_eq!(holders(byte(201)), []);
    drop(holding);
    assert_eq!(holders(byte(200)), []);
}
