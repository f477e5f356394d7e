//! The arguments of one command: how a command defines its options, and what it gets back.
//!
//! A command's `define` adds its options to a [`clap::Command`] with [`flag`], [`value`] and [`operands`]; [`parse`] reads
//! the words behind the command's name; its `run` asks the resulting [`Args`] by option ID, turns what it finds into
//! validated options of its own type, and calls the engine.
//!
//! All values are strings in which bytes that are not UTF-8 are carried as [`crate::text`] says. Options that take a value
//! keep every occurrence: [`Args::get`] is the last one, as in the reference, and [`Args::all`] all of them.

use std::ffi::OsString;
use std::fmt;
use std::sync::OnceLock;

use clap::builder::{PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser, ValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};

use super::getopt::{Order, scan};
use super::help;
use super::object::{self, Objects};
use crate::cmd::Command;
use crate::crypto::Secrets;
use crate::error::{Advice, Error, Kind, Result};
use crate::sys;

/// The name of the program, as messages give it.
pub const PROGRAM: &str = "qemu-img";

/// How the program was called.
static INVOKED: OnceLock<String> = OnceLock::new();

/// The program as it was called (`/usr/bin/qemu-img`), which is how `getopt_long` names it.
pub(super) fn invoked() -> &'static str {
    INVOKED.get().map_or(PROGRAM, String::as_str)
}

/// Notes how the program was called. Only the first call counts.
pub(super) fn set_invoked(name: String) {
    let _ = INVOKED.set(name);
}

/// The `help_heading` of options that the reference does not have. They answer to their full names only, so that what
/// is short for one of the reference's options stays so.
pub const OWN: &str = "Options of qemu-img-rs only";

/// The ID of `--object`.
const OBJECT: &str = "object";

/// The ID of the operands.
const OPERANDS: &str = "operands";

/// An option without a value. Its ID is `id`; give it names with `.short()` and `.long()`. May be repeated;
/// [`Args::count`] tells how often.
pub fn flag(id: &'static str, help: &'static str) -> Arg {
    Arg::new(id).action(ArgAction::Count).help(help)
}

/// An option without a value whose places among the others count: [`Args::places`] gives them.
pub fn action(id: &'static str, help: &'static str) -> Arg {
    Arg::new(id).action(ArgAction::Append).num_args(0).default_missing_value("").help(help)
}

/// An option with a value, called `name` in the help.
pub fn value(id: &'static str, name: &'static str, help: &'static str) -> Arg {
    Arg::new(id).action(ArgAction::Append).allow_hyphen_values(true).value_name(name).help(help)
}

/// An option that may be given without a value or as `--option=form`. [`Args::given`] tells whether it was given,
/// [`Args::texts`] lists the values; one that was left out is empty.
pub fn optional(id: &'static str, form: &'static str, help: &'static str) -> Arg {
    let none = PossibleValue::new("").hide(true);
    Arg::new(id)
        .action(ArgAction::Append)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("")
        .value_name(form)
        .hide_possible_values(true)
        .value_parser(PossibleValuesParser::new([PossibleValue::new(form), none]))
        .help(help)
}

/// The option `--object`, whose secrets [`Args::secrets`] gives.
pub fn object() -> Arg {
    value(OBJECT, "OBJDEF", "Define an object, in particular a secret: secret,id=ID,file=FILE").long(OBJECT)
}

/// The operands: the words that are neither options nor values. The command counts them; `names`, with spaces in
/// between, are for the help.
pub fn operands(names: &'static str, help: &'static str) -> Arg {
    Arg::new(OPERANDS).action(ArgAction::Append).num_args(0..).value_names(names.split(' ')).help(help)
}

/// For `.value_parser()`: reads a value with one of our own functions, whose message is printed as it is. The message
/// names the option itself where the reference does.
pub fn parsed<T>(parse: impl Fn(&str) -> Result<T> + Clone + Send + Sync + 'static) -> ValueParser
where
    T: Clone + Send + Sync + 'static,
{
    ValueParser::new(StringValueParser::new().try_map(move |text| parse(&text).map_err(ValueError::from)))
}

/// The parsed arguments of one command.
pub struct Args {
    command: &'static str,
    matches: ArgMatches,
    secrets: Secrets,
}

impl fmt::Debug for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the words: some of them may be secrets.
        f.debug_struct("Args").field("command", &self.command).finish_non_exhaustive()
    }
}

/// What came of reading the arguments.
#[derive(Debug)]
pub enum Parsed {
    /// A command can run.
    Run(Args),
    /// Help was asked for; this is it.
    Help(String),
}

/// A mistake in the arguments.
#[derive(Debug)]
pub struct Mistake {
    /// What stands before the colon of the message: the name of the program, with the command's for mistakes that
    /// `getopt_long` finds.
    pub program: String,
    /// The mistake.
    pub error: Error,
    /// The exit code.
    pub code: i32,
}

impl Mistake {
    /// An error of the program itself.
    pub fn plain(error: Error) -> Mistake {
        Mistake { program: PROGRAM.to_owned(), error, code: 1 }
    }

    /// An error that ends `command`.
    pub fn of(command: &Command, error: Error) -> Mistake {
        let code = if matches!(error.kind(), Kind::Usage(_)) { 1 } else { command.failure };
        Mistake { code, ..Mistake::plain(error) }
    }
}

/// The message of a value parser on its way through clap.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct ValueError {
    text: String,
    usage: bool,
    hints: Vec<String>,
    advice: Vec<Advice>,
}

impl From<Error> for ValueError {
    fn from(error: Error) -> Self {
        ValueError {
            text: error.to_string(),
            usage: matches!(error.kind(), Kind::Usage(_)),
            hints: error.hints().to_vec(),
            advice: error.advice().to_vec(),
        }
    }
}

