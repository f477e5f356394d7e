//! Changing an existing image: its version, the width of its refcounts, its size, the names in its header, its key slots.
//!
//! Everything is checked before anything is changed, as far as that can be told. Each change is switched to by one write
//! of the header, after everything it needs is on stable storage; a crash leaves the image before or after it.

mod version;
mod width;

#[cfg(test)]
mod fault_tests;

use super::Qcow2;
use super::crypt::Crypt;
use super::header::{Header, autoclear, compatible, crypt_method};
use crate::crypto::luks::{HeaderWindow, KeyChange, KeySlots};
use crate::error::{Context, Error, Result};
use crate::format::{CreateOptions, OptionDesc, OptionType};
use crate::image::Amend;
use crate::number::parse_number;

/// What can be changed.
pub static OPTIONS: &[OptionDesc] = &[
    OptionDesc::new("encrypt.state", OptionType::Str, "Select new state of affected keyslots (active/inactive)"),
    OptionDesc::new("encrypt.keyslot", OptionType::Num, "Select a single keyslot to modify explicitly"),
    OptionDesc::new("encrypt.old-secret", OptionType::Str, "Select all keyslots that match this password"),
    OptionDesc::new(
        "encrypt.new-secret",
        OptionType::Str,
        "New secret to set in the matching keyslots. Empty string to erase",
    ),
    OptionDesc::new("encrypt.iter-time", OptionType::Num, "Time to spend in PBKDF in milliseconds"),
    OptionDesc::new("size", OptionType::Size, "Virtual disk size"),
    OptionDesc::new("compat", OptionType::Str, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    OptionDesc::new("backing_file", OptionType::Str, "File name of a base image"),
    OptionDesc::new("backing_fmt", OptionType::Str, "Image format of the base image"),
    OptionDesc::new("data_file", OptionType::Str, "File name of an external data file"),
    OptionDesc::new("data_file_raw", OptionType::Bool, "The external data file must stay valid as a raw image"),
    OptionDesc::new("lazy_refcounts", OptionType::Bool, "Postpone refcount updates"),
    OptionDesc::new("refcount_bits", OptionType::Num, "Width of a reference count entry in bits"),
];

const PREFIX: &str = "encrypt.";

/// What shall change, with every option checked by itself.
struct Plan {
    version: u32,
    keys: Option<KeyChange>,
    refcount_order: u32,
    /// The new name; empty for none.
    data_file: Option<String>,
    data_file_raw: Option<bool>,
    lazy: Option<bool>,
    size: Option<u64>,
}

impl Qcow2 {
    /// See [`crate::image::Layer::amend`].
    pub(super) fn amend_image(&self, amend: &Amend<'_>) -> Result<()> {
        let before = {
            let mut meta = self.meta();
            meta.writer()?;
            meta.header.clone()
        };
        let plan = Plan::new(amend.options, &before)?;
        plan.check(&before)?;
        self.meta().flush()?;
        if plan.version > before.version {
            self.upgrade()?;
        }
        if let Some(keys) = &plan.keys {
            self.change_keys(keys, amend)?;
        }
        if plan.refcount_order != before.refcount_order {
            self.change_refcount_width(plan.refcount_order)?;
        }
        self.change_header(&plan)?;
        if let Some(size) = plan.size {
            (amend.resize)(size)?;
        }
        if plan.version < before.version { self.downgrade() } else { Ok(()) }
    }

    fn change_keys(&self, keys: &KeyChange, amend: &Amend<'_>) -> Result<()> {
        let pointer = self.meta().header.crypto;
        let passphrase = self.crypt.as_ref().and_then(Crypt::passphrase);
        let (Some(pointer), Some(passphrase)) = (pointer, passphrase) else { return Err(super::not_supported()) };
        let window = HeaderWindow { storage: &*self.file, offset: pointer.offset, len: pointer.len };
        KeySlots { window, passphrase, secrets: &amend.context.secrets, force: amend.force }.change(keys)
    }

    /// What is nothing but a field of the header.
    fn change_header(&self, plan: &Plan) -> Result<()> {
        let mut meta = self.meta();
        let mut header = meta.header.clone();
        if let Some(name) = &plan.data_file {
            header.data_file = (!name.is_empty()).then(|| crate::text::to_bytes(name));
        }
        if plan.data_file_raw == Some(false) {
            header.autoclear &= !autoclear::DATA_FILE_RAW;
        }
        match plan.lazy {
            Some(true) => header.compatible |= compatible::LAZY_REFCOUNTS,
            Some(false) => header.compatible &= !compatible::LAZY_REFCOUNTS,
            None => {}
        }
        // Whether it still fits is known before anything happens.
        header.to_bytes().context(|| "Failed to update the image header")?;
        meta.header = header;
        meta.writer()?.header_changed();
        meta.flush()
    }
}

impl Plan {
    /// Reads the options, which have to make sense for an image with this header.
    fn new(options: &CreateOptions, header: &Header) -> Result<Plan> {
        let version = match options.get("compat") {
            None => header.version,
            Some("0.10" | "v2") => 2,
            Some("1.1" | "v3") => 3,
            Some(other) => return Err(Error::invalid(format!("Unknown compatibility level {other}"))),
        };
        let keys = keys(options, header)?;
        let refcount_order = match options.get("refcount_bits") {
            None => header.refcount_order,
            Some(text) => match parse_number(text) {
                Ok(bits) if bits <= 64 && bits.is_power_of_two() => bits.trailing_zeros(),
                _ => {
                    let text = "Refcount width must be a power of two and may not exceed 64 bits";
                    return Err(Error::invalid(text));
                }
            },
        };
        let on = |name: &str| options.get(name).map(|value| value == "on");
        let data_file = options.get("data_file").map(str::to_owned);
        if data_file.is_some() && !header.has_data_file() {
            return Err(Error::invalid("data-file can only be set for images that use an external data file"));
        }
        if on("data_file_raw") == Some(true) && !header.data_file_raw() {
            return Err(Error::invalid("data-file-raw cannot be set on existing images"));
        }
        check_backing(options, header)?;
        Ok(Plan {
            version,
            keys,
            refcount_order,
            data_file,
            data_file_raw: on("data_file_raw"),
            lazy: on("lazy_refcounts"),
            // Zero is what the reference takes for "not given".
            size: options.get("size").and_then(|size| size.parse().ok()).filter(|size| *size != 0),
        })
    }

    /// Refuses what does not go together.
    fn check(&self, header: &Header) -> Result<()> {
        if self.refcount_order != header.refcount_order && self.version < 3 && self.refcount_order != 4 {
            return Err(Error::unsupported(
                "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or \
                 greater)",
            ));
        }
        if self.lazy == Some(true) && self.version < 3 {
            return Err(Error::unsupported(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)",
            ));
        }
        if self.version < header.version {
            version::check_downgrade(header, self.refcount_order)?;
        }
        Ok(())
    }
}

/// The change of key slots, if options ask for one.
fn keys(options: &CreateOptions, header: &Header) -> Result<Option<KeyChange>> {
    if !options.0.iter().any(|(name, _)| name.starts_with(PREFIX)) {
        return Ok(None);
    }
    match header.crypt_method {
        crypt_method::NONE => {
            return Err(Error::invalid("Can't amend encryption options - encryption not present"));
        }
        crypt_method::LUKS => {}
        _ => return Err(Error::unsupported("Only LUKS encryption options can be amended")),
    }
    KeyChange::parse(PREFIX, |name| options.get(&format!("{PREFIX}{name}"))).map(Some)
}

/// The backing file can be named as it is, not changed.
fn check_backing(options: &CreateOptions, header: &Header) -> Result<()> {
    let given = ["backing_file", "backing_fmt"].map(|name| options.get(name).map(crate::text::to_bytes));
    if given.iter().all(Option::is_none) || given == [header.backing_file.clone(), header.backing_format.clone()] {
        return Ok(());
    }
    Err(Error::invalid("Cannot amend the backing file").hint("You can use 'qemu-img rebase' instead."))
}
