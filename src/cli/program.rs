//! The program: standard options, the command, the exit code.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction};

use super::args::{
    Mistake, PROGRAM, Parsed, getopt_mistake, invoked, parse, parsed, set_invoked, try_help, value_error,
};
use super::getopt::{Order, scan};
use super::trace::{self, Trace};
use super::{help, output};
use crate::cmd;
use crate::error::{Error, Kind, Result};
use crate::nearest::did_you_mean;
use crate::sys::signal;
use crate::text;

/// Runs the program with its arguments, the first of which is its own name, and returns the exit code.
pub fn main(args: &[OsString]) -> i32 {
    signal::ignore_file_size_signal();
    let (name, args) = args.split_first().map_or((None, args), |(name, args)| (Some(name), args));
    if let Some(name) = name {
        set_invoked(text::from_os(name));
    }
    match run(args) {
        Ok(code) => code,
        Err(Mistake { error, .. }) if let Kind::Interrupted(signal) = *error.kind() => signal::die_of(signal),
        Err(Mistake { program, error, code }) => {
            output::report_as(&program, &error);
            code
        }
    }
}

fn run(args: &[OsString]) -> Result<i32, Mistake> {
    let plain = Mistake::plain;
    let scan = scan(&standard_options(), args, Order::OperandsLast);
    // Only the options: the operands belong to the command.
    match standard_options().try_get_matches_from(&scan.options) {
        Err(error) if error.kind() == ErrorKind::DisplayHelp => return print(&help::program()).map_err(plain),
        Err(error) if error.kind() == ErrorKind::DisplayVersion => return print(&help::version()).map_err(plain),
        Err(error) => return Err(plain(value_error("", &error))),
        Ok(matches) => {
            for trace in matches.get_many::<Trace>("trace").into_iter().flatten() {
                if trace.help {
                    return Ok(0);
                }
                trace.apply().map_err(plain)?;
            }
        }
    }
    if let Some(text) = scan.error {
        return Err(getopt_mistake(invoked(), text, scan.advice));
    }
    let Some(name) = scan.operands.first() else {
        return Err(usage_mistake("Not enough arguments".to_owned()));
    };
    let Some(command) = cmd::find(name) else {
        let Mistake { error, .. } = usage_mistake(format!("Command not found: {name}"));
        return Err(plain(error.advise(did_you_mean("", name, cmd::COMMANDS.iter().map(|command| command.name)))));
    };
    // The words behind the command's name are the last ones, as many as there are operands after the first.
    let rest = &args[args.len() - (scan.operands.len() - 1)..];
    match parse(command, rest)? {
        Parsed::Help(text) => print(&text).map_err(plain),
        Parsed::Run(args) => (command.run)(&args).map_err(|error| Mistake::of(command, error)),
    }
}

/// A mistake that is none of the options'.
fn usage_mistake(text: String) -> Mistake {
    Mistake::plain(Error::invalid(text).hint(try_help(invoked())))
}

fn print(text: &str) -> Result<i32> {
    output::print(text).map(|()| 0)
}

/// The options in front of the command.
fn standard_options() -> clap::Command {
    let option = |id: &'static str, short, action| Arg::new(id).short(short).long(id).action(action);
    clap::Command::new(PROGRAM)
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .version("")
        .arg(option("help", 'h', ArgAction::Help))
        .arg(option("version", 'V', ArgAction::Version))
        .arg(option("trace", 'T', ArgAction::Append).allow_hyphen_values(true).value_parser(parsed(trace::parse)))
}
