//! Files and devices: by what protocol they are reached, opening and creating them.

use std::sync::Arc;

use super::target::Target;
use super::{Opener, general_options};
use crate::error::{Error, Result};
use crate::format::{OpenRequest, raw};
use crate::image::drivers::is_virtual;
use crate::image::filename::{protocol_prefix, strip_protocol};
use crate::image::node::{Child, FileNode, Parts};
use crate::image::options::NodeOptions;
use crate::image::probe::is_foreign_protocol;
use crate::image::runtime::FileOptions;
use crate::image::{Node, OpenContext, OpenFlags, Options, Warning};
use crate::storage::{Creation, FileRole, FileStorage, NewFile, OpenMode, Protocol, Storage, UnfinishedFile};
use crate::text;

/// Creates (or empties) the file for a new image. The guard removes it again unless it is told to keep it.
pub fn create_storage(
    filename: &str,
    new: &NewFile,
    context: &OpenContext,
) -> Result<(Arc<dyn Storage>, UnfinishedFile)> {
    let name = plain_name(filename)?;
    let Creation { storage, guard, warning } = context.patiently(|| match protocol_prefix(filename) {
        Some("file") => FileStorage::create_by(Protocol::File, &name, new),
        Some("host_device") => FileStorage::create_by(Protocol::HostDevice, &name, new),
        _ => FileStorage::create(&name, new),
    })?;
    if let Some(warning) = warning {
        context.warn(&Warning::Plain(warning));
    }
    Ok((Arc::new(storage), guard))
}

/// Fails where [`create_storage`] would, as far as that can be seen without a change.
pub fn check_create_storage(filename: &str, new: &NewFile, context: &OpenContext) -> Result<()> {
    let name = plain_name(filename)?;
    context.patiently(|| FileStorage::check_create(&name, new))
}

/// The name of a file in the file system: without the protocol in front. An error where the name begins with a protocol
/// that there is not.
pub fn plain_name(filename: &str) -> Result<String> {
    match find_protocol(filename)? {
        (driver, _) if is_virtual(driver) => {
            Err(Error::unsupported(format!("Protocol driver '{driver}' does not support image creation")))
        }
        (_, name) => Ok(name),
    }
}

impl Opener<'_> {
    /// Opens a file that is the image: as raw, but by the name of its protocol.
    pub(super) fn bare_file(&self, protocol: &'static str, target: Target, flags: OpenFlags) -> Result<Node> {
        let child = self.file(Some(protocol), target.filename, target.options, flags)?;
        let filename = child.base_name().to_owned();
        child.lock(FileRole::Raw, flags)?;
        let request = OpenRequest {
            storage: child.storage(),
            filename: &filename,
            options: &mut Options::new(),
            flags,
            probed: false,
            context: self.context,
            data_file: &mut None,
            nesting: self.nesting,
        };
        let layer = (raw::FORMAT.open)(request)?;
        let parts = Parts { protocol: Some(protocol), children: vec![("file", child)], ..Parts::default() };
        Ok(Node::with_parts(layer, parts))
    }

    /// Opens a file or device. It is not locked yet: that depends on what is found in it.
    pub(super) fn file(
        &self,
        driver: Option<&'static str>,
        filename: Option<String>,
        mut options: NodeOptions,
        flags: OpenFlags,
    ) -> Result<Child> {
        let (driver, filename) = match (driver, filename) {
            (Some(driver), filename) if is_virtual(driver) => {
                return self.virtual_node(driver, filename, options, flags);
            }
            (None, Some(name)) => match find_protocol(&name)? {
                (driver, name) if is_virtual(driver) => {
                    return self.virtual_node(driver, Some(name), options, flags);
                }
                file => file,
            },
            (Some(driver), Some(name)) => (driver, strip_protocol(&name, driver)),
            (Some(driver), None) => (driver, options.string("filename").unwrap_or_default().to_owned()),
            // A name given as an option is taken as it is: no protocol is read out of it.
            (None, None) => match options.string("filename") {
                Some(name) => (if is_device(name) { "host_device" } else { "file" }, name.to_owned()),
                None => return Err(Error::invalid("Must specify either driver or file")),
            },
        };
        options.remove("filename");
        if filename.is_empty() {
            return Err(Error::invalid(format!("The '{driver}' block driver requires a file name")));
        }
        let (flags, name) = general_options(&mut options, flags)?;
        if flags.native_aio && !options.contains("aio") {
            options.set("aio", "native");
        }
        let own = FileOptions::take(&mut options)?;
        let name = self.take_name(name)?;
        let protocol = if driver == "file" { Protocol::File } else { Protocol::HostDevice };
        let mode = OpenMode { write: flags.write, protocol };
        let storage = Arc::new(FileStorage::open(&filename, mode, flags.cache)?);
        own.check(flags.cache.direct)?;
        match options.first() {
            Some(unknown) => {
                Err(Error::invalid(format!("Block protocol '{driver}' doesn't support the option '{unknown}'")))
            }
            None => Ok(Child::File(FileNode { storage, filename, driver, locking: own.locking, name })),
        }
    }
}

/// Whether the name leads to a device.
fn is_device(name: &str) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(text::to_os(name))
        .is_ok_and(|info| info.file_type().is_block_device() || info.file_type().is_char_device())
}

/// How the file of this name is reached, and its name without the protocol.
fn find_protocol(name: &str) -> Result<(&'static str, String)> {
    if is_device(name) {
        return Ok(("host_device", name.to_owned()));
    }
    match protocol_prefix(name) {
        None => Ok(("file", name.to_owned())),
        Some("file") => Ok(("file", strip_protocol(name, "file"))),
        Some("host_device") => Ok(("host_device", strip_protocol(name, "host_device"))),
        Some("null-co") => Ok(("null-co", name.to_owned())),
        Some("null-aio") => Ok(("null-aio", name.to_owned())),
        Some("blkdebug") => Ok(("blkdebug", name.to_owned())),
        Some(foreign) if is_foreign_protocol(foreign) => {
            Err(Error::unsupported(format!("The protocol '{foreign}' is not supported yet, only local files are")))
        }
        Some(unknown) => Err(Error::invalid(format!("Unknown protocol '{unknown}'"))),
    }
}
