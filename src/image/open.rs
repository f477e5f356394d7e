//! Opening: from what a user named to a [`Chain`] of layers.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::drivers::is_virtual;
use super::filename::{protocol_prefix, resolve_backing, strip_protocol};
use super::node::{Child, FileNode, Parts, ProtocolNode};
use super::nodename::NodeName;
use super::options::NodeOptions;
use super::probe::{Driver, PROBE_LEN, is_foreign_protocol, probe};
use super::runtime::{FileOptions, General, check_qcow2};
use super::spec::Options;
use super::{Chain, ImageSpec, Node, OpenContext, OpenFlags, Reference, Warning, advice, jsonname, runtime};
use crate::error::{Context, Error, Result};
use crate::format::{Format, OpenRequest, raw};
use crate::nearest::did_you_mean;
use crate::storage::{
    Creation, FileRole, FileStorage, NewFile, OpenMode, Permissions, Protocol, Storage, UnfinishedFile,
};
use crate::text;

/// How deep images may lie inside images.
const MAX_NESTING: usize = 32;

/// Opens the image and everything it lies on. Errors say what could not be opened: "Could not open 'x': ...".
pub fn open_chain(spec: &ImageSpec, flags: OpenFlags, context: &OpenContext) -> Result<Chain> {
    let text = spec.text();
    if flags.share && spec.forbids_sharing() {
        return Err(Error::invalid("--force-share/-U conflicts with image options"));
    }
    let opener = Opener { context, nesting: 0, again: false };
    context.patiently(|| opener.chain(Target::from(spec), flags)).context(|| format!("Could not open '{text}'"))
}

/// Opens one image without its backing file. Errors are as those of [`open_chain`].
pub fn open_layer(spec: &ImageSpec, flags: OpenFlags, context: &OpenContext) -> Result<Node> {
    Ok(open_chain(spec, OpenFlags { no_backing: true, ..flags }, context)?.into_top())
}

/// Opens an image whose bytes are in `storage`, and everything it lies on. `filename` is what messages call it and what names
/// inside it are relative to; without `format` that is probed. Errors are as those of [`open_chain`].
pub fn open_storage(
    storage: Arc<dyn Storage>,
    filename: &str,
    format: Option<&str>,
    flags: OpenFlags,
    context: &OpenContext,
) -> Result<Chain> {
    let bytes = Child::Protocol(ProtocolNode {
        storage,
        filename: filename.to_owned(),
        is_exact: true,
        driver: "memory",
        options: Options::new(),
        image: None,
        name: None,
        says_nothing: false,
        permissions: Permissions::NONE,
    });
    let target = Target { bytes: Some(bytes), ..Target::from(&ImageSpec::name(filename, format)) };
    Opener { context, nesting: 0, again: false }.chain(target, flags).context(|| format!("Could not open '{filename}'"))
}

/// Opens the backing file that the user wants the image called `image` to have, by the name that will stand there.
pub fn open_backing(
    image: &str,
    backing: &str,
    format: Option<&str>,
    flags: OpenFlags,
    context: &OpenContext,
) -> Result<Chain> {
    let filename = resolve_backing(image, backing)?;
    let spec = ImageSpec::name(&*filename, format);
    let opener = Opener { context, nesting: 0, again: false };
    context
        .patiently(|| opener.chain(Target::from(&spec), flags))
        .map_err(|error| advice::new_backing(error, image, backing, &filename))
}

/// Opens the top image of `chain`, which is open for reading, for writing. Meanwhile it is closed for a moment; should it
/// have become another file, that is an error.
pub fn reopen_for_writing(chain: Chain, flags: OpenFlags, context: &OpenContext) -> Result<Chain> {
    let mut nodes = chain.into_nodes();
    let old = nodes.remove(0);
    let (filename, options) = old.parts.given.clone();
    let (identity, name) = (old.identity(), old.filename.clone());
    drop(old);
    let mut options = NodeOptions::new(options);
    options.take_child("backing");
    options.remove("backing");
    let flags = OpenFlags { write: true, no_backing: true, ..flags };
    let opener = Opener { context, nesting: 0, again: true };
    let mut node = context.patiently(|| {
        let target = Target { filename: filename.clone(), options: options.clone(), bytes: None };
        let (node, _) = opener.image(target, flags)?;
        node.lock_raw().map(|()| node)
    })?;
    if node.identity() != identity {
        return Err(Error::os(libc::ESTALE).context(format!("'{name}' was replaced while it was being opened")));
    }
    node.filename = name;
    nodes.insert(0, node);
    Ok(Chain::new(nodes))
}

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

