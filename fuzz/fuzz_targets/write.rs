#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qemu_img_rs_fuzz::write(data));
