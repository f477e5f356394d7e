//! Creation options of what lies below a format: the file system, or a device.

use super::{CreateRequest, Format, OptionDesc, OptionType, raw};
use crate::error::{Error, Result};
use crate::image::protocol_prefix;
use crate::number::parse_size;
use crate::storage::NewFile;

const SIZE: OptionDesc = OptionDesc::new("size", OptionType::Size, "Virtual disk size");

/// What every disk has: the options of the raw format.
pub static DISK_OPTIONS: &[OptionDesc] = &[SIZE];

/// What a file can be created with.
pub static FILE_OPTIONS: &[OptionDesc] = &[
    SIZE,
    OptionDesc::new("nocow", OptionType::Bool, "Turn off copy-on-write (valid only on btrfs)"),
    OptionDesc::new("preallocation", OptionType::Str, "Preallocation mode (allowed values: off, falloc, full)"),
    OptionDesc::new("extent_size_hint", OptionType::Size, "Extent size hint for the image file, 0 to disable"),
];

/// What a device, which exists already, can be "created" with.
pub static DEVICE_OPTIONS: &[OptionDesc] =
    &[SIZE, OptionDesc::new("preallocation", OptionType::Str, "Preallocation mode (allowed values: off)")];

/// The options of the place where `filename` is or will be.
pub fn options_for(filename: &str) -> &'static [OptionDesc] {
    use std::os::unix::fs::FileTypeExt;
    let device = match protocol_prefix(filename) {
        Some("file") => false,
        Some("host_device") => true,
        _ => std::fs::metadata(crate::text::to_os(filename))
            .is_ok_and(|data| data.file_type().is_block_device() || data.file_type().is_char_device()),
    };
    if device { DEVICE_OPTIONS } else { FILE_OPTIONS }
}

/// By what name a new image is made: where its format says how it is reached (`file`, `host_device`), that goes in front.
pub fn name_with_driver(format: &str, name: &str) -> String {
    match protocol_prefix(name) {
        None if matches!(format, "file" | "host_device") => format!("{format}:{name}"),
        _ => name.to_owned(),
    }
}

/// A file as an image of its own (`-f file`): raw, in all but the name.
pub static FILE: Format = Format { name: "file", create_options: FILE_OPTIONS, measure: None, ..raw::DESCRIPTOR };

/// A device as an image of its own (`-f host_device`).
pub static HOST_DEVICE: Format =
    Format { name: "host_device", create_options: DEVICE_OPTIONS, measure: None, ..raw::DESCRIPTOR };

/// A disk that holds nothing (`-f null-co`); there is nothing to be made.
pub static NULL_CO: Format =
    Format { name: "null-co", create_options: &[], create: None, stream: None, ..raw::DESCRIPTOR };

/// The same by another name (`-f null-aio`).
pub static NULL_AIO: Format = Format { name: "null-aio", ..NULL_CO };

/// Something else with faults (`-f blkdebug`); there is nothing to be made.
pub static BLKDEBUG: Format = Format { name: "blkdebug", ..NULL_CO };

/// The file of `size` bytes that a request asks for. What `preallocation` means is the format's business.
pub fn new_file(request: &CreateRequest<'_>, size: u64) -> Result<NewFile> {
    let options = request.options;
    let hint = |text| parse_size(text).map_err(|_| Error::invalid("Parameter 'extent_size_hint' expects a size"));
    let extent_size_hint = options.get("extent_size_hint").map(hint).transpose()?;
    Ok(NewFile {
        size,
        nocow: options.get("nocow") == Some("on"),
        extent_size_hint,
        no_flush: request.no_flush,
        ..NewFile::default()
    })
}
