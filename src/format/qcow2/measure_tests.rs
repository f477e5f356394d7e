use super::*;
use crate::image::OpenContext;

/// Sizes as the reference gives them: options, virtual size, required, fully allocated.
#[expect(clippy::type_complexity, reason = "a table")]
const CASES: &[(&[(&str, &str)], u64, u64, u64)] = &[
    (&[], 1 << 30, 393_216, 1_074_135_040),
    (&[], 0, 196_608, 196_608),
    (&[], 1025, 327_680, 393_216),
    (&[("cluster_size", "512")], 1 << 30, 21_385_216, 1_095_127_040),
    (&[("refcount_bits", "64")], 1 << 30, 524_288, 1_074_266_112),
    (&[("extended_l2", "on")], 1 << 30, 524_288, 1_074_266_112),
    (&[("preallocation", "falloc")], 1 << 30, 1_074_135_040, 1_074_135_040),
    (&[("preallocation", "metadata")], 1 << 30, 393_216, 1_074_135_040),
];

fn ask(pairs: &[(&str, &str)], size: u64) -> Result<Measured> {
    let options = CreateOptions(pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect());
    measure(MeasureRequest { size, options: &options, source: None, context: &OpenContext::default() })
}

#[test]
fn sizes_of_empty_images() {
    for (pairs, size, required, fully_allocated) in CASES {
        let expected = Measured { required: *required, fully_allocated: *fully_allocated, bitmaps: None };
        assert_eq!(ask(pairs, *size).expect("sound options"), expected, "{pairs:?} {size}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    for size in [7 << 60, u64::MAX >> 1, u64::MAX] {
        assert!(ask(&[], size).is_err(), "{size}");
    }
}

#[test]
fn bitmaps_take_tables_bits_and_a_directory() {
    let bitmap = |name: &str, granularity, flags: &[&'static str]| BitmapInfo {
        name: name.to_owned(),
        granularity,
        flags: flags.to_vec(),
    };
    let geometry = Geometry { cluster_bits: 16, extended_l2: false, refcount_order: 4, external_data: false };
    let one = bitmap("a", 65536, &["auto"]);
    assert_eq!(bitmaps_len(geometry, std::slice::from_ref(&one), 1 << 30), 3 * 65536);
    assert_eq!(bitmaps_len(geometry, &[one, bitmap("b", 65536, &["in-use"])], 1 << 30), 5 * 65536);
    assert_eq!(bitmaps_len(geometry, &[], 1 << 30), 0);
}
