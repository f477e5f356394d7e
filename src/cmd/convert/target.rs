//! The target of a conversion: what is checked before it is created, creating, opening.

use super::request::Request;
use super::run::image_spec;
use crate::cli::create_options::{self, parse_create_options};
use crate::error::{Context, Error, Result};
use crate::format::{CreateOptions, CreateRequest, Format, protocol};
use crate::image::{Chain, ImageSpec, OpenContext, OpenFlags, creator, is_known_driver, open_backing, open_chain};
use crate::storage::UnfinishedFile;

/// An opened target.
pub struct Target {
    /// The image and its backing files.
    pub chain: Chain,
    /// Remove what this run has created, should it fail.
    pub guards: Vec<UnfinishedFile>,
}

/// A target that is to be created.
pub struct NewTarget {
    format: &'static Format,
    options: CreateOptions,
    size: u64,
}

impl NewTarget {
    /// Checks format and options, in the reference's order. `size` is the virtual size in bytes.
    pub fn check(request: &Request<'_>, size: u64) -> Result<NewTarget> {
        let name = request.target_format.unwrap_or("raw");
        let format = creator(name)?;
        let known = [format.create_options, protocol::options_for(request.target)];
        let mut options = match &request.options {
            Some(list) => parse_create_options(list, &known)?,
            None => CreateOptions::default(),
        };
        // The size is that of the sources, whatever was asked for.
        options.0.retain(|(name, _)| name != "size");
        let knows = |name: &str| known.iter().copied().flatten().any(|desc| desc.name == name);
        if let Some(backing) = request.backing {
            if !knows("backing_file") {
                return Err(Error::unsupported(format!("Backing file not supported for file format '{name}'")));
            }
            options.set("backing_file", backing);
        }
        if let Some(backing_format) = request.backing_format {
            if !knows("backing_fmt") {
                let text = format!("Backing file format not supported for file format '{name}'");
                return Err(Error::unsupported(text));
            }
            options.set("backing_fmt", backing_format);
        }
        Ok(NewTarget { format, options, size })
    }

    /// Whether it will lie on a backing file.
    pub fn is_backed(&self) -> bool {
        self.backing().is_some()
    }

    fn backing(&self) -> Option<&str> {
        self.options.get("backing_file").filter(|name| !name.is_empty())
    }

    /// A backing file needs its format said.
    pub fn check_backing(&self, _request: &Request<'_>) -> Result<()> {
        if self.is_backed() && self.options.get("backing_fmt").is_none() {
            return Err(Error::invalid("Use of backing file requires explicit backing format"));
        }
        Ok(())
    }

    /// What does not go together with compression.
    pub fn check_compression(&self, request: &Request<'_>) -> Result<()> {
        if !request.compress {
            return Ok(());
        }
        if !self.format.compression {
            return Err(Error::unsupported("Compression not supported for this file format"));
        }
        if self.options.get("encryption") == Some("on") || self.options.get("encrypt.format").is_some() {
            return Err(Error::unsupported("Compression and encryption not supported at the same time"));
        }
        if self.options.get("preallocation").is_some_and(|mode| mode != "off") {
            return Err(Error::unsupported("Compression and preallocation not supported at the same time"));
        }
        Ok(())
    }

    /// Whether it can hold bitmaps.
    pub fn check_bitmaps(&self, request: &Request<'_>) -> Result<()> {
        let old = matches!(self.options.get("compat"), Some("0.10" | "v2"));
        if request.bitmaps && (self.format.name != "qcow2" || old) {
            let text = format!("Format driver '{}' does not support bitmaps", self.format.name);
            return Err(Error::unsupported(text));
        }
        Ok(())
    }

    /// Creates and opens it.
    pub fn create(self, request: &Request<'_>, flags: OpenFlags, context: &OpenContext) -> Result<Target> {
        let name = request.target;
        let converting = || format!("{name}: error while converting {}", self.format.name);
        self.try_backing(name, context).context(|| format!("Could not open '{name}'"))?;
        let Some(create) = self.format.create else {
            return Err(Error::unsupported(format!(
                "Format driver '{}' does not support image creation",
                self.format.name
            )));
        };
        let mut guards = vec![UnfinishedFile::before(name)];
        if let Some(data_file) = self.options.get("data_file") {
            guards.push(UnfinishedFile::before(data_file));
        }
        create(CreateRequest { filename: name, size: self.size, options: &self.options, context })
            .context(converting)?;
        let guards = guards.into_iter().map(UnfinishedFile::armed).collect();
        let chain = open_chain(&self.spec(name), flags, context)?;
        Ok(Target { chain, guards })
    }

    /// Opens the backing file and closes it again, so that what is wrong with it is known before the target is touched.
    fn try_backing(&self, name: &str, context: &OpenContext) -> Result<()> {
        let Some(backing) = self.backing() else { return Ok(()) };
        let backing_format = self.options.get("backing_fmt");
        if backing_format.is_some_and(|format| !is_known_driver(format)) {
            return Ok(()); // creating has its own message for that
        }
        open_backing(name, backing, backing_format, OpenFlags { share: true, ..OpenFlags::READ }, context)
            .map(drop)
            .context(|| "Could not open backing file")
    }

    /// How to open it: encrypted images need to know which secret is theirs.
    fn spec(&self, name: &str) -> ImageSpec {
        let Some(secret) = self.options.get("encrypt.key-secret") else {
            return ImageSpec::name(name, Some(self.format.name));
        };
        let mut options = crate::image::Options::new();
        options.insert("driver".to_owned(), self.format.name.into());
        options.insert("file.filename".to_owned(), name.into());
        options.insert("encrypt.key-secret".to_owned(), secret.into());
        ImageSpec::options(name, options)
    }
}

/// What `-o help` prints.
pub fn option_help(format: &str, target: Option<&str>) -> Result<String> {
    Ok(create_options::option_help(creator(format)?, target))
}

impl Target {
    /// Opens a target that exists (`-n`).
    pub fn open_existing(request: &Request<'_>, flags: OpenFlags, context: &OpenContext) -> Result<Target> {
        let spec = image_spec(request.target, request.target_opts, request.target_format)?;
        let chain = open_chain(&spec, flags, context)?;
        Ok(Target { chain, guards: Vec::new() })
    }
}
