use super::*;
use crate::cli::args::{Parsed, parse};

fn read(words: &[&str]) -> Result<Operation> {
    let words: Vec<_> = words.iter().map(Into::into).collect();
    match parse(&COMMAND, &words) {
        Ok(Parsed::Run(args)) => operation(&args),
        Ok(Parsed::Help(_)) => panic!("no help was asked for"),
        Err(mistake) => Err(mistake.error),
    }
}

#[test]
fn one_operation_at_most() {
    for (words, wanted) in [
        (&["f"][..], Operation::List),
        (&["-l", "f"], Operation::List),
        (&["-q", "f"], Operation::List),
        (&["-c", "x", "f"], Operation::Create("x".into())),
        (&["f", "--create=x"], Operation::Create("x".into())),
        (&["--apply", "x", "f"], Operation::Apply("x".into())),
        (&["-dx", "f"], Operation::Delete("x".into())),
        (&["-d", "", "f"], Operation::Delete(String::new())),
    ] {
        assert_eq!(read(words).expect("one operation"), wanted, "{words:?}");
    }
    for words in [&["-l", "-l"][..], &["-c", "x", "-c", "y"], &["-c", "x", "-l"], &["-a", "x", "-d", "y"]] {
        let error = read(words).expect_err("too many operations");
        assert_eq!(error.to_string(), "Cannot mix '-l', '-a', '-c', '-d'", "{words:?}");
        assert_eq!(error.hints(), ["Try 'qemu-img snapshot --help' for more info"]);
    }
}

#[test]
fn formats_without_snapshots() {
    let x = || "x".to_owned();
    perform(&Operation::List, None).expect("an empty list");
    for (operation, text) in [
        (Operation::Create(x()), "Could not create snapshot 'x': Operation not supported"),
        (Operation::Apply(x()), "Could not apply snapshot 'x': Block driver does not support snapshots"),
        (Operation::Delete(x()), "Could not delete snapshot 'x': snapshot not found"),
    ] {
        assert_eq!(perform(&operation, None).expect_err("no snapshots").to_string(), text);
    }
}
