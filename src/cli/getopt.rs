//! The rules of `getopt_long`, applied to the options that a [`clap::Command`] defines.
//!
//! clap parses values, counts repetitions and prints help; what it does not have are `getopt_long`'s corner cases and
//! error texts, which scripts know: `-f=x` means the value `=x`, a value may be any word at all (`-f --`), long options
//! may be shortened to any unambiguous prefix. So [`scan`] first splits the words by those rules into a form that leaves
//! no doubt (`--name=value`), up to the first mistake, and clap parses that. An option before the mistake counts as
//! usual: `info -h --bogus` prints help.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::builder::ValueRange;
use clap::{Arg, Command};

use super::args::OWN;
use crate::nearest::did_you_mean;
use crate::text;

/// What [`scan`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The options in the order they were given, each as one or two words that clap cannot misread.
    pub options: Vec<String>,
    /// The words that are not options.
    pub operands: Vec<String>,
    /// The mistake that ended the scan, in the reference's words.
    pub error: Option<String>,
    /// What to do about it, where that is known.
    pub advice: Option<String>,
}

/// Where options end and operands begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Options and operands may be mixed; `--` ends the options.
    Permute,
    /// The first operand ends the options.
    OperandsLast,
}

/// Splits `args` into options and operands.
pub fn scan(command: &Command, args: &[OsString], order: Order) -> Scan {
    let mut scan = Scan::default();
    let mut args = args.iter().peekable();
    while let Some(arg) = args.next() {
        let word = arg.as_bytes();
        let result = match word {
            b"--" => {
                scan.operands.extend(args.map(|arg| text::from_os(arg)));
                return scan;
            }
            [b'-', b'-', name @ ..] => long_option(command, name, &mut args, &mut scan.options),
            [b'-', letters @ ..] if !letters.is_empty() => {
                short_options(command, letters, &mut args, &mut scan.options)
            }
            _ => {
                scan.operands.push(text::from_bytes(word));
                if scan.operands.len() == 1 && takes_negative_number(command) {
                    // `resize FILE -1G`: a number less than nothing, not options.
                    scan.operands.extend(args.next_if(|next| is_negative(next)).map(|arg| text::from_os(arg)));
                }
                if order == Order::OperandsLast {
                    scan.operands.extend(args.map(|arg| text::from_os(arg)));
                    return scan;
                }
                Ok(())
            }
        };
        if let Err(error) = result {
            scan.advice = word.strip_prefix(b"--").and_then(|name| mistyped(command, name));
            scan.error = Some(error);
            return scan;
        }
    }
    scan
}

fn long_option<'a>(
    command: &Command,
    word: &[u8],
    rest: &mut impl Iterator<Item = &'a OsString>,
    options: &mut Vec<String>,
) -> Result<(), String> {
    let (name, value) = match word.iter().position(|byte| *byte == b'=') {
        Some(at) => (&word[..at], Some(text::from_bytes(&word[at + 1..]))),
        None => (word, None),
    };
    let name = text::from_bytes(name);
    let (arg, long) = find_long(command, &name, &text::from_bytes(word))?;
    if !takes_value(arg) {
        return match value {
            Some(value) if allows_value(arg, &value) => {
                options.push(format!("--{long}={value}"));
                Ok(())
            }
            Some(_) => Err(format!("option '--{long}' doesn't allow an argument")),
            None => {
                options.push(format!("--{long}"));
                Ok(())
            }
        };
    }
    let value = value
        .or_else(|| rest.next().map(|arg| text::from_os(arg)))
        .ok_or_else(|| format!("option '--{long}' requires an argument"))?;
    options.push(format!("--{long}={value}"));
    Ok(())
}

/// The option called `name`, or the only one whose name starts like that. `word` is what the user wrote, for messages.
///
/// Hidden aliases and options of our own answer to their full name only, so that they do not make prefixes of other
/// names ambiguous.
fn find_long<'a>(command: &'a Command, name: &str, word: &str) -> Result<(&'a Arg, &'a str), String> {
    let mut candidates: Vec<(&Arg, &str)> = Vec::new();
    for arg in command.get_arguments() {
        let hidden = arg.get_aliases().unwrap_or_default();
        if let Some(alias) = hidden.into_iter().find(|alias| *alias == name) {
            return Ok((arg, alias));
        }
        for long in arg.get_long().into_iter().chain(arg.get_visible_aliases().unwrap_or_default()) {
            if long == name {
                return Ok((arg, long));
            }
            if long.starts_with(name) && arg.get_help_heading() != Some(OWN) {
                candidates.push((arg, long));
            }
        }
    }
    match candidates.as_slice() {
        [] => Err(format!("unrecognized option '--{word}'")),
        [(first, long), rest @ ..] if rest.iter().all(|(arg, _)| arg.get_id() == first.get_id()) => Ok((first, long)),
        several => {
            let names: String = several.iter().map(|(_, long)| format!(" '--{long}'")).collect();
            Err(format!("option '--{word}' is ambiguous; possibilities:{names}"))
        }
    }
}

/// The question whether somebody who wrote `word`, which is no option, meant one that there is.
fn mistyped(command: &Command, word: &[u8]) -> Option<String> {
    let word = text::from_bytes(word.split(|byte| *byte == b'=').next().unwrap_or_default());
    if find_long(command, &word, &word).is_ok() {
        return None;
    }
    let names = command
        .get_arguments()
        .flat_map(|arg| arg.get_long().into_iter().chain(arg.get_visible_aliases().unwrap_or_default()));
    did_you_mean("--", &word, names)
}

fn short_options<'a>(
    command: &Command,
    letters: &[u8],
    rest: &mut impl Iterator<Item = &'a OsString>,
    options: &mut Vec<String>,
) -> Result<(), String> {
    for (at, letter) in letters.iter().enumerate() {
        let short = char::from(*letter);
        let found = command.get_arguments().find(|arg| letter.is_ascii() && arg.get_short() == Some(short));
        let Some(arg) = found else {
            return Err(format!("invalid option -- '{}'", text::from_bytes(&[*letter])));
        };
        let name = match arg.get_long() {
            Some(long) => format!("--{long}"),
            None => format!("-{short}"),
        };
        if !takes_value(arg) {
            options.push(name);
            continue;
        }
        let joined = &letters[at + 1..];
        let value =
            if joined.is_empty() { rest.next().map(|arg| text::from_os(arg)) } else { Some(text::from_bytes(joined)) };
        let value = value.ok_or_else(|| format!("option requires an argument -- '{short}'"))?;
        if arg.get_long().is_some() {
            options.push(format!("{name}={value}"));
        } else {
            options.extend([name, value]);
        }
        return Ok(());
    }
    Ok(())
}

/// Whether the second operand may be a number with a minus sign.
fn takes_negative_number(command: &Command) -> bool {
    command.get_arguments().any(|arg| arg.is_positional() && arg.is_allow_negative_numbers_set())
}

fn is_negative(word: &OsString) -> bool {
    matches!(word.as_bytes(), [b'-', b'0'..=b'9', ..])
}

/// Whether a value must follow.
fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values() && arg.get_num_args() != Some(ValueRange::EMPTY) && !arg.is_require_equals_set()
}

/// Whether an option that needs no value may have this one.
fn allows_value(arg: &Arg, value: &str) -> bool {
    arg.is_require_equals_set()
        && arg.get_possible_values().iter().any(|known| !known.is_hide_set() && known.get_name() == value)
}

#[cfg(test)]
#[path = "getopt_tests.rs"]
mod tests;
