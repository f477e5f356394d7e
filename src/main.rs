//! The `qemu-img` binary.

fn main() {
    let args: Vec<_> = std::env::args_os().collect();
    std::process::exit(qemu_img::cli::main(&args));
}
