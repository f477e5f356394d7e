//! The `qemu-img` binary.

fn main() {}