/// Something to be opened: a name, options, or both.
#[derive(Debug, Default)]
struct Target {
    filename: Option<String>,
    options: NodeOptions,
    /// What the image's bytes come from, where that is open already; the name is then for messages only.
    bytes: Option<Child>,
}

impl From<&ImageSpec> for Target {
    fn from(spec: &ImageSpec) -> Self {
        match spec {
            ImageSpec::Name { filename, format } => {
                let mut options = NodeOptions::default();
                if let Some(format) = format {
                    options.set("driver", format.as_str());
                }
                Target { filename: Some(filename.clone()), options, bytes: None }
            }
            ImageSpec::Options { options, .. } => {
                Target { filename: None, options: NodeOptions::new(options.clone()), bytes: None }
            }
        }
    }
}

impl Target {
    /// Turns a `json:` name into options. What the name says gives way to what was said besides.
    fn read_name(mut self) -> Result<Target> {
        let Some(text) = self.filename.as_deref().and_then(|name| name.strip_prefix("json:")) else {
            return Ok(self);
        };
        match jsonname::parse(text).context(|| "Could not parse the JSON options")? {
            Value::Object(options) => self.options.add_defaults(NodeOptions::new(options)),
            _ => return Err(Error::invalid("Invalid JSON object given")),
        }
        self.filename = None;
        Ok(self)
    }

    /// Takes out the driver.
    fn driver(&mut self) -> Result<Option<Driver>> {
        let name = self.options.string("driver").map(str::to_owned);
        self.options.remove("driver");
        name.map(|name| Driver::find(&name)).transpose()
    }
}

/// What is to be done about the backing file of an image.
struct BackingPlan {
    /// What to open.
    target: Target,
    /// What the image itself says; the description of the image names the backing file if it is another one.
    recorded: String,
    /// Whether the user named another one.
    overridden: bool,
}

pub(super) struct Opener<'a> {
    context: &'a OpenContext,
    nesting: usize,
    /// The image was open before.
    again: bool,
}

impl<'a> Opener<'a> {
    /// Opens an image and the images below it, one after the other: a chain may be longer than the stack.
    fn chain(&self, target: Target, flags: OpenFlags) -> Result<Chain> {
        let mut nodes: Vec<Node> = Vec::new();
        let mut seen = HashSet::new();
        let mut next = Some(BackingPlan { target, recorded: String::new(), overridden: false });
        while let Some(plan) = next.take() {
            let depth = nodes.len();
            let flags = match depth {
                0 => flags,
                _ => OpenFlags { write: false, fresh: false, created: false, more: Permissions::NONE, ..flags },
            };
            // Each level of the chain says that it could not open the one below.
            let nest = |error: Error| (0..depth).fold(error, |error, _| error.context("Could not open backing file"));
            let place = plan.target.filename.clone();
            let (node, backing) = self
                .image(plan.target, flags)
                .map_err(|error| match (nodes.last(), place) {
                    (Some(above), Some(place)) if !plan.overridden => {
                        advice::backing(error, &above.filename, &plan.recorded, &place)
                    }
                    _ => error,
                })
                .map_err(nest)?;
            // The same file in the same format, reached through names inside images alone, leads here again for ever.
            if !plan.overridden
                && node.layer.backing().is_some()
                && let Some(file) = node.identity()
                && !seen.insert((file, node.driver()))
            {
                let text = format!("Backing file '{}' creates an infinite loop.", node.filename);
                return Err(nest(Error::invalid(text)));
            }
            if plan.overridden
                && node.filename != plan.recorded
                && let Some(above) = nodes.last_mut()
            {
                above.override_backing(Value::Object(node.full_options()));
            }
            nodes.push(node);
            next = backing;
        }
        // As in the reference, raw images are locked when the whole chain is there: a conflict is the chain's error.
        nodes.iter().try_for_each(Node::lock_raw)?;
        Ok(Chain::new(nodes))
    }

