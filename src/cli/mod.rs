//! The conventions of the command line: arguments, sizes, option strings, output and progress.
//!
//! From the outside in: [`main`] finds the command; [`args::parse`] turns words into [`args::Args`] by the rules of
//! `getopt_long` ([`getopt`]) and the command's own definitions; the command's `run` does the work and returns its exit
//! code or an error; [`main`] prints that error and gives the exit code to the shell.
//!
//! A command file has three layers, each knowing only the next:
//!
//! ```text
//! define(clap::Command)   which options there are, what they take, what the help says
//! run(&Args)              options by ID -> a struct of validated options; mistakes get the reference's messages
//! engine(options)         does it, in the library's terms; prints results with output::print
//! ```

pub mod args;
pub mod common;
pub mod create_options;
pub mod getopt;
pub mod help;
pub mod image_opts;
pub mod keyval;
pub mod object;
pub mod optlist;
pub mod output;
pub mod progress;
pub mod rows;

mod program;
mod snapshot_table;
mod trace;

pub use program::main;
pub use snapshot_table::{details_table, snapshot_table};
