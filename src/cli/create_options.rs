//! Creation options: `-o name=value,...`, and the list that `-o help` prints.

use std::collections::{BTreeMap, HashSet};

use super::optlist::{Element, elements, take};
use crate::error::{Error, Result};
use crate::format::{CreateOptions, Format, OptionDesc, OptionType, protocol};
use crate::image::CompressionLevel;
use crate::nearest::did_you_mean;
use crate::number::{NumberError, parse_number, parse_size};

/// The value of one `-o`, checked so that several can be joined by commas. For `.value_parser(parsed(...))`.
pub fn option_list(text: &str) -> Result<String> {
    let trailing_commas = text.len() - text.trim_end_matches(',').len();
    if text.is_empty() || text.starts_with(',') || trailing_commas % 2 == 1 {
        return Err(Error::invalid(format!("Invalid option list: {text}")));
    }
    Ok(text.to_owned())
}

/// What `convert -c -o` takes besides creation options: how hard the compressor tries.
const COMPRESSION_LEVEL: &str = "compression_level";

/// Takes the level of compression out of an option list: what is left, and the level if there is one.
pub fn take_compression_level(list: &str) -> Result<(String, Option<CompressionLevel>)> {
    let (left, level) = take(list, COMPRESSION_LEVEL);
    Ok((left, level.map(|text| compression_level(&text)).transpose()?))
}

fn compression_level(text: &str) -> Result<CompressionLevel> {
    match text {
        "fast" => Ok(CompressionLevel::Fast),
        "default" => Ok(CompressionLevel::Default),
        "best" => Ok(CompressionLevel::Best),
        number => number.parse().map(CompressionLevel::Number).map_err(|_| {
            Error::invalid(format!("{COMPRESSION_LEVEL} is 'fast', 'default', 'best' or a number, not '{text}'"))
        }),
    }
}

/// Whether an option list asks for help (`help` or `?`).
pub fn asks_for_help(list: &str) -> bool {
    elements(list, None).any(|element| element.is_help())
}

/// Reads an option list. `known` are the options there are: the format's first, then those of what lies below it.
///
/// Values of switches become `on` or `off`, numbers and sizes plain decimal numbers; other values stay as they are. The
/// last of equal names counts. `id=` is taken and means nothing, as in the reference.
pub fn parse_create_options(list: &str, known: &[&[OptionDesc]]) -> Result<CreateOptions> {
    let mut options = CreateOptions::default();
    for Element { name, value, .. } in elements(list, None) {
        if name == "id" {
            continue;
        }
        let Some(desc) = known.iter().copied().flatten().find(|desc| desc.name == name) else {
            let error = Error::invalid(format!("Invalid parameter '{name}'"));
            return Err(match name.as_str() {
                COMPRESSION_LEVEL => error.hint(
                    "compression_level is not kept in an image; it goes with 'convert -c', which writes compressed clusters",
                ),
                name => error.advise(did_you_mean("", name, words(known))),
            });
        };
        options.set(desc.name, checked(desc, &value)?);
    }
    Ok(options)
}

/// What could have been meant where an option is not known.
fn words<'a>(known: &'a [&'a [OptionDesc]]) -> impl Iterator<Item = &'a str> {
    let names = || known.iter().copied().flatten().map(|desc| desc.name);
    let compresses = names().any(|name| name == "compression_type");
    names().chain(compresses.then_some(COMPRESSION_LEVEL))
}

/// The value in its plain form, if it is of the option's type.
fn checked(desc: &OptionDesc, value: &str) -> Result<String> {
    let name = desc.name;
    match desc.kind {
        OptionType::Str => Ok(value.to_owned()),
        OptionType::Bool => match value {
            "on" | "yes" | "true" | "y" => Ok("on".to_owned()),
            "off" | "no" | "false" | "n" => Ok("off".to_owned()),
            _ => Err(Error::invalid(format!("Parameter '{name}' expects 'on' or 'off'"))),
        },
        OptionType::Num => match parse_number(value) {
            // What a sign means is the option's business; without it the number would be another one.
            Ok(number) if number != 0 && value.trim_start().starts_with('-') => Ok(value.trim_start().to_owned()),
            Ok(number) => Ok(number.to_string()),
            Err(NumberError::Invalid) => Err(Error::invalid(format!("Parameter '{name}' expects a number"))),
            Err(NumberError::Range) => {
                Err(Error::invalid(format!("Value '{value}' is too large for parameter '{name}'")))
            }
        },
        OptionType::Size => match parse_size(value) {
            Ok(size) => Ok(size.to_string()),
            Err(NumberError::Invalid) => {
                Err(Error::invalid(format!("Parameter '{name}' expects a non-negative number below 2^64")).hint(
                    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
                     and exabytes, respectively.",
                ))
            }
            Err(NumberError::Range) => {
                Err(Error::invalid(format!("Value '{value}' is out of range for parameter '{name}'")))
            }
        },
    }
}

/// What `-o help` prints for a format, on `target` if that was named: what lies below the format has options, too.
pub fn option_help(format: &Format, target: Option<&str>) -> String {
    match target {
        Some(target) => {
            format!("Supported options:\n{}", help_lines(&[format.create_options, protocol::options_for(target)]))
        }
        None => format!(
            "Supported {} options:\n{}\nThe protocol level may support further options.\nSpecify the target filename \
             to include those options.\n",
            format.name,
            help_lines(&[format.create_options])
        ),
    }
}

/// What `amend -o help` prints for a format.
pub fn amend_help(format: &Format) -> String {
    format!("Amend options for '{}':\n{}", format.name, help_lines(&[format.amend_options]))
}

/// What `create` says about a new image: ` name=value` for everything that was given or has a default to show, in the
/// order of `known`. Commas are doubled, as they have to be in a list.
pub fn summary(known: &[&[OptionDesc]], options: &CreateOptions) -> String {
    let mut seen = HashSet::new();
    let mut line = String::new();
    for desc in known.iter().copied().flatten().filter(|desc| seen.insert(desc.name)) {
        if let Some(value) = options.get(desc.name).or(desc.default) {
            line.push_str(&format!(" {}={}", desc.name, value.replace(',', ",,")));
        }
    }
    line
}

fn help_lines(known: &[&[OptionDesc]]) -> String {
    let mut sorted = BTreeMap::new();
    for desc in known.iter().copied().flatten() {
        sorted.entry(desc.name).or_insert(desc);
    }
    sorted.into_values().map(help_line).collect()
}

fn help_line(desc: &OptionDesc) -> String {
    let kind = match desc.kind {
        OptionType::Str => "str",
        OptionType::Bool => "bool (on/off)",
        OptionType::Num => "num",
        OptionType::Size => "size",
    };
    let name = format!("{}=<{kind}>", desc.name);
    match desc.help {
        "" => format!("  {name}\n"),
        help => format!("  {name:<22} - {help}\n"),
    }
}

#[cfg(test)]
#[path = "create_options_tests.rs"]
mod tests;
