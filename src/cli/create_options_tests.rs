use super::*;
use crate::format::protocol::FILE_OPTIONS;
use crate::format::raw;

const FORMAT: &[OptionDesc] = &[
    OptionDesc::new("size", OptionType::Size, "Virtual disk size"),
    OptionDesc::new("compat", OptionType::Str, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    OptionDesc::new("backing_file", OptionType::Str, "File name of a base image"),
    OptionDesc::new("cluster_size", OptionType::Size, "qcow2 cluster size"),
    OptionDesc::new("lazy_refcounts", OptionType::Bool, "Postpone refcount updates"),
    OptionDesc::new(
        "preallocation",
        OptionType::Str,
        "Preallocation mode (allowed values: off, metadata, falloc, full)",
    ),
    OptionDesc::new("refcount_bits", OptionType::Num, "Width of a reference count entry in bits"),
    OptionDesc::new("plain", OptionType::Str, ""),
];

fn parse(list: &str) -> Result<String> {
    let options = parse_create_options(list, &[FORMAT, FILE_OPTIONS])?;
    Ok(options.0.iter().map(|(name, value)| format!("{name}={value};")).collect())
}

#[test]
fn lists_are_read_as_the_reference_reads_them() {
    let cases: &[(&str, &str)] = &[
        ("", ""),
        ("lazy_refcounts", "lazy_refcounts=on;"),
        ("nolazy_refcounts", "lazy_refcounts=off;"),
        ("lazy_refcounts=yes,nocow=n", "lazy_refcounts=on;nocow=off;"),
        ("nonocow", "nocow=off;"),
        ("compat", "compat=on;"),
        ("nocompat", "compat=off;"),
        ("compat=", "compat=;"),
        ("compat=a=b", "compat=a=b;"),
        ("compat=help", "compat=help;"),
        ("cluster_size=1.5k", "cluster_size=1536;"),
        ("cluster_size=8E", "cluster_size=9223372036854775808;"),
        ("refcount_bits=020", "refcount_bits=16;"),
        ("refcount_bits= 16", "refcount_bits=16;"),
        ("refcount_bits=-1", "refcount_bits=-1;"),
        ("backing_file=a,,b,compat=1.1", "backing_file=a,b;compat=1.1;"),
        ("compat=1.1,,,lazy_refcounts", "compat=1.1,;lazy_refcounts=on;"),
        ("compat=x,,?", "compat=x,?;"),
        ("compat=1.1,compat=0.10", "compat=0.10;"),
        ("id=1a,compat=1.1,id,noid", "compat=1.1;"),
        ("backing_file=,", "backing_file=;"),
    ];
    for (list, expected) in cases {
        assert_eq!(parse(list).unwrap(), *expected, "{list}");
    }
}

#[test]
fn mistakes_get_the_references_messages() {
    let number = "expects a non-negative number below 2^64";
    let cases: &[(&str, &str)] = &[
        ("bogus", "Invalid parameter 'bogus'"),
        ("nobogus", "Invalid parameter 'bogus'"),
        ("nocow", "Invalid parameter 'cow'"),
        ("nohelp", "Invalid parameter 'help'"),
        ("help=1", "Invalid parameter 'help'"),
        ("no", "Invalid parameter ''"),
        ("=x", "Invalid parameter ''"),
        ("compat,,", "Invalid parameter ''"),
        ("nolazy_refcounts=on", "Invalid parameter 'nolazy_refcounts'"),
        ("bogus,cluster_size=x", "Invalid parameter 'bogus'"),
        (" compat=1", "Invalid parameter ' compat'"),
        ("lazy_refcounts=ON", "Parameter 'lazy_refcounts' expects 'on' or 'off'"),
        ("lazy_refcounts=", "Parameter 'lazy_refcounts' expects 'on' or 'off'"),
        ("cluster_size", &format!("Parameter 'cluster_size' {number}")),
        ("cluster_size=x,bogus", &format!("Parameter 'cluster_size' {number}")),
        ("cluster_size=64k,,compat=1.1", &format!("Parameter 'cluster_size' {number}")),
        ("cluster_size=-1", "Value '-1' is out of range for parameter 'cluster_size'"),
        ("cluster_size=99E", "Value '99E' is out of range for parameter 'cluster_size'"),
        ("refcount_bits=16k", "Parameter 'refcount_bits' expects a number"),
        ("refcount_bits", "Parameter 'refcount_bits' expects a number"),
        (
            "refcount_bits=99999999999999999999",
            "Value '99999999999999999999' is too large for parameter 'refcount_bits'",
        ),
    ];
    for (list, expected) in cases {
        assert_eq!(parse(list).unwrap_err().to_string(), *expected, "{list}");
    }
    assert_eq!(parse("size=x").unwrap_err().hints()[0].lines().count(), 2);
}

#[test]
fn lists_that_cannot_be_joined_are_refused() {
    for list in ["", ",", ",,", "=,", ",a=b", "a=b,", "help,", "a=b,,,"] {
        let error = option_list(list).unwrap_err().to_string();
        assert_eq!(error, format!("Invalid option list: {list}"));
    }
    for list in ["a", "a=b,,", "help,,", "a,,b"] {
        assert_eq!(option_list(list).unwrap(), list);
    }
}

#[test]
fn help_is_a_bare_word() {
    for list in ["help", "?", "a=b,help", "bogus,?", "compat,,help", "help,,"] {
        assert!(asks_for_help(list), "{list}");
    }
    for list in ["help=1", "a=help", "nohelp", "a=b,,help", "?=1", "no?"] {
        assert!(!asks_for_help(list), "{list}");
    }
}

#[test]
fn help_lists_the_options_by_name() {
    let format = Format { create_options: FORMAT, ..raw::DESCRIPTOR };
    let expected = "\
Supported options:
  backing_file=<str>     - File name of a base image
  cluster_size=<size>    - qcow2 cluster size
  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])
  extent_size_hint=<size> - Extent size hint for the image file, 0 to disable
  lazy_refcounts=<bool (on/off)> - Postpone refcount updates
  nocow=<bool (on/off)>  - Turn off copy-on-write (valid only on btrfs)
  plain=<str>
  preallocation=<str>    - Preallocation mode (allowed values: off, metadata, falloc, full)
  refcount_bits=<num>    - Width of a reference count entry in bits
  size=<size>            - Virtual disk size
";
    assert_eq!(option_help(&format, Some("disk")), expected);
    let expected = "\
Supported raw options:
  size=<size>            - Virtual disk size

The protocol level may support further options.
Specify the target filename to include those options.
";
    assert_eq!(option_help(&raw::FORMAT, None), expected);
}

#[test]
fn the_summary_shows_what_counts_in_the_order_of_the_format() {
    let known: &[&[OptionDesc]] = &[&[FORMAT[1], FORMAT[3].or("65536"), FORMAT[5], FORMAT[0]], FILE_OPTIONS];
    let mut options = CreateOptions::default();
    options.set("size", "512");
    assert_eq!(summary(known, &options), " cluster_size=65536 size=512");
    options.set("preallocation", "a,b");
    options.set("nocow", "on");
    options.set("cluster_size", "4096");
    assert_eq!(summary(known, &options), " cluster_size=4096 preallocation=a,,b size=512 nocow=on");
}
