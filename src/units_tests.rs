use super::*;

#[test]
fn human_sizes() {
    for (bytes, text) in [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1023, "0.999 KiB"),
        (1024, "1 KiB"),
        (1152, "1.12 KiB"),
        (1536, "1.5 KiB"),
        (10239, "10 KiB"),
        (10292, "10.1 KiB"),
        (102_400, "100 KiB"),
        (1_023_487, "999 KiB"),
        (1_023_488, "1e+03 KiB"),
        (1_024_000, "0.977 MiB"),
        (12_345_678_901, "11.5 GiB"),
        (u64::MAX, "16 EiB"),
    ] {
        assert_eq!(human_size(bytes), text, "{bytes}");
    }
}
