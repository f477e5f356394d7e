use super::NumberError::{Invalid, Range};
use super::*;

/// Every line was read from the reference (`create` prints the size it understood); what it takes is limited to
/// [`MAX_SIZE`] there.
#[test]
fn sizes_are_read_as_the_reference_reads_them() {
    let cases: &[(&str, Result<u64, NumberError>)] = &[
        ("0", Ok(0)),
        ("1", Ok(1)),
        ("00", Ok(0)),
        ("010", Ok(10)),
        (" 1", Ok(1)),
        ("\t1", Ok(1)),
        ("+1", Ok(1)),
        ("1.", Ok(1)),
        ("1.0", Ok(1)),
        ("0.0", Ok(0)),
        ("1b", Ok(1)),
        ("1B", Ok(1)),
        ("1k", Ok(1024)),
        ("1K", Ok(1024)),
        ("1.G", Ok(1073741824)),
        ("1m", Ok(1048576)),
        ("1g", Ok(1073741824)),
        ("1T", Ok(1099511627776)),
        ("1p", Ok(1125899906842624)),
        ("1E", Ok(1152921504606846976)),
        ("7E", Ok(8070450532247928832)),
        ("1.5G", Ok(1610612736)),
        (".5G", Ok(536870912)),
        ("0.5k", Ok(512)),
        ("4096.75k", Ok(4195072)),
        ("1.5E", Ok(1729382256910270464)),
        ("0.1E", Ok(115292150460684704)),
        ("0.1P", Ok(112589990684262)),
        ("0.7T", Ok(769658139443)),
        ("0.123456789E", Ok(142335986927810032)),
        ("1.999999G", Ok(2147482574)),
        ("1.0000000001G", Ok(1073741824)),
        ("0.3333333333333333G", Ok(357913941)),
        ("1.9999999999999999999999k", Ok(2048)),
        ("0.99999999999999999999E", Ok(1152921504606846976)),
        ("7.9999999999999999E", Ok(9223372036854775680)),
        ("3.14159265358979323846264338327950288T", Ok(3454217652358)),
        ("0.0001k", Ok(0)),
        ("0.0005k", Ok(1)),
        ("0.00048828125k", Ok(1)),
        ("0.00146484375k", Ok(2)),
        (".0k", Ok(0)),
        ("1.b", Ok(1)),
        ("1.0b", Ok(1)),
        ("0x10", Ok(16)),
        ("0X1F", Ok(31)),
        (" 0x10", Ok(16)),
        ("+0x1", Ok(1)),
        ("0x10b", Ok(267)),
        ("0x7fffffffffffffff", Ok(9223372036854775807)),
        ("9223372036854775807", Ok(9223372036854775807)),
        ("", Err(Invalid)),
        (" ", Err(Invalid)),
        ("+", Err(Invalid)),
        ("-", Err(Invalid)),
        ("x", Err(Invalid)),
        (".", Err(Invalid)),
        (".k", Err(Invalid)),
        ("1 ", Err(Invalid)),
        ("1.5", Err(Invalid)),
        ("0.1", Err(Invalid)),
        ("1.5b", Err(Invalid)),
        ("0.4b", Err(Invalid)),
        ("1kk", Err(Invalid)),
        ("1kB", Err(Invalid)),
        ("1KiB", Err(Invalid)),
        ("1,5G", Err(Invalid)),
        ("1s", Err(Invalid)),
        ("1k ", Err(Invalid)),
        ("1e3", Err(Invalid)),
        ("1.5e3k", Err(Invalid)),
        ("nan", Err(Invalid)),
        ("inf", Err(Invalid)),
        ("1.5.5", Err(Invalid)),
        ("1..5", Err(Invalid)),
        ("1.+5", Err(Invalid)),
        ("++1", Err(Invalid)),
        ("+-1", Err(Invalid)),
        ("--1", Err(Invalid)),
        ("- 1", Err(Invalid)),
        ("-1k", Err(Invalid)),
        ("-1.5", Err(Invalid)),
        ("-0.0", Err(Invalid)),
        ("-0k", Err(Invalid)),
        ("-x", Err(Invalid)),
        ("0x", Err(Invalid)),
        ("0xg", Err(Invalid)),
        ("0x10k", Err(Invalid)),
        ("0x1.8", Err(Invalid)),
        ("0x1p3", Err(Invalid)),
        ("0x-1", Err(Invalid)),
        ("-0x1", Err(Invalid)),
        ("00x10", Err(Invalid)),
        ("0b1", Err(Invalid)),
        ("1_000", Err(Invalid)),
        ("99999999999999999999k", Err(Invalid)),
        ("16Ex", Err(Invalid)),
        ("-1", Err(Range)),
        ("-0", Err(Range)),
        ("-.5", Err(Range)),
        ("-.5k", Err(Invalid)),
        ("-.", Err(Invalid)),
        ("-1.", Err(Invalid)),
        ("-.5x", Err(Invalid)),
        ("8E", Err(Range)),
        ("16E", Err(Range)),
        ("15.999E", Err(Range)),
        ("7.99999999999999999E", Err(Range)),
        ("9223372036854775808", Err(Range)),
        ("18446744073709551615", Err(Range)),
        ("18446744073709551616", Err(Range)),
        ("99999999999999999999", Err(Range)),
        ("99999999999999999999.", Err(Invalid)),
        ("99999999999999999999.5", Err(Invalid)),
        ("0xffffffffffffffff", Err(Range)),
        ("0x10000000000000000", Err(Range)),
        ("0x10000000000000000k", Err(Invalid)),
        ("17179869184G", Err(Range)),
        ("99999999999G", Err(Range)),
    ];
    for (text, expected) in cases {
        let size = parse_size(text).and_then(|size| if size > MAX_SIZE { Err(Range) } else { Ok(size) });
        assert_eq!(size, *expected, "{text:?}");
    }
}

#[test]
fn numbers_are_read_like_strtoull() {
    let cases: &[(&str, Result<u64, NumberError>)] = &[
        ("16", Ok(16)),
        (" +3", Ok(3)),
        ("020", Ok(16)),
        ("0", Ok(0)),
        ("0x10", Ok(16)),
        ("-1", Ok(u64::MAX)),
        ("", Err(Invalid)),
        ("x", Err(Invalid)),
        ("09", Err(Invalid)),
        ("0x", Err(Invalid)),
        ("0x1g", Err(Invalid)),
        ("1k", Err(Invalid)),
        ("3 ", Err(Invalid)),
        ("1e0", Err(Invalid)),
        ("+", Err(Invalid)),
        ("99999999999999999999", Err(Range)),
    ];
    for (text, expected) in cases {
        assert_eq!(parse_number(text), *expected, "{text:?}");
    }
}

#[test]
fn arguments_out_of_range_get_the_references_messages() {
    let error = |result: Result<u64>| result.unwrap_err().to_string();
    assert_eq!(error(size_argument("rate limit", "0.5")), "Invalid rate limit specified: '0.5'.");
    let range = "Invalid image size specified. Must be between 0 and 9223372036854775807.";
    assert_eq!(error(size_argument("image size", "8E")), range);
    let range = "Invalid number of coroutines specified. Must be between 1 and 16.";
    assert_eq!(error(number_argument("number of coroutines", "-0", 1, 16)), range);
    assert_eq!(number_argument("number of coroutines", "020", 1, 16).unwrap(), 16);
}
