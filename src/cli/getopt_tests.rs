use std::os::unix::ffi::OsStringExt;

use super::*;
use crate::cli::help;
use crate::cmd;

fn scan_words(command: &str, words: &[&str], order: Order) -> Scan {
    let args: Vec<OsString> = words.iter().map(OsString::from).collect();
    scan(&help::define(cmd::find(command).unwrap()), &args, order)
}

#[test]
fn words_become_options_and_operands() {
    // (command, words, options, operands)
    type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    let cases: &[Case] = &[
        ("info", &["a", "-U", "--output", "json"], &["--force-share", "--output=json"], &["a"]),
        ("info", &["-fqcow2", "a"], &["--format=qcow2"], &["a"]),
        ("info", &["-f=qcow2", "a"], &["--format==qcow2"], &["a"]),
        ("info", &["-f", "--", "a"], &["--format=--"], &["a"]),
        ("info", &["-f", "-U", "a"], &["--format=-U"], &["a"]),
        ("info", &["-Uf", "raw", "a"], &["--force-share", "--format=raw"], &["a"]),
        ("info", &["a", "--", "-U"], &[], &["a", "-U"]),
        ("info", &["--out=json", "-", ""], &["--output=json"], &["-", ""]),
        ("info", &["--output=", "a"], &["--output="], &["a"]),
        ("info", &["--output=a=b", "a"], &["--output=a=b"], &["a"]),
        ("convert", &["-pcO", "qcow2", "a", "b"], &["-p", "-c", "--output-format=qcow2"], &["a", "b"]),
        ("convert", &["--source-i", "a", "b"], &["--source-image-opts"], &["a", "b"]),
        ("convert", &["--backing", "x", "a", "b"], &["--backing=x"], &["a", "b"]),
        ("convert", &["--compress", "a", "b"], &["--compress"], &["a", "b"]),
        ("convert", &["--c", "a", "b"], &["--copy-range-offloading"], &["a", "b"]),
    ];
    for (command, words, options, operands) in cases {
        let found = scan_words(command, words, Order::Permute);
        assert_eq!(found.options, *options, "{words:?}");
        assert_eq!(found.operands, *operands, "{words:?}");
        assert_eq!(found.error, None, "{words:?}");
    }
}

#[test]
fn mistakes_read_as_the_reference_puts_them() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("info", &["--bogus"], "unrecognized option '--bogus'"),
        ("info", &["--bogus=3"], "unrecognized option '--bogus=3'"),
        ("info", &["-x"], "invalid option -- 'x'"),
        ("info", &["-pU"], "invalid option -- 'p'"),
        ("info", &["-:"], "invalid option -- ':'"),
        ("info", &["-f"], "option requires an argument -- 'f'"),
        ("info", &["--out"], "option '--output' requires an argument"),
        ("info", &["--o", "json"], "option '--o' is ambiguous; possibilities: '--output' '--object'"),
        ("info", &["--f=x"], "option '--f=x' is ambiguous; possibilities: '--format' '--force-share'"),
        ("info", &["--image-opts=x"], "option '--image-opts' doesn't allow an argument"),
        ("info", &["--h="], "option '--help' doesn't allow an argument"),
        ("convert", &["-pqZ"], "invalid option -- 'Z'"),
        ("convert", &["-cO"], "option requires an argument -- 'O'"),
        ("convert", &["--target-c=none"], "unrecognized option '--target-c=none'"),
        (
            "convert",
            &["--s"],
            "option '--s' is ambiguous; possibilities: '--source-image-opts' '--source-format' '--source-cache' \
             '--snapshot' '--sparse-size' '--salvage' '--skip-broken-bitmaps'",
        ),
        (
            "convert",
            &["--="],
            "option '--=' is ambiguous; possibilities: '--help' '--quiet' '--object' '--image-opts' \
             '--source-image-opts' '--source-format' '--source-cache' '--snapshot' '--sparse-size' '--output-format' \
             '--options' '--output-cache' '--backing' '--backing-format' '--force-share' '--target-image-opts' \
             '--salvage' '--target-is-zero' '--bitmaps' '--skip-broken-bitmaps' '--rate' '--parallel' '--oob-writes' \
             '--copy-range-offloading'",
        ),
        (
            "info",
            &["--="],
            "option '--=' is ambiguous; possibilities: '--help' '--format' '--output' '--backing-chain' '--object' \
             '--image-opts' '--force-share'",
        ),
        (
            "snapshot",
            &["--="],
            "option '--=' is ambiguous; possibilities: '--help' '--quiet' '--object' '--format' '--image-opts' \
             '--force-share' '--list' '--apply' '--create' '--delete'",
        ),
    ];
    for (command, words, error) in cases {
        assert_eq!(scan_words(command, words, Order::Permute).error.as_deref(), Some(*error), "{words:?}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_kept() {
    let args = [b"-f\xff".to_vec(), b"n\xfe".to_vec(), b"-\xc3\xa9".to_vec()].map(OsString::from_vec);
    let found = scan(&help::define(cmd::find("info").unwrap()), &args, Order::Permute);
    assert_eq!(text::to_bytes(&found.options[0]), b"--format=\xff");
    assert_eq!(text::to_bytes(&found.operands[0]), b"n\xfe");
    assert_eq!(text::to_bytes(&found.error.unwrap()), b"invalid option -- '\xc3'");
}

#[test]
fn the_first_operand_may_end_the_options() {
    let found = scan_words("info", &["-U", "a", "-U"], Order::OperandsLast);
    assert_eq!((found.options.len(), found.operands.as_slice()), (1, ["a".to_owned(), "-U".to_owned()].as_slice()));
}

#[test]
fn options_of_our_own_have_no_short_forms() {
    let found = scan_words("convert", &["--verif", "a", "b"], Order::Permute);
    assert_eq!(found.error.as_deref(), Some("unrecognized option '--verif'"));
    let found = scan_words("convert", &["--verify", "a", "b"], Order::Permute);
    assert_eq!((found.options, found.error), (vec!["--verify".to_owned()], None));
}