    /// Opens one image. The second result is its backing file, still to be opened.
    fn image(&self, target: Target, flags: OpenFlags) -> Result<(Node, Option<BackingPlan>)> {
        if self.nesting > MAX_NESTING {
            return Err(Error::unsupported("Too many images inside images"));
        }
        let mut target = if target.bytes.is_some() { target } else { target.read_name()? };
        let given = (target.filename.clone(), target.options.map().clone());
        let no_backing = self.wants_no_backing(&mut target.options);
        let driver = target.driver()?;
        if let Some(Driver::Protocol(protocol)) = driver {
            let mut node = self.bare_file(protocol, target, flags)?;
            node.parts.given = given;
            return Ok((node, None));
        }
        if driver.is_none() && target.filename.is_none() && !has_child(&target.options, "file") {
            return Err(Error::invalid("Must specify either driver or file"));
        }
        let (flags, name) = general_options(&mut target.options, flags)?;
        let file = match target.bytes.take() {
            Some(bytes) => bytes,
            None => self.child("file", target.filename.take(), &mut target.options, flags)?,
        };
        let format = match driver {
            Some(Driver::Format(format)) => format,
            _ => self.probe(&file, flags)?,
        };
        // As in the reference, the file below comes first.
        let name = self.take_name(name)?;
        let mut opening = Opening { opener: self, format, options: target.options, flags };
        let mut node = opening.open(file, driver.is_none())?;
        node.parts.name = name;
        node.parts.given = given;
        let backing = if no_backing || flags.no_backing { None } else { opening.backing(&node)? };
        if no_backing && !flags.no_io && node.layer.backing().is_some() {
            node.override_backing(Value::Null);
        }
        match opening.options.first() {
            Some(unknown) => {
                let error = format!("Block format '{}' does not support the option '{unknown}'", format.name);
                Err(Error::invalid(error).advise(did_you_mean("", unknown, runtime::names())))
            }
            None => Ok((node, backing)),
        }
    }

    /// Whether the options say that there shall be no backing file.
    fn wants_no_backing(&self, options: &mut NodeOptions) -> bool {
        match options.get("backing") {
            Some(Value::Null) => {}
            Some(Value::String(text)) if text.is_empty() => self.context.warn(&Warning::Plain(
                "Use of \"backing\": \"\" is deprecated; use \"backing\": null instead".to_owned(),
            )),
            _ => return false,
        }
        options.remove("backing");
        true
    }

    pub(super) fn take_name(&self, name: Option<String>) -> Result<Option<NodeName>> {
        name.map(|name| self.context.names.take(name)).transpose()
    }

    /// The error of a reference to an open node by its name.
    fn no_such_node(&self, name: &str) -> Error {
        if self.context.names.contains(name) {
            return Error::unsupported(format!("Using the node '{name}' once more by its name is not supported yet"));
        }
        Error::not_found(format!("Cannot find device='{name}' nor node-name='{name}'"))
    }

    /// Opens a file that is the image: as raw, but by the name of its protocol.
    fn bare_file(&self, protocol: &'static str, target: Target, flags: OpenFlags) -> Result<Node> {
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

    /// The format that the first bytes of a file announce. Who only now wants to write has been told what there is to be
    /// told.
    fn probe(&self, file: &Child, flags: OpenFlags) -> Result<&'static Format> {
        let storage = file.storage();
        let len = storage.len()?;
        let mut head = [0; PROBE_LEN];
        let head = &mut head[..len.min(PROBE_LEN as u64) as usize];
        storage.read_at(head, 0).context(|| "Could not read image for determining its format")?;
        let name = file.base_name();
        let format = probe(head, name)?;
        self.context.policy.check_probed(name, format.name, flags.write, flags.no_io)?;
        if format.name == "raw" && flags.write && !self.again {
            self.context.warn(&Warning::Headed(format!(
                "WARNING: Image format was not specified for '{name}' and probing guessed raw.\n         \
                 Automatically detecting the format is dangerous for raw images, write operations on block 0 will be \
                 restricted.\n         Specify the 'raw' format explicitly to remove the restrictions."
            )));
        }
        Ok(format)
    }

