//! Creation options: the list of them, and their check before anything is created.

use super::crypt::CreateCrypt;
use super::geometry::Geometry;
use super::header::{CompressionType, Header, autoclear, compatible, crypt_method, incompatible};
use crate::crypto::Secrets;
use crate::error::{Error, Result};
use crate::format::{CreateOptions, OptionDesc, OptionType};
use crate::image::{CompressionLevel, Preallocation, is_known_driver};
use crate::number::parse_number;
use crate::units::{SECTOR, align_up};

/// The creation options, in the order in which the reference's `create` shows them.
pub static CREATE_OPTIONS: &[OptionDesc] = &[
    OptionDesc::new(
        "encryption",
        OptionType::Bool,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    ),
    OptionDesc::new("encrypt.format", OptionType::Str, "Encrypt the image, format choices: 'aes', 'luks'"),
    OptionDesc::new("encrypt.key-secret", OptionType::Str, "ID of secret providing qcow AES key or LUKS passphrase"),
    OptionDesc::new("encrypt.cipher-alg", OptionType::Str, "Name of encryption cipher algorithm"),
    OptionDesc::new("encrypt.cipher-mode", OptionType::Str, "Name of encryption cipher mode"),
    OptionDesc::new("encrypt.ivgen-alg", OptionType::Str, "Name of IV generator algorithm"),
    OptionDesc::new("encrypt.ivgen-hash-alg", OptionType::Str, "Name of IV generator hash algorithm"),
    OptionDesc::new("encrypt.hash-alg", OptionType::Str, "Name of encryption hash algorithm"),
    OptionDesc::new("encrypt.iter-time", OptionType::Num, "Time to spend in PBKDF in milliseconds"),
    OptionDesc::new("cluster_size", OptionType::Size, "qcow2 cluster size").or("65536"),
    OptionDesc::new("extended_l2", OptionType::Bool, "Extended L2 tables").or("off"),
    OptionDesc::new(
        "preallocation",
        OptionType::Str,
        "Preallocation mode (allowed values: off, metadata, falloc, full)",
    ),
    OptionDesc::new("compression_type", OptionType::Str, "Compression method used for image cluster compression")
        .or("zlib"),
    OptionDesc::new("size", OptionType::Size, "Virtual disk size"),
    OptionDesc::new("compat", OptionType::Str, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    OptionDesc::new("backing_file", OptionType::Str, "File name of a base image"),
    OptionDesc::new("backing_fmt", OptionType::Str, "Image format of the base image"),
    OptionDesc::new("data_file", OptionType::Str, "File name of an external data file"),
    OptionDesc::new("data_file_raw", OptionType::Bool, "The external data file must stay valid as a raw image"),
    OptionDesc::new("lazy_refcounts", OptionType::Bool, "Postpone refcount updates").or("off"),
    OptionDesc::new("refcount_bits", OptionType::Num, "Width of a reference count entry in bits").or("16"),
];

/// A new image, with every option checked.
#[derive(Debug)]
pub struct NewImage {
    /// Its header, without the places of tables.
    pub header: Header,
    /// How it is encrypted.
    pub crypt: Option<CreateCrypt>,
    /// See [`Preallocation`].
    pub preallocation: Preallocation,
    /// The external data file as it was named.
    pub data_file: Option<String>,
}

/// Checks the options of a new image of `size` bytes. The order of the checks is the reference's.
pub fn check(options: &CreateOptions, size: u64, secrets: &Secrets) -> Result<NewImage> {
    let version = match options.get("compat") {
        Some("0.10" | "v2") => 2,
        None | Some("1.1" | "v3") => 3,
        Some(other) => return Err(bad_value("version", other)),
    };
    if let Some(format) = options.get("backing_fmt").filter(|format| !is_known_driver(format)) {
        return Err(bad_value("backing-fmt", format));
    }
    let preallocation = preallocation(options.get("preallocation"))?;
    let compression = compression_type(options)?;
    let extended = is_on(options, "extended_l2");
    if extended && version < 3 {
        return Err(needs_version_3("Extended L2 entries are only supported"));
    }
    let cluster_bits = cluster_bits(options.get("cluster_size"), extended)?;
    check_backing(options, preallocation, extended)?;
    let lazy = is_on(options, "lazy_refcounts");
    if lazy && version < 3 {
        return Err(needs_version_3("Lazy refcounts only supported"));
    }
    let refcount_order = refcount_order(options.get("refcount_bits"), version)?;
    let (data_file, data_file_raw) = data_file(options, version)?;
    if compression != CompressionType::Zlib && version < 3 {
        return Err(needs_version_3("Non-zlib compression type is only supported"));
    }
    let crypt = CreateCrypt::parse(options, secrets)?;
    let feature = |on: bool, bit: u64| if on { bit } else { 0 };
    let header = Header {
        version,
        cluster_bits,
        refcount_order,
        size: align_up(size, SECTOR).ok_or_else(|| Error::os(libc::EFBIG))?,
        crypt_method: crypt.as_ref().map_or(crypt_method::NONE, CreateCrypt::method),
        l1_size: 0,
        l1_offset: 0,
        refcount_table_offset: 0,
        refcount_table_clusters: 0,
        nb_snapshots: 0,
        snapshots_offset: 0,
        incompatible: feature(data_file.is_some(), incompatible::DATA_FILE)
            | feature(compression != CompressionType::Zlib, incompatible::COMPRESSION)
            | feature(extended, incompatible::EXTENDED_L2),
        compatible: feature(lazy, compatible::LAZY_REFCOUNTS),
        autoclear: feature(data_file_raw, autoclear::DATA_FILE_RAW),
        compression,
        backing_file: options.get("backing_file").map(crate::text::to_bytes),
        backing_format: options.get("backing_fmt").map(crate::text::to_bytes),
        data_file: data_file.as_deref().map(crate::text::to_bytes),
        crypto: None,
        bitmaps: None,
        unknown_fields: Vec::new(),
        unknown_extensions: Vec::new(),
    };
    // A raw data file has to be complete, so every cluster of it is mapped.
    let preallocation =
        if data_file_raw && preallocation == Preallocation::Off { Preallocation::Metadata } else { preallocation };
    let image = NewImage { header, crypt, preallocation, data_file };
    image.check_header_fits(options)?;
    Ok(image)
}

impl NewImage {
    fn check_header_fits(&self, options: &CreateOptions) -> Result<()> {
        let backing = options.get("backing_file");
        let too_long = backing.is_some_and(|name| name.len() as u64 > super::header::BACKING_NAME_MAX);
        let mut complete = self.header.clone();
        if self.header.crypt_method == crypt_method::LUKS {
            complete.crypto = Some(super::header::CryptoPointer { offset: 0, len: 0 });
        }
        let error = match complete.to_bytes() {
            Ok(_) if !too_long => return Ok(()),
            Ok(_) => Error::os(libc::EINVAL),
            Err(error) => error,
        };
        Err(match (backing, options.get("backing_fmt")) {
            (Some(name), Some(format)) => {
                error.context(format!("Could not assign backing file '{name}' with format '{format}'"))
            }
            (Some(name), None) => {
                error.context(format!("Could not assign backing file '{name}' with format 'unspecified'"))
            }
            _ => error.context("Could not update qcow2 header"),
        })
    }
}

fn compression_type(options: &CreateOptions) -> Result<CompressionType> {
    match options.get("compression_type") {
        None | Some("zlib") => Ok(CompressionType::Zlib),
        Some("zstd") => Ok(CompressionType::Zstd),
        Some(other) => Err(bad_value("compression-type", other)),
    }
}

/// Whether a new image with these options can be compressed at this level.
pub fn check_level(options: &CreateOptions, level: CompressionLevel) -> Result<()> {
    compression_type(options)?.level(level).map(|_| ())
}

/// Whether a switch is on.
pub fn is_on(options: &CreateOptions, name: &str) -> bool {
    options.get(name) == Some("on")
}

fn bad_value(name: &str, value: &str) -> Error {
    Error::invalid(format!("Parameter '{name}' does not accept value '{value}'"))
}

fn needs_version_3(what: &str) -> Error {
    Error::invalid(format!("{what} with compatibility level 1.1 and above (use version=v3 or greater)"))
}

fn preallocation(value: Option<&str>) -> Result<Preallocation> {
    let Some(text) = value else { return Ok(Preallocation::Off) };
    Preallocation::from_name(text).ok_or_else(|| bad_value("preallocation", text))
}

/// A number that the caller has put into plain decimal form.
fn number(name: &str, value: Option<&str>, default: u64) -> Result<u64> {
    let Some(value) = value else { return Ok(default) };
    value.parse().map_err(|_| Error::invalid(format!("Parameter '{name}' expects a number")))
}

/// log2 of the cluster size that the option asks for.
pub fn cluster_bits(value: Option<&str>, extended: bool) -> Result<u32> {
    let size = number("cluster_size", value, 65536)?;
    if !size.is_power_of_two() || !(512..=2 << 20).contains(&size) {
        return Err(Error::invalid("Cluster size must be a power of two between 512 and 2048k"));
    }
    if extended && size < u64::from(Geometry::SUBCLUSTERS) * SECTOR {
        return Err(Error::invalid(
            "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
        ));
    }
    Ok(size.trailing_zeros())
}

fn check_backing(options: &CreateOptions, preallocation: Preallocation, extended: bool) -> Result<()> {
    let backing = options.get("backing_file").is_some();
    if backing && preallocation != Preallocation::Off && !extended {
        return Err(Error::invalid(
            "Backing file and preallocation can only be used at the same time if extended_l2 is on",
        ));
    }
    if !backing && options.get("backing_fmt").is_some() {
        return Err(Error::invalid("Backing format cannot be used without backing file"));
    }
    Ok(())
}

fn refcount_order(value: Option<&str>, version: u32) -> Result<u32> {
    if let Some(negative) = value.filter(|text| text.starts_with('-')) {
        let text = match parse_number(negative) {
            Ok(bits) if bits > i64::MAX as u64 => "Refcount width must be a power of two and may not exceed 64 bits",
            _ => "Parameter 'refcount-bits' expects integer",
        };
        return Err(Error::invalid(text));
    }
    let bits = number("refcount_bits", value, 16)?;
    if bits > 64 || !bits.is_power_of_two() {
        return Err(Error::invalid("Refcount width must be a power of two and may not exceed 64 bits"));
    }
    if version < 3 && bits != 16 {
        return Err(Error::invalid(
            "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or \
             greater)",
        ));
    }
    Ok(bits.trailing_zeros())
}

/// Name of the data file, and whether it shall be a raw image.
fn data_file(options: &CreateOptions, version: u32) -> Result<(Option<String>, bool)> {
    let name = options.get("data_file").map(str::to_owned);
    let raw = is_on(options, "data_file_raw");
    if raw && options.get("backing_file").is_some() {
        return Err(Error::invalid("Backing file and data-file-raw cannot be used at the same time"));
    }
    if name.is_some() && version < 3 {
        return Err(needs_version_3("External data files are only supported"));
    }
    if raw && name.is_none() {
        return Err(Error::invalid("data-file-raw requires data-file"));
    }
    Ok((name, raw))
}
