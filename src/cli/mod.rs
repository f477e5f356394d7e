//! The conventions of the command line: arguments, sizes, option strings, output and progress.