/// Reads the words behind the name of `command`. Mistakes are reported in the reference's words.
pub fn parse(command: &'static Command, args: &[OsString]) -> Result<Parsed, Mistake> {
    // getopt_long, which the reference uses, looks at this variable, too.
    let order = if std::env::var_os("POSIXLY_CORRECT").is_some() { Order::OperandsLast } else { Order::Permute };
    parse_in_order(command, args, order)
}

fn parse_in_order(command: &'static Command, args: &[OsString], order: Order) -> Result<Parsed, Mistake> {
    let mut definition = help::define(command);
    let scan = scan(&definition, args, order);
    let words = scan.options.into_iter().chain(["--".to_owned()]).chain(scan.operands);
    let matches = match definition.try_get_matches_from_mut(words) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => return Ok(Parsed::Help(help::command(command))),
        Err(error) => {
            return Err(Mistake::of(command, value_error(command.name, &error)));
        }
    };
    let mut args = Args { command: command.name, matches, secrets: Secrets::default() };
    // Before the mistakes: the reference defines objects as it meets them.
    let objects = args.texts(OBJECT);
    if !objects.is_empty() {
        sys::secret::guard().map_err(Mistake::plain)?;
    }
    match object::define(&objects) {
        Ok(Objects::Secrets(secrets)) => args.secrets = secrets,
        Ok(Objects::Help(text)) => return Ok(Parsed::Help(text.to_owned())),
        Err(error) => return Err(Mistake::of(command, error)),
    }
    match scan.error {
        Some(text) => Err(getopt_mistake(&format!("{} {}", invoked(), command.name), text, scan.advice)),
        None => Ok(Parsed::Run(args)),
    }
}

/// A mistake that `getopt_long` would have found. `program` is the program's name, with the command's where one was
/// given; `advice` says what to do, if that is known.
pub(super) fn getopt_mistake(program: &str, text: String, advice: Option<String>) -> Mistake {
    let error = Error::invalid(text).hint(try_help(program)).advise(advice);
    Mistake { program: program.to_owned(), error, code: 1 }
}

/// Where to find help.
pub(super) fn try_help(program: &str) -> String {
    format!("Try '{program} --help' for more info")
}

/// A wrong use of a command: the message, then where to find help.
pub fn usage_error(command: &str, text: impl Into<String>) -> Error {
    Error::new(Kind::Usage(text.into())).hint(try_help(&format!("{} {command}", invoked())))
}

/// The error of a value parser as it was; anything else that clap finds wrong, in clap's words.
pub(super) fn value_error(command: &str, error: &clap::Error) -> Error {
    use std::error::Error as _;
    if let Some(ours) = error.source().and_then(|source| source.downcast_ref::<ValueError>()) {
        let text = ours.text.clone();
        let error = Error::new(if ours.usage { Kind::Usage(text) } else { Kind::Invalid(text) });
        let error = ours.hints.iter().fold(error, |error, hint| error.hint(hint.as_str()));
        return error.advise_all(ours.advice.iter().cloned());
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text).lines().next().unwrap_or_default();
    usage_error(command, text)
}

impl Args {
    /// The name of the command.
    pub fn command(&self) -> &'static str {
        self.command
    }

    /// Whether a flag was given.
    pub fn flag(&self, id: &str) -> bool {
        self.count(id) > 0
    }

    /// How often a flag was given.
    pub fn count(&self, id: &str) -> u8 {
        self.matches.get_count(id)
    }

    /// As [`Args::flag`], of an option that the command need not have.
    pub fn is_flag(&self, id: &str) -> bool {
        self.matches.try_get_one::<u8>(id).ok().flatten().is_some_and(|count| *count > 0)
    }

    /// The value of an option; the last one, where it was given several times.
    pub fn text(&self, id: &str) -> Option<&str> {
        self.get::<String>(id).map(String::as_str)
    }

    /// All values of an option in the order they were given.
    pub fn texts(&self, id: &str) -> Vec<&str> {
        // A command need not have the option.
        self.matches.try_get_many::<String>(id).ok().flatten().into_iter().flatten().map(String::as_str).collect()
    }

    /// The value of an option with a [`parsed`] value parser; the last one, where it was given several times.
    pub fn get<T: Clone + Send + Sync + 'static>(&self, id: &str) -> Option<&T> {
        self.matches.get_many::<T>(id).and_then(|mut values| values.next_back())
    }

    /// All values of an option with a [`parsed`] value parser.
    pub fn all<T: Clone + Send + Sync + 'static>(&self, id: &str) -> Vec<T> {
        self.matches.get_many::<T>(id).into_iter().flatten().cloned().collect()
    }

    /// The secrets that `--object` defines.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Whether an option was given at all.
    pub fn given(&self, id: &str) -> bool {
        self.matches.value_source(id) == Some(ValueSource::CommandLine)
    }

    /// Where the occurrences of an option stand among all arguments: numbers that grow from the first argument to the
    /// last.
    pub fn places(&self, id: &str) -> Vec<usize> {
        self.matches.indices_of(id).into_iter().flatten().collect()
    }

    /// The words that are neither options nor values, in order.
    pub fn operands(&self) -> Vec<&str> {
        self.texts(OPERANDS)
    }

    /// A wrong use of the command: the message, then where to find help.
    pub fn usage(&self, text: impl Into<String>) -> Error {
        usage_error(self.command, text)
    }

    /// The only operand, of commands that take one image.
    pub fn one_image(&self) -> Result<&str> {
        match self.operands().as_slice() {
            [name] => Ok(name),
            _ => Err(self.usage("Expecting one image file name")),
        }
    }
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
