//! `--object`: things that other options refer to by ID. The one kind there is here is the secret.

use std::fs::File;
use std::io::Read;

use serde_json::{Map, Value};
use zeroize::{Zeroize, Zeroizing};

use super::keyval;
use super::optlist::check_id;
use crate::crypto::{Secret, Secrets, decode_base64, unseal};
use crate::error::{Error, Kind, Result};
use crate::image::jsonname;
use crate::text;

/// The members of a secret, in the order in which they are checked.
const MEMBERS: [&str; 5] = ["format", "keyid", "iv", "data", "file"];

/// Kinds of objects that the reference has and this program does not.
const NOT_SUPPORTED: [&str; 11] = [
    "authz-list",
    "authz-list-file",
    "authz-simple",
    "main-loop",
    "pr-manager-helper",
    "secret_keyring",
    "thread-context",
    "throttle-group",
    "tls-creds-anon",
    "tls-creds-psk",
    "tls-creds-x509",
];

/// Kinds of object that only an emulator has; the reference knows their names, too.
const EMULATOR_ONLY: [&str; 7] =
    ["can-bus", "cryptodev-backend", "cryptodev-backend-builtin", "iothread", "iommufd", "rng-builtin", "rng-random"];

/// What `--object` options define.
#[derive(Debug)]
pub enum Objects {
    /// The secrets.
    Secrets(Secrets),
    /// Nothing: one of them asked for help, and this is it.
    Help(&'static str),
}

const KINDS_HELP: &str = "List of user creatable objects:\n  secret\n";
const SECRET_HELP: &str = "\
secret options:
  data=<string>
  file=<string>
  format=<QCryptoSecretFormat>
  iv=<string>
  keyid=<string>
";

/// Defines what the values of `--object` say, in their order: a secret can be encrypted by an earlier one.
pub fn define(definitions: &[&str]) -> Result<Objects> {
    let mut secrets = Secrets::default();
    for text in definitions {
        let values = match read(text)? {
            Ok(values) => values,
            Err(help) => return Ok(Objects::Help(help)),
        };
        let (id, secret) = secret(&values, &secrets)?;
        if secrets.get(id).is_some() {
            let text = format!("attempt to add duplicate property '{id}' to object (type 'container')");
            return Err(Error::invalid(text));
        }
        secrets.insert(id, secret);
    }
    Ok(Objects::Secrets(secrets))
}

/// The members of one object, whose kind has been checked; or the help that it asks for.
fn read(text: &str) -> Result<Result<Members, &'static str>> {
    if text.starts_with('{') {
        let Value::Object(values) = jsonname::parse(text).map_err(discreet)? else {
            return Err(Error::invalid("Parameter 'qom-type' is missing"));
        };
        let members = Members { values, json: true };
        check_kind(members.required("qom-type")?)?;
        return Ok(Ok(members));
    }
    let found = keyval::parse(text, "qom-type").map_err(|error| discreet_word(error, text))?;
    let members = Members { values: found.values, json: false };
    let kind = members.optional("qom-type")?;
    if found.help && kind.is_none() {
        return Ok(Err(KINDS_HELP));
    }
    check_kind(members.required("qom-type")?)?;
    if found.help { Ok(Err(SECRET_HELP)) } else { Ok(Ok(members)) }
}

/// An error in the text of a secret, without the text that it quotes.
fn discreet(error: Error) -> Error {
    match error.to_string().split_once(['\'', '\\']) {
        Some((text, _)) => Error::invalid(format!("{text}... (not shown, as it may be part of a secret)")),
        None => error,
    }
}

/// An error in the words of a definition. A word without '=' behind a passphrase may be the rest of it, after a comma.
fn discreet_word(error: Error, definition: &str) -> Error {
    let Some((_, behind)) = definition.split_once("data=") else { return error };
    let text = error.to_string();
    let mut words = behind.split(',').filter(|word| !word.is_empty()).map(|word| format!("'{word}'"));
    match words.find(|quoted| text.contains(quoted)) {
        Some(quoted) => Error::invalid(text.replace(&quoted, "'...'")).advise(COMMA.to_owned()),
        None => error,
    }
}

/// What to do where a part of a passphrase was taken for a parameter.
const COMMA: &str = "What is not shown may be part of a secret. A comma in a value is written twice: ',,'.";

fn check_kind(kind: &str) -> Result<()> {
    match kind {
        "secret" => Ok(()),
        kind if NOT_SUPPORTED.contains(&kind) => {
            Err(Error::unsupported(format!("objects of type '{kind}' are not supported, only secrets are")))
        }
        kind if EMULATOR_ONLY.contains(&kind) => Err(Error::invalid(format!("invalid object type: {kind}"))),
        kind => Err(Error::invalid(format!("Parameter 'qom-type' does not accept value '{kind}'"))),
    }
}

