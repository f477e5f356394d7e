use super::*;
use crate::cmd;

/// What clients look for in the help and the version.
#[test]
fn clients_find_what_they_probe_for() {
    let help = program();
    // libguestfs: /\binfo\b.*-U\b/
    assert!(help.lines().any(|line| line.starts_with("  info ") && line.contains("-U]")));
    // CloudStack
    assert!(help.contains("--target-is-zero"));
    // cinder: /qemu-img version ([0-9.]*)/; also at the head of the help, as in the reference.
    for text in [help.as_str(), &version()] {
        assert!(text.starts_with("qemu-img version 10.0.2 (qemu-img-rs "), "{text}");
    }
    // Programs that list formats take the words behind the colon.
    let formats = help.lines().find_map(|line| line.strip_prefix("Supported formats: ")).unwrap();
    assert!(formats.split(' ').any(|name| name == "qcow2") && formats.split(' ').any(|name| name == "raw"));
    // As the reference has had it from version 10 on: below a heading, the last of all.
    assert_eq!(help.split_once("\nSupported image formats:\n\n").unwrap().1, format!("  {formats}\n"));
}

#[test]
fn every_command_and_option_is_explained() {
    for command in cmd::COMMANDS {
        assert!(program().contains(&format!("\n  {} ", command.name)), "{}", command.name);
        let text = super::command(command);
        for arg in define(command).get_arguments().filter(|arg| !arg.is_positional()) {
            assert!(arg.get_help().is_some_and(|help| !help.to_string().is_empty()), "{}", arg.get_id());
            let name =
                arg.get_long().map_or_else(|| format!("-{}", arg.get_short().unwrap()), |long| format!("--{long}"));
            assert!(text.contains(&name), "{name}");
        }
        // Flags may be repeated, but that is nothing to tell.
        assert!(!text.contains(".\n.\n") && text.ends_with('\n') && !text.ends_with("\n\n"));
    }
}

#[test]
fn synopses_break_between_brackets() {
    let long = format!("x {}filename", "[-o value] ".repeat(20));
    let text = wrapped(&long);
    assert!(text.lines().count() > 1);
    for line in text.lines() {
        assert!(line.len() <= 125 && line.matches('[').count() == line.matches(']').count(), "{line}");
    }
}
