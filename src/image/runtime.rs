//! The run-time options of the drivers: which there are, of which type, and which of them change anything here.
//!
//! Options that only tune the reference's performance (cache sizes, `aio`, `detect-zeroes`) are checked as the reference
//! checks them and have no further effect.

use super::options::NodeOptions;
use crate::error::{Error, Result};
use crate::storage::CacheMode;

/// What an option takes.
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    Size,
    Number,
    Text,
}

type Table = &'static [(&'static str, Kind)];

/// Options of the `file` and `host_device` drivers besides `filename` and `locking`.
const FILE: Table = &[
    ("aio", Kind::Text),
    ("aio-max-batch", Kind::Number),
    ("pr-manager", Kind::Text),
    ("drop-cache", Kind::Bool),
    ("x-check-cache-dropped", Kind::Bool),
];

/// Options of the `qcow2` driver besides `encrypt.*`, `data-file.*` and `backing.*`.
const QCOW2: Table = &[
    ("lazy-refcounts", Kind::Bool),
    ("pass-discard-request", Kind::Bool),
    ("pass-discard-snapshot", Kind::Bool),
    ("pass-discard-other", Kind::Bool),
    ("discard-no-unref", Kind::Bool),
    ("overlap-check", Kind::Text),
    ("overlap-check.template", Kind::Text),
    ("overlap-check.main-header", Kind::Bool),
    ("overlap-check.active-l1", Kind::Bool),
    ("overlap-check.active-l2", Kind::Bool),
    ("overlap-check.refcount-table", Kind::Bool),
    ("overlap-check.refcount-block", Kind::Bool),
    ("overlap-check.snapshot-table", Kind::Bool),
    ("overlap-check.inactive-l1", Kind::Bool),
    ("overlap-check.inactive-l2", Kind::Bool),
    ("overlap-check.bitmap-directory", Kind::Bool),
    ("cache-size", Kind::Size),
    ("l2-cache-size", Kind::Size),
    ("l2-cache-entry-size", Kind::Size),
    ("refcount-cache-size", Kind::Size),
    ("cache-clean-interval", Kind::Number),
];

/// Options that most nodes have, whatever their driver.
const COMMON: &[&str] = &[
    "driver",
    "file",
    "file.driver",
    "file.filename",
    "filename",
    "locking",
    "backing",
    "backing.driver",
    "data-file",
    "encrypt.key-secret",
    "encrypt.format",
    "offset",
    "size",
    "node-name",
    "read-only",
    "auto-read-only",
    "force-share",
    "cache.direct",
    "cache.no-flush",
    "discard",
    "detect-zeroes",
];

/// The names of options that somebody who named one which a node does not have may have meant.
pub fn names() -> impl Iterator<Item = &'static str> {
    let tables = [FILE, QCOW2].into_iter().flatten().map(|(name, _)| *name);
    COMMON.iter().copied().chain(tables)
}

/// Takes the options of a table out, checking their types.
fn take(options: &mut NodeOptions, table: Table) -> Result<NodeOptions> {
    let mut taken = NodeOptions::default();
    for (name, kind) in table {
        match kind {
            Kind::Bool => options.take_bool(name)?.map(|on| taken.set(name, on)),
            Kind::Size => options.take_size(name)?.map(|size| taken.set(name, size)),
            Kind::Number => options.take_number(name)?.map(|number| taken.set(name, number)),
            Kind::Text => options.take_text(name).map(|text| taken.set(name, text)),
        };
    }
    Ok(taken)
}

/// The options that every node has.
#[derive(Clone, Debug, Default)]
pub struct General {
    /// `node-name`.
    pub node_name: Option<String>,
    /// `read-only`.
    pub read_only: Option<bool>,
    /// `force-share`.
    pub force_share: bool,
    /// `cache.direct`.
    pub cache_direct: Option<bool>,
    /// `cache.no-flush`.
    pub cache_no_flush: Option<bool>,
}

impl General {
    /// Takes them out of a node's options.
    pub fn take(options: &mut NodeOptions) -> Result<General> {
        let mut general = General {
            node_name: None,
            read_only: options.take_bool("read-only")?,
            force_share: options.take_bool("force-share")?.unwrap_or(false),
            cache_direct: options.take_bool("cache.direct")?,
            cache_no_flush: options.take_bool("cache.no-flush")?,
        };
        options.take_bool("auto-read-only")?;
        if let Some(name) = options.take_text("node-name") {
            check_node_name(&name)?;
            general.node_name = Some(name);
        }
        let unmap = match options.take_text("discard").as_deref() {
            None | Some("ignore" | "off") => false,
            Some("unmap" | "on") => true,
            Some(_) => return Err(Error::invalid("Invalid discard option")),
        };
        match options.take_text("detect-zeroes").as_deref() {
            None | Some("off" | "on") => {}
            Some("unmap") if unmap => {}
            Some("unmap") => {
                return Err(Error::invalid(
                    "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
                ));
            }
            Some(other) => return Err(bad_value(other)),
        }
        Ok(general)
    }

    /// The cache mode of a node that would have `cache` without options of its own.
    pub fn cache(&self, cache: CacheMode) -> CacheMode {
        CacheMode {
            direct: self.cache_direct.unwrap_or(cache.direct),
            no_flush: self.cache_no_flush.unwrap_or(cache.no_flush),
            ..cache
        }
    }
}