    /// Opens what an image's bytes come from: the options of the child `name`, or a file name.
    pub(super) fn child(
        &self,
        name: &str,
        filename: Option<String>,
        options: &mut NodeOptions,
        flags: OpenFlags,
    ) -> Result<Child> {
        let child = options.take_child(name);
        if let Some(node) = options.string(name) {
            if filename.is_some() || !child.is_empty() {
                return Err(Error::invalid(
                    "Cannot reference an existing block device with additional options or a new filename",
                ));
            }
            return Err(self.no_such_node(node));
        }
        if filename.is_none() && child.is_empty() {
            return Err(Error::invalid(format!("A block device must be specified for \"{name}\"")));
        }
        let mut target = Target { filename, options: child, bytes: None }.read_name()?;
        let flags = OpenFlags { no_backing: false, no_io: false, fresh: false, created: false, ..flags };
        let protocol = match target.driver()? {
            Some(Driver::Format(format)) => {
                target.options.set("driver", format.name);
                let opener = Opener { context: self.context, nesting: self.nesting + 1, again: self.again };
                return opener.chain(target, flags).map(|chain| Child::Image(Arc::new(chain)));
            }
            Some(Driver::Protocol(protocol)) => Some(protocol),
            None => None,
        };
        self.file(protocol, target.filename, target.options, flags)
    }

    /// Opens a file or device. It is not locked yet: that depends on what is found in it.
    fn file(
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
        let own = FileOptions::take(&mut options, flags.cache.direct)?;
        let name = self.take_name(name)?;
        let protocol = if driver == "file" { Protocol::File } else { Protocol::HostDevice };
        let mode = OpenMode { write: flags.write, protocol };
        let storage = Arc::new(FileStorage::open(&filename, mode, flags.cache)?);
        match options.first() {
            Some(unknown) => {
                Err(Error::invalid(format!("Block protocol '{driver}' doesn't support the option '{unknown}'")))
            }
            None => Ok(Child::File(FileNode { storage, filename, driver, locking: own.locking, name })),
        }
    }
}

/// One image format at work on an opened file.
struct Opening<'a, 'b> {
    opener: &'b Opener<'a>,
    format: &'static Format,
    options: NodeOptions,
    flags: OpenFlags,
}

impl Opening<'_, '_> {
    fn open(&mut self, file: Child, probed: bool) -> Result<Node> {
        let Opening { opener, format, flags, .. } = *self;
        if format.name != "raw" {
            file.lock(FileRole::Metadata, flags)?;
        }
        let mut parts = Parts { strong: self.strong_options(), ..Parts::default() };
        parts.needs_options = parts.strong.len() > 1;
        parts.lock_later = (format.name == "raw").then_some(flags);
        for name in ["offset", "size"].into_iter().filter(|_| format.name == "raw") {
            if let Some(size) = self.options.take_size(name)? {
                self.options.set(name, size);
            }
        }
        let filename = file.base_name().to_owned();
        let mut options = std::mem::take(&mut self.options).into_map();
        let mut data_file = None;
        let request = OpenRequest {
            storage: file.storage(),
            filename: &filename,
            options: &mut options,
            flags,
            probed,
            context: opener.context,
            data_file: &mut data_file,
            nesting: opener.nesting,
        };
        let layer = match (format.open)(request) {
            Err(error) if !probed => return Err(advice::format(error, format, &*file.storage(), &filename)),
            result => result?,
        };
        self.options = NodeOptions::new(options);
        if format.name == "qcow2" {
            let version_3 = layer.info()?.format_specific.is_some_and(|data| data["compat"] != json!("0.10"));
            check_qcow2(&mut self.options, layer.limits().cluster, layer.size(), version_3)?;
        }
        parts.children.extend(data_file.map(|child| ("data-file", child)));
        parts.children.push(("file", file));
        Ok(Node::with_parts(layer, parts))
    }

    /// The options that are part of a description of this image.
    fn strong_options(&self) -> Options {
        let names: &[&str] = match self.format.name {
            "raw" => &["offset", "size"],
            "qcow2" => &["encrypt.key-secret"],
            _ => &[],
        };
        let mut strong = Options::new();
        strong.insert("driver".to_owned(), json!(self.format.name));
        for name in names {
            if let Some(value) = self.options.get(name) {
                strong.insert((*name).to_owned(), value.clone());
            }
        }
        strong
    }

