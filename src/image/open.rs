//! Opening: from what a user named to a [`Chain`] of layers.

mod data_file;
mod file;
mod opening;
mod target;

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use self::opening::{BackingPlan, Opening};
use self::target::Target;
use super::filename::resolve_backing;
use super::node::{Child, ProtocolNode};
use super::nodename::NodeName;
use super::options::NodeOptions;
use super::probe::{Driver, PROBE_LEN, probe};
use super::runtime::General;
use super::spec::Options;
use super::{Chain, ImageSpec, Node, OpenContext, OpenFlags, Warning, advice, runtime};
use crate::error::{Context, Error, Result};
use crate::format::Format;
use crate::nearest::did_you_mean;
use crate::storage::{Permissions, Storage};

pub use self::file::{check_create_storage, create_storage, plain_name};

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
                _ => OpenFlags {
                    write: false,
                    created: false,
                    resize: false,
                    keep_size: false,
                    more: Permissions::NONE,
                    ..flags
                },
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
        if driver.is_none() && target.filename.is_none() && !target.options.has_child("file") {
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
        let flags = OpenFlags { no_backing: false, no_io: false, created: false, ..flags };
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

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
