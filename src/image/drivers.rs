//! Drivers that are neither formats nor files: `null-co` and `null-aio`, which hold nothing, and `blkdebug`, which passes
//! requests on to what lies below and makes some of them fail.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::keyorder::bucket;
use super::node::{Child, ProtocolNode};
use super::open::{Opener, general_options};
use super::options::NodeOptions;
use super::{OpenFlags, debugrules};
use crate::error::{Error, Result};
use crate::json;
use crate::storage::{DebugLimits, DebugStorage, NullStorage, Permissions, Storage};
use crate::units::{SECTOR, align_up};

/// Length of a `null-co` node that was given none.
const NULL_LEN: u64 = 1 << 30;

/// Whether this is one of the drivers of this module.
pub(super) fn is_virtual(driver: &str) -> bool {
    matches!(driver, "null-co" | "null-aio" | "blkdebug")
}

/// Options of a node that say how it is used, not what it shows.
fn is_general(name: &str) -> bool {
    const BELOW: [&str; 4] = ["cache.", "image.", "take-child-perms.", "unshare-child-perms."];
    const NAMES: [&str; 7] =
        ["node-name", "read-only", "auto-read-only", "force-share", "discard", "detect-zeroes", "x-image"];
    NAMES.contains(&name) || BELOW.iter().any(|prefix| name.starts_with(prefix))
}

impl Opener<'_> {
    /// Opens a node of one of the drivers of this module.
    pub(super) fn virtual_node(
        &self,
        driver: &'static str,
        filename: Option<String>,
        options: NodeOptions,
        flags: OpenFlags,
    ) -> Result<Child> {
        let node = match driver {
            "blkdebug" => self.blkdebug(filename, options, flags),
            _ => self.null(driver, filename.as_deref(), options, flags),
        };
        node.map(Child::Protocol)
    }

    fn null(
        &self,
        driver: &'static str,
        filename: Option<&str>,
        mut options: NodeOptions,
        flags: OpenFlags,
    ) -> Result<ProtocolNode> {
        let plain = format!("{driver}://");
        if filename.is_some_and(|name| name != plain) {
            return Err(Error::invalid(format!("The only allowed filename for this driver is '{plain}'")));
        }
        let (_, name) = general_options(&mut options, flags)?;
        let mut full = NodeOptions::from_pairs([("driver", json!(driver))]);
        for key in ["size", "read-zeroes"] {
            if let Some(value) = options.get(key) {
                full.set(key, value.clone());
            }
        }
        let len = options.take_size("size")?.unwrap_or(NULL_LEN);
        let latency = options.take_number("latency-ns")?.unwrap_or(0);
        let reads_zeros = options.take_bool("read-zeroes")?.unwrap_or(false);
        if i64::try_from(latency).is_err() {
            return Err(Error::invalid("latency-ns is invalid"));
        }
        check_rest(driver, &options)?;
        // A number below zero stands for nothing.
        let len = if i64::try_from(len).is_ok() { align_up(len, SECTOR).unwrap_or(len) } else { 0 };
        let exact = (full.map().len() == 1).then_some(plain);
        let storage = Arc::new(NullStorage { len, latency: Duration::from_nanos(latency), reads_zeros });
        Ok(ProtocolNode {
            filename: filename_of(exact.as_deref(), &full),
            is_exact: exact.is_some(),
            storage,
            driver,
            options: full.into_map(),
            image: None,
            name: self.take_name(name)?,
            says_nothing: !reads_zeros,
            permissions: Permissions::NONE,
        })
    }

    fn blkdebug(&self, filename: Option<String>, mut options: NodeOptions, flags: OpenFlags) -> Result<ProtocolNode> {
        if let Some(filename) = filename {
            read_filename(&filename, &mut options)?;
        }
        let (flags, name) = general_options(&mut options, flags)?;
        let full = options.clone();
        let config = options.take_text("config");
        let limits = Limits::take(&mut options)?;
        let mut rules = Vec::new();
        if let Some(config) = &config {
            rules = debugrules::read_config(config)?;
        }
        rules.extend(debugrules::take_rules(&mut options)?);
        let permissions = debugrules::take_permissions(&mut options)?;
        let below = OpenFlags { more: flags.more.and(permissions), ..flags };
        let image = self.child("image", options.take_text("x-image"), &mut options, below)?;
        if permissions.writes() && !flags.write {
            return Err(Error::os(libc::EPERM).replace("Block node is read-only"));
        }
        let limits = limits.check()?;
        check_rest("blkdebug", &options)?;
        let (exact, full) = describe(config.as_deref(), &image, full);
        Ok(ProtocolNode {
            filename: filename_of(exact.as_deref(), &full),
            is_exact: exact.is_some(),
            storage: Arc::new(DebugStorage::new(image.storage(), limits, rules)) as Arc<dyn Storage>,
            driver: "blkdebug",
            options: full.into_map(),
            says_nothing: image.says_nothing(),
            image: Some(Box::new(image)),
            name: self.take_name(name)?,
            permissions,
        })
    }
}

