use super::*;
use crate::cmd;

fn parse_words(command: &str, words: &[&str]) -> Result<Parsed, Mistake> {
    let args: Vec<OsString> = words.iter().map(OsString::from).collect();
    parse_in_order(cmd::find(command).unwrap(), &args, Order::Permute)
}

fn run_of(command: &str, words: &[&str]) -> Args {
    match parse_words(command, words) {
        Ok(Parsed::Run(args)) => args,
        other => panic!("{words:?}: {other:?}"),
    }
}

#[test]
fn the_definitions_are_sound() {
    for command in cmd::COMMANDS {
        help::define(command).debug_assert();
    }
}

#[test]
fn the_last_value_wins_and_all_are_kept() {
    let args = run_of("convert", &["-t", "none", "-o", "a=b", "-t", "unsafe", "x", "-o", "c", "y"]);
    assert_eq!(args.text("output-cache"), Some("unsafe"));
    assert_eq!(args.texts("options"), ["a=b", "c"]);
    assert_eq!(args.operands(), ["x", "y"]);
    assert!(!args.given("progress") && !args.flag("progress-short"));
    assert_eq!(args.text("rate"), None);
}

#[test]
fn values_may_be_anything() {
    let args = run_of("convert", &["-B", "", "-F=x", "-O", "--", "-f", "-n", "--", "-x", "--help"]);
    assert_eq!(args.text("backing"), Some(""));
    assert_eq!(args.text("backing-format"), Some("=x"));
    assert_eq!(args.text("output-format"), Some("--"));
    assert_eq!(args.text("format"), Some("-n"));
    assert_eq!(args.operands(), ["-x", "--help"]);
    assert!(!args.flag("no-create"));
}

#[test]
fn flags_are_counted() {
    let args = run_of("snapshot", &["-l", "--list", "--l", "x"]);
    assert_eq!(args.count("list"), 3);
}

#[test]
fn help_counts_if_it_comes_before_the_mistake() {
    assert!(matches!(parse_words("info", &["-h", "--bogus"]), Ok(Parsed::Help(_))));
    assert!(matches!(parse_words("info", &["-hx"]), Ok(Parsed::Help(_))));
    assert!(parse_words("info", &["--bogus", "-h"]).is_err());
}

#[test]
fn mistakes_name_the_command() {
    let Mistake { program, error, code } = parse_words("info", &["-x"]).unwrap_err();
    assert_eq!(code, 1);
    assert_eq!(program, "qemu-img info");
    assert_eq!(error.to_string(), "invalid option -- 'x'");
    assert_eq!(error.hints(), ["Try 'qemu-img info --help' for more info"]);
}
