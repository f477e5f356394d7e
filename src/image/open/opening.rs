//! A format at work on a file that is open: the image, and what there is to know about its backing file.

use serde_json::json;

use super::Opener;
use super::target::Target;
use crate::error::{Error, Result};
use crate::format::{Format, OpenRequest};
use crate::image::filename::resolve_backing;
use crate::image::node::{Child, Parts};
use crate::image::options::NodeOptions;
use crate::image::runtime::check_qcow2;
use crate::image::{Node, OpenFlags, Options, Reference, advice};
use crate::storage::FileRole;

/// What is to be done about the backing file of an image.
pub struct BackingPlan {
    /// What to open.
    pub target: Target,
    /// What the image itself says; the description of the image names the backing file if it is another one.
    pub recorded: String,
    /// Whether the user named another one.
    pub overridden: bool,
}

/// One image format at work on an opened file.
pub struct Opening<'a, 'b> {
    /// Who opens it.
    pub opener: &'b Opener<'a>,
    /// The format.
    pub format: &'static Format,
    /// What was asked for and is not used up yet.
    pub options: NodeOptions,
    /// How the image is opened.
    pub flags: OpenFlags,
}

impl Opening<'_, '_> {
    /// Opens the image in `file`. `probed` says that the format was guessed.
    pub fn open(&mut self, file: Child, probed: bool) -> Result<Node> {
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
    pub fn backing(&mut self, node: &Node) -> Result<Option<BackingPlan>> {
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