fn check_rest(driver: &str, options: &NodeOptions) -> Result<()> {
    match options.first() {
        Some(unknown) => {
            Err(Error::invalid(format!("Block protocol '{driver}' doesn't support the option '{unknown}'")))
        }
        None => Ok(()),
    }
}

fn filename_of(exact: Option<&str>, full: &NodeOptions) -> String {
    match exact {
        Some(name) => name.to_owned(),
        None => format!("json:{}", json::one_line(&Value::Object(full.map().clone()))),
    }
}

/// Turns `blkdebug:config:image` into options. Another name is that of the image.
fn read_filename(filename: &str, options: &mut NodeOptions) -> Result<()> {
    let Some(rest) = filename.strip_prefix("blkdebug:") else {
        options.set("x-image", filename);
        return Ok(());
    };
    let missing = || Error::invalid("blkdebug requires both config file and image path");
    let (config, image) = rest.split_once(':').ok_or_else(missing)?;
    if !config.is_empty() {
        options.set("config", config);
    }
    options.set("x-image", image);
    Ok(())
}

/// The file name that leads to such a node again, where there is one, and its description by options.
fn describe(config: Option<&str>, image: &Child, given: NodeOptions) -> (Option<String>, NodeOptions) {
    let mut full =
        NodeOptions::from_pairs([("driver", json!("blkdebug")), ("image", Value::Object(image.full_options()))]);
    let mut plain = true;
    let mut keys: Vec<_> = given.map().keys().filter(|key| !is_general(key)).collect();
    // Added as the reference adds what it has taken out of nested objects: that decides in which order two keys of one
    // bucket are printed.
    keys.sort_by_key(|key| bucket(key.rsplit('.').next().unwrap_or(key)));
    for key in keys {
        plain &= key == "config";
        if let Some(value) = given.get(key) {
            full.set(key, value.clone());
        }
    }
    let exact = image.exact_name().filter(|_| plain);
    (exact.map(|name| format!("blkdebug:{}:{name}", config.unwrap_or_default())), full)
}

/// The limits that options ask for.
struct Limits {
    given: Vec<(&'static str, u64)>,
}

impl Limits {
    fn take(options: &mut NodeOptions) -> Result<Limits> {
        const NAMES: [&str; 6] =
            ["align", "max-transfer", "opt-write-zero", "max-write-zero", "opt-discard", "max-discard"];
        let given = NAMES.into_iter().map(|name| Ok((name, options.take_size(name)?.unwrap_or(0))));
        Ok(Limits { given: given.collect::<Result<_>>()? })
    }

    fn get(&self, wanted: &str) -> u64 {
        self.given.iter().find(|(name, _)| *name == wanted).map_or(0, |(_, value)| *value)
    }

    /// Each has 31 bits and is a multiple of the alignment; a maximum is a multiple of what is best.
    fn check(&self) -> Result<DebugLimits> {
        let refuse =
            |name: &str| Err(Error::invalid(format!("Cannot meet constraints with {name} {}", self.get(name))));
        let max = i32::MAX as u64;
        let align = self.get("align");
        if align >= max || (align != 0 && !align.is_power_of_two()) {
            return refuse("align");
        }
        let unit = align.max(1);
        for (name, unit) in [
            ("max-transfer", unit),
            ("opt-write-zero", unit),
            ("max-write-zero", unit.max(self.get("opt-write-zero"))),
            ("opt-discard", unit),
            ("max-discard", unit.max(self.get("opt-discard"))),
        ] {
            let value = self.get(name);
            if value >= max || !value.is_multiple_of(unit) {
                return refuse(name);
            }
        }
        Ok(DebugLimits {
            align,
            max_transfer: self.get("max-transfer"),
            max_write_zero: self.get("max-write-zero"),
            max_discard: self.get("max-discard"),
        })
    }
}
