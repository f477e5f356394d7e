//! The conventions of the command line: arguments, sizes, option strings, output and progress.

mod snapshot_table;

pub use snapshot_table::snapshot_table;