    /// The backing file: what the options say, with what the image says for the rest.
    fn backing(&mut self, node: &Node) -> Result<Option<BackingPlan>> {
        let mut options = self.options.take_child("backing");
        if let Some(name) = self.options.string("backing") {
            if node.parts.name.as_ref().is_some_and(|own| own.as_str() == name) {
                let text = format!("Making '{name}' a backing child of '{name}' would create a cycle");
                return Err(Error::invalid(text));
            }
            let error = if options.is_empty() {
                self.opener.no_such_node(name)
            } else {
                Error::invalid("Cannot reference an existing block device with additional options or a new filename")
            };
            return Err(error.context("Could not open backing file"));
        }
        let recorded = node.layer.backing();
        let given = options.contains("file.filename");
        if !given && recorded.is_none() && options.is_empty() {
            return Ok(None);
        }
        if !self.format.backing {
            return Err(Error::invalid("Driver doesn't support backing files"));
        }
        let filename = match &recorded {
            Some(backing) if !given => {
                let filename = resolve_backing(node.base_name(), &backing.filename)?;
                let reference = Reference::Backing(&filename);
                self.opener.context.policy.check(&node.filename, reference, self.flags.created)?;
                Some(filename)
            }
            _ => None,
        };
        if let Some(format) = recorded.as_ref().and_then(|backing| backing.format.as_deref())
            && !options.contains("driver")
        {
            options.set("driver", format);
        }
        let recorded = recorded.map(|backing| backing.filename).unwrap_or_default();
        Ok(Some(BackingPlan { target: Target { filename, options, bytes: None }, recorded, overridden: given }))
    }
}

impl OpenRequest<'_> {
    /// Opens the external data file of the image that is being opened: the one the options name, or `recorded`, the name
    /// in the image. `expected` says whether the image has one. The result is `None` where it has none, and where only
    /// metadata will be looked at.
    pub fn open_data_file(&mut self, expected: bool, recorded: Option<&str>) -> Result<Option<Arc<dyn Storage>>> {
        let mut options = NodeOptions::new(std::mem::take(self.options));
        let result = self.data_file_child(expected, recorded, &mut options);
        options.take_child("data-file");
        options.remove("data-file");
        *self.options = options.into_map();
        match result? {
            Some(child) => {
                child.lock(FileRole::Data, self.flags)?;
                let storage = child.storage();
                *self.data_file = Some(child);
                Ok(Some(storage))
            }
            None => Ok(None),
        }
    }

    fn data_file_child(
        &self,
        expected: bool,
        recorded: Option<&str>,
        options: &mut NodeOptions,
    ) -> Result<Option<Child>> {
        if self.flags.no_io {
            return Ok(None);
        }
        match (expected, has_child(options, "data-file")) {
            (false, false) => return Ok(None),
            (_, true) => {}
            (true, false) => {
                let name = recorded.ok_or_else(|| Error::invalid("'data-file' is required for this image"))?;
                self.context.policy.check(self.filename, Reference::DataFile(name), self.flags.created)?;
                // As in the reference, the name of a file and nothing else: no `json:` or protocol is read out of it.
                options.set("data-file.filename", name);
            }
        }
        let opener = Opener { context: self.context, nesting: self.nesting, again: false };
        let child = opener.child("data-file", None, options, self.flags)?;
        if !expected {
            return Err(Error::invalid("'data-file' can only be set for images with an external data file"));
        }
        Ok(Some(child))
    }
}

/// Takes the options that every node has, and says how the node is to be opened and called.
pub(super) fn general_options(options: &mut NodeOptions, flags: OpenFlags) -> Result<(OpenFlags, Option<String>)> {
    let general = General::take(options)?;
    if flags.write && general.read_only == Some(true) {
        return Err(Error::invalid("Block node is read-only"));
    }
    if flags.write && general.force_share {
        return Err(Error::invalid("force-share=on can only be used with read-only images"));
    }
    let cache = general.cache(flags.cache);
    Ok((OpenFlags { cache, share: flags.share || general.force_share, ..flags }, general.node_name))
}

/// Whether options say anything about the child `name`.
fn has_child(options: &NodeOptions, name: &str) -> bool {
    let prefix = format!("{name}.");
    options.string(name).is_some() || options.map().keys().any(|key| key.starts_with(&prefix))
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

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
