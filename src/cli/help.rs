//! `--help` and `--version`: what they say, and that it stays true to the table of commands.

use clap::{Arg, ArgAction};

use super::args::PROGRAM;
use crate::cmd::{COMMANDS, Command};
use crate::format::FORMATS;

/// The version of the reference that this program stands in for; programs read it out of `--version`.
const REFERENCE_VERSION: &str = "10.0.2";

/// The options of a command, ready for clap.
pub(super) fn define(command: &Command) -> clap::Command {
    let help = Arg::new("help").short('h').long("help").action(ArgAction::Help).help("Print this help and exit");
    let definition = clap::Command::new(command.name)
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .about(command.summary)
        .arg(help);
    (command.define)(definition)
}

/// The help of one command.
pub fn command(command: &Command) -> String {
    let synopsis = format!("  {}", command.synopsis.replace('\n', "\n  "));
    let template = format!("{}\n\nUsage:\n{synopsis}\n\n{{all-args}}{{after-help}}", command.summary);
    let mut text = define(command).help_template(template).render_help().to_string();
    while text.ends_with('\n') {
        text.pop();
    }
    text + "\n"
}

/// The help of the program.
pub fn program() -> String {
    let mut text = version();
    text += "\nInspects, converts and snapshots disk images.\n\nUsage:\n";
    text +=
        &format!("  {PROGRAM} [-h | --help] [-V | --version] [-T | --trace SPEC] COMMAND [OPTION...] [OPERAND...]\n");
    text += "\nCommands ('qemu-img COMMAND --help' explains one):\n";
    for command in COMMANDS {
        text += &format!("  {:<10} {}\n", command.name, command.summary);
    }
    text += "\nHow they are called:\n";
    for command in COMMANDS {
        text += &format!("  {}\n", command.synopsis.replace('\n', "\n  "));
    }
    let formats: Vec<_> = FORMATS.iter().map(|format| format.name).collect();
    text += &format!("\nSupported formats: {}\n", formats.join(" "));
    text
}

/// What `--version` prints. The first line starts like the reference's.
pub fn version() -> String {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    format!("{PROGRAM} version {REFERENCE_VERSION} ({name} {version})\n")
}
