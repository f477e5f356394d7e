//! `--help` and `--version`: what they say, and that it stays true to the table of commands.

use clap::{Arg, ArgAction};

use super::args::PROGRAM;
use super::common;
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
    (command.define)(definition).arg(common::untrusted()).arg(common::lock_timeout())
}

/// The whole program as one definition, for what is made out of it: shell completions and manual pages.
pub fn definition() -> clap::Command {
    let commands = COMMANDS.iter().map(|command| {
        define(command)
            .mut_args(for_display)
            .no_binary_name(false)
            .override_usage(format!("{PROGRAM} {}", command.synopsis))
    });
    clap::Command::new(PROGRAM)
        .version(env!("CARGO_PKG_VERSION"))
        .about("Inspects, converts and snapshots disk images of virtual machines")
        .override_usage(format!("{PROGRAM} [standard options] COMMAND [options] [operands]"))
        .after_help(CONVENTIONS.trim())
        .disable_help_subcommand(true)
        .subcommands(commands)
}

/// The help of one command.
pub fn command(command: &Command) -> String {
    let template =
        format!("{}.\n\nUsage:\n{}\n\n{{all-args}}{{after-help}}", command.summary, wrapped(command.synopsis));
    let text = define(command).mut_args(for_display).help_template(template).render_help().to_string();
    format!("{}\n", text.trim_end())
}

/// How an argument shall look, which is simpler than what it is: that flags may be repeated and operands are counted by
/// the command is nothing to tell.
fn for_display(arg: Arg) -> Arg {
    if matches!(arg.get_action(), ArgAction::Count) {
        return arg.action(ArgAction::SetTrue);
    }
    match arg.get_value_names().map(<[_]>::len) {
        Some(names) if arg.is_positional() => arg.action(ArgAction::Set).num_args(names).required(true),
        _ => arg,
    }
}

/// Breaks a synopsis into lines that a terminal takes, without tearing brackets apart.
fn wrapped(synopsis: &str) -> String {
    const WIDTH: usize = 100;
    let (mut text, mut column, mut depth) = (format!("  {PROGRAM} "), 0, 0_i32);
    for word in synopsis.split_inclusive(' ') {
        if depth == 0 && column + word.len() > WIDTH {
            text.truncate(text.trim_end().len());
            text += "\n        ";
            column = 0;
        }
        text += word;
        column += word.len();
        depth += word.chars().map(|c| i32::from(c == '[') - i32::from(c == ']')).sum::<i32>();
    }
    text
}

/// The help of the program.
pub fn program() -> String {
    let mut text = version();
    text += "\nInspects, converts and snapshots disk images of virtual machines. Made to take the place of QEMU's \
             qemu-img:\nthe commands below take its options and give its output and exit codes.\n";
    text += &format!("\nUsage:\n  {PROGRAM} [standard options] COMMAND [options] [operands]\n");
    text += STANDARD_OPTIONS;
    text += &format!("\nCommands ('{PROGRAM} COMMAND --help' explains one):\n");
    for command in COMMANDS {
        text += &format!("  {:<10} {}\n", command.name, command.summary);
    }
    text += "\nCommand syntax:\n";
    for command in COMMANDS {
        text += &format!("  {}\n", command.synopsis.replace('\n', "\n  "));
    }
    text += CONVENTIONS;
    let mut formats: Vec<_> = FORMATS.iter().map(|format| format.name).collect();
    formats.sort_unstable();
    let formats = formats.join(" ");
    // Scripts look for the line that the reference had up to version 9, or for what it has had from 10 on.
    text += &format!("\nSupported formats: {formats}\n\nSupported image formats:\n\n  {formats}\n");
    text
}

const STANDARD_OPTIONS: &str = "
Standard options:
  -h, --help         Print this help and exit
  -V, --version      Print the version and exit
  -T, --trace TRACE  Taken for compatibility: [[enable=]PATTERN][,events=FILE][,file=FILE].
                     This program has no trace events, and says so for every name
";

const CONVENTIONS: &str = "
Options may stand before, between and behind operands; '--' ends them. Long options may be shortened as long as they
stay unambiguous. Sizes are bytes, or end in k, M, G, T, P or E for powers of 1024 ('1.5G'). 'fmt' is one of the
formats below; an image whose format is not given is probed, which is not safe where somebody else could write the
beginning of a raw disk. 'cache' is one of none, writeback (default of sources), writethrough, directsync and unsafe
(default of targets). 'objectdef' defines a secret: 'secret,id=ID,file=FILE' or 'secret,id=ID,data=TEXT'. With
'--image-opts', a name is a list of options instead: 'driver=qcow2,file.filename=FILE,encrypt.key-secret=ID'.

The exit code is 0 after success and 1 after any error, unless the command's help says otherwise.
";

/// What `--version` prints. The first line starts like the reference's.
pub fn version() -> String {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    format!("{PROGRAM} version {REFERENCE_VERSION} ({name} {version})\n")
}

#[cfg(test)]
#[path = "help_tests.rs"]
mod tests;