fn bad_value(value: &str) -> Error {
    Error::invalid(format!("invalid parameter value: {value}"))
}

fn check_node_name(name: &str) -> Result<()> {
    let mut chars = name.bytes();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic());
    if !first || !chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_')) {
        return Err(Error::invalid(format!("Invalid node-name: '{name}'")));
    }
    if name.len() > 31 {
        return Err(Error::invalid("Node name too long"));
    }
    Ok(())
}

/// What the options of a `file` or `host_device` node say.
#[derive(Clone, Copy, Debug)]
pub struct FileOptions {
    /// Whether locks are taken.
    pub locking: bool,
    /// Whether requests shall be the kernel's own asynchronous ones.
    native: bool,
}

impl FileOptions {
    /// Takes them out.
    pub fn take(options: &mut NodeOptions) -> Result<FileOptions> {
        let taken = take(options, FILE)?;
        let native = match taken.string("aio") {
            None | Some("threads" | "io_uring") => false,
            Some("native") => true,
            Some(other) => return Err(bad_value(other)),
        };
        let locking = match options.take_text("locking").as_deref() {
            None | Some("auto" | "on") => true,
            Some("off") => false,
            Some(other) => return Err(bad_value(other)),
        };
        if let Some(id) = taken.string("pr-manager") {
            return Err(Error::invalid(format!("No persistent reservation manager with id '{id}'")));
        }
        Ok(FileOptions { locking, native })
    }

    /// Checks what goes together. `direct` is whether the page cache is circumvented. For a file that is open: that it is
    /// missing comes first.
    pub fn check(&self, direct: bool) -> Result<()> {
        if self.native && !direct {
            return Err(Error::invalid(
                "aio=native was specified, but it requires cache.direct=on, which was not specified.",
            ));
        }
        Ok(())
    }
}

/// Takes the options of a format out that need no more than being checked. `cluster` is the opened image's cluster
/// size, `size` its virtual size, `version_3` whether it has what came with version 3.
pub fn check_qcow2(options: &mut NodeOptions, cluster: u64, size: u64, version_3: bool) -> Result<()> {
    let taken = take(options, QCOW2)?;
    let on = |name: &str| taken.get(name).and_then(serde_json::Value::as_bool).unwrap_or(false);
    let number = |name: &str| taken.get(name).and_then(serde_json::Value::as_u64);
    check_cache_sizes(number("cache-size"), number("l2-cache-size"), number("refcount-cache-size"))?;
    if let Some(size) = number("l2-cache-entry-size")
        && (size < 512 || size > cluster || !size.is_power_of_two())
    {
        return Err(Error::invalid(format!(
            "L2 cache entry size must be a power of two between 512 and the cluster size ({cluster})"
        )));
    }
    check_refcount_cache(number("cache-size"), number("l2-cache-size"), number("refcount-cache-size"), cluster, size)?;
    if number("cache-clean-interval").is_some_and(|seconds| seconds > u64::from(u32::MAX)) {
        return Err(Error::invalid("Cache clean interval too big"));
    }
    if on("lazy-refcounts") && !version_3 {
        return Err(Error::invalid("Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level"));
    }
    check_overlap(taken.string("overlap-check"), taken.string("overlap-check.template"))?;
    if on("discard-no-unref") && !version_3 {
        return Err(Error::invalid("discard-no-unref is only supported since qcow2 version 3"));
    }
    Ok(())
}

/// The reference counts the blocks of its refcount cache, which gets what the cache of L2 tables leaves of `cache-size`,
/// in 32 bits.
fn check_refcount_cache(
    all: Option<u64>,
    l2: Option<u64>,
    refcounts: Option<u64>,
    cluster: u64,
    size: u64,
) -> Result<()> {
    let whole_l2 = || size.div_ceil(cluster).saturating_mul(8).next_multiple_of(cluster);
    let rest = all.map(|all| all.saturating_sub(l2.unwrap_or_else(whole_l2)));
    if refcounts.or(rest).is_some_and(|bytes| bytes / cluster > i32::MAX as u64) {
        return Err(Error::invalid("Refcount cache size too big"));
    }
    Ok(())
}

fn check_cache_sizes(all: Option<u64>, l2: Option<u64>, refcounts: Option<u64>) -> Result<()> {
    let Some(all) = all else { return Ok(()) };
    if l2.is_some() && refcounts.is_some() {
        return Err(Error::invalid(
            "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time",
        ));
    }
    for (name, size) in [("l2-cache-size", l2), ("refcount-cache-size", refcounts)] {
        if size.is_some_and(|size| size > all) {
            return Err(Error::invalid(format!("{name} may not exceed cache-size")));
        }
    }
    Ok(())
}

fn check_overlap(short: Option<&str>, template: Option<&str>) -> Result<()> {
    if let (Some(short), Some(template)) = (short, template)
        && short != template
    {
        return Err(Error::invalid(format!(
            "Conflicting values for qcow2 options 'overlap-check' ('{short}') and 'overlap-check.template' ('{template}')"
        )));
    }
    match short.or(template) {
        None | Some("none" | "constant" | "cached" | "all") => Ok(()),
        Some(other) => Err(Error::invalid(format!(
            "Unsupported value '{other}' for qcow2 option 'overlap-check'. Allowed are any of the following: none, \
             constant, cached, all"
        ))),
    }
}

#[cfg(test)]
#[path = "runtime_tests.rs"]
mod tests;
