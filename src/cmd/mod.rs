//! The commands, one file each. They know wording and exit codes; everything below them neither prints nor exits.
//!
//! A command is a [`Command`] in its own file and one line in [`COMMANDS`]. How such a file is built up: see
//! [`crate::cli`].

mod amend;
mod bench;
mod bitmap;
mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod dd;
mod digest;
mod full;
mod info;
mod map;
mod measure;
mod overlap;
mod rebase;
mod resize;
mod snapshot;
mod source_snapshot;
mod watch;

use crate::cli::args::Args;
use crate::error::Result;

#[doc(hidden)]
pub use info::human::text as info_text;

/// One subcommand.
#[derive(Debug)]
pub struct Command {
    /// The name on the command line.
    pub name: &'static str,
    /// One line for `--help`.
    pub summary: &'static str,
    /// The classic synopsis lines, which clients probe for: the name, its options in brackets, the operands.
    pub synopsis: &'static str,
    /// The exit code after an error; wrong use of the command line is always 1.
    pub failure: i32,
    /// Adds the options. `-h, --help` is there already.
    pub define: fn(clap::Command) -> clap::Command,
    /// Runs it and returns the exit code. An error is printed by the caller, which then exits with 1.
    pub run: fn(&Args) -> Result<i32>,
}

/// All commands, in the order `--help` lists them.
pub static COMMANDS: &[&Command] = &[
    &amend::COMMAND,
    &bench::COMMAND,
    &bitmap::COMMAND,
    &check::COMMAND,
    &commit::COMMAND,
    &compare::COMMAND,
    &convert::COMMAND,
    &create::COMMAND,
    &dd::COMMAND,
    &digest::COMMAND,
    &info::COMMAND,
    &map::COMMAND,
    &measure::COMMAND,
    &rebase::COMMAND,
    &resize::COMMAND,
    &snapshot::COMMAND,
];

/// The command of that name.
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().copied().find(|command| command.name == name)
}
