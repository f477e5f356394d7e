//! Option lists: `name=value,name=value,flag`, the language of `-o`, `--image-opts` and `-l`.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

use crate::error::{Error, Result};

/// One element of an option list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The name; empty where the list has none.
    pub name: String,
    /// The value, `on` or `off` for a flag.
    pub value: String,
    /// Whether it stood there without a value: `flag`, or `noflag`.
    pub flag: bool,
}

impl Element {
    /// Whether this asks for help.
    pub fn is_help(&self) -> bool {
        self.flag && self.value == "on" && matches!(self.name.as_str(), "help" | "?")
    }
}

/// The elements of a list. A name ends at `=` or `,`; a value ends at a comma, and `,,` in it is a comma. A name alone is
/// a flag that is on, and off if it starts with `no`.
///
/// With `implied`, a first element without `=` is the value of that name.
pub fn elements<'a>(list: &'a str, implied: Option<&'a str>) -> impl Iterator<Item = Element> + 'a {
    let (mut list, mut implied) = (list, implied);
    std::iter::from_fn(move || {
        let implied = implied.take();
        if list.is_empty() {
            return None;
        }
        let end = list.find(['=', ',']).unwrap_or(list.len());
        let (name, rest) = list.split_at(end);
        let (element, rest) = match (rest.strip_prefix('='), implied) {
            (Some(rest), _) => with_value(name, rest),
            (None, Some(implied)) => with_value(implied, list),
            (None, None) => {
                let (name, value) = name.strip_prefix("no").map_or((name, "on"), |name| (name, "off"));
                (Element { name: name.to_owned(), value: value.to_owned(), flag: true }, rest)
            }
        };
        list = rest.strip_prefix(',').unwrap_or(rest);
        Some(element)
    })
}

/// Takes the elements called `name` out of a list: what is left, and the value of the last one.
pub fn take(list: &str, name: &str) -> (String, Option<String>) {
    let (mut left, mut taken) = (Vec::new(), None);
    for element in elements(list, None) {
        if element.name == name {
            taken = Some(element.value);
            continue;
        }
        left.push(match (element.flag, element.value.as_str()) {
            (true, "off") => format!("no{}", element.name),
            (true, _) => element.name,
            (false, value) => format!("{}={}", element.name, value.replace(',', ",,")),
        });
    }
    (left.join(","), taken)
}

fn with_value<'a>(name: &str, rest: &'a str) -> (Element, &'a str) {
    let (value, rest) = value(rest);
    (Element { name: name.to_owned(), value, flag: false }, rest)
}

/// Cuts a value off: everything up to a single comma, with double ones undone.
pub fn value(mut rest: &str) -> (String, &str) {
    let mut value = String::new();
    loop {
        let end = rest.find(',').unwrap_or(rest.len());
        value.push_str(&rest[..end]);
        rest = &rest[end..];
        match rest.strip_prefix(",,") {
            Some(behind) => {
                value.push(',');
                rest = behind;
            }
            None => return (value, rest),
        }
    }
}

/// Checks the name of an object: a letter, then letters, digits, `-`, `.` and `_`.
pub fn check_id(id: &str) -> Result<()> {
    let mut chars = id.chars();
    let starts_well = chars.next().is_some_and(|c| c.is_ascii_alphabetic());
    if starts_well && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')) {
        return Ok(());
    }
    Err(Error::invalid("Parameter 'id' expects an identifier")
        .hint("Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."))
}