/// The members of an object.
struct Members {
    values: Map<String, Value>,
    /// Whether they came as JSON, which decides what messages say.
    json: bool,
}

impl Drop for Members {
    fn drop(&mut self) {
        self.values.values_mut().for_each(wipe);
    }
}

/// Overwrites all texts in a value.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(values) => values.values_mut().for_each(wipe),
        _ => {}
    }
}

impl Members {
    fn optional(&self, name: &str) -> Result<Option<&str>> {
        match self.values.get(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(_) if self.json => {
                Err(Error::invalid(format!("Invalid parameter type for '{name}', expected: string")))
            }
            Some(_) => Err(Error::invalid(format!("Parameters '{name}.*' are unexpected"))),
        }
    }

    fn required(&self, name: &str) -> Result<&str> {
        self.optional(name)?.ok_or_else(|| Error::invalid(format!("Parameter '{name}' is missing")))
    }
}

/// The ID of a secret, and what it holds.
fn secret<'a>(members: &'a Members, others: &Secrets) -> Result<(&'a str, Secret)> {
    let id = members.required("id")?;
    let mut found = [None; MEMBERS.len()];
    for (value, name) in found.iter_mut().zip(MEMBERS) {
        *value = members.optional(name)?;
        if let (Some(format), "format") = (*value, name)
            && !matches!(format, "raw" | "base64")
        {
            return Err(Error::invalid(format!("Parameter 'format' does not accept value '{format}'")));
        }
    }
    let known = |name: &str| name == "qom-type" || name == "id" || MEMBERS.contains(&name);
    if let Some(name) = members.values.keys().find(|name| !known(name)) {
        // One that is switched on, as 'rest=on', or a whole member of JSON may be the rest of a passphrase, too.
        let shown = members.values.get("data").is_none() || name.chars().all(|char| char.is_ascii_lowercase());
        let error = |name| Error::invalid(format!("Parameter '{name}' is unexpected"));
        return Err(if shown { error(name.as_str()) } else { error("...").advise(COMMA.to_owned()) });
    }
    check_id(id)?;
    let [format, keyid, iv, data, file] = found;
    let data = payload(data, file)?;
    let base64 = format == Some("base64");
    let secret = match keyid {
        Some(keyid) => {
            let key = match others.get(keyid) {
                Some(key) => key,
                None if keyid == id => return Err(Error::invalid(format!("Secret with id '{id}' has no data"))),
                None => return Err(Error::not_found(format!("No secret with id '{keyid}'"))),
            };
            unseal(key, iv, &data, base64)?
        }
        None if base64 => decode_base64(&data)?.into(),
        None => data.into(),
    };
    Ok((id, secret))
}

/// The bytes that a secret was given, wherever they come from.
fn payload(data: Option<&str>, file: Option<&str>) -> Result<Zeroizing<Vec<u8>>> {
    match (data, file) {
        (Some(_), Some(_)) => Err(Error::invalid("'file' and 'data' are mutually exclusive")),
        (None, None) => Err(Error::invalid("Either 'file' or 'data' must be provided")),
        (Some(data), None) => Ok(Zeroizing::new(text::to_bytes(data))),
        (None, Some(file)) => match read_file(file) {
            Ok(data) => Ok(data),
            Err(error) => {
                let verb =
                    if error.kind() == std::io::ErrorKind::IsADirectory { "Error reading" } else { "Failed to open" };
                let error = Error::new(Kind::Io(error)).context(format!("{verb} file \u{201c}{file}\u{201d}"));
                Err(error.context(format!("Unable to read {file}")))
            }
        },
    }
}

/// The longest file that holds a secret, in bytes. (The reference has no limit; a passphrase is far shorter.)
const FILE_MAX: usize = 16 << 20;

/// Reads a file into memory that is wiped, also where it has to move.
fn read_file(name: &str) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut file = File::open(text::to_os(name))?;
    let mut data = Zeroizing::new(vec![0; 4096]);
    let mut filled = 0;
    loop {
        match file.read(&mut data[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if filled == data.len() {
            if filled >= FILE_MAX {
                return Err(std::io::Error::from_raw_os_error(libc::EFBIG));
            }
            let mut larger = Zeroizing::new(vec![0; 2 * filled]);
            larger[..filled].copy_from_slice(&data);
            data = larger;
        }
    }
    data.truncate(filled);
    Ok(data)
}

#[cfg(test)]
#[path = "object_tests.rs"]
mod tests;
