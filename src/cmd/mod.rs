//! The commands, one file each. They know wording and exit codes; everything below them neither prints nor exits.

/// One subcommand.
#[derive(Debug)]
pub struct Command {
    /// The name on the command line.
    pub name: &'static str,
    /// One line for `--help`.
    pub summary: &'static str,
    /// The classic synopsis lines, which clients probe for.
    pub synopsis: &'static str,
    /// Runs it with the arguments behind its name and returns the exit code.
    pub run: fn(args: &[std::ffi::OsString]) -> i32,
}

/// All commands, in the order `--help` lists them.
pub static COMMANDS: &[Command] = &[];
