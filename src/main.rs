//! The `qemu-img` binary.

use qemu_img::sys::secret::Wiping;

#[global_allocator]
static MEMORY: Wiping = Wiping::new();

fn main() {
    let args: Vec<_> = std::env::args_os().collect();
    std::process::exit(qemu_img::cli::main(&args));
}
