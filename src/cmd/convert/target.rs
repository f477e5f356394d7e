//! The target of a conversion: what is checked before it is created, creating, opening.

use std::sync::Arc;

use super::request::Request;
use crate::cli::common::image_spec;
use crate::cli::create_options::{self, parse_create_options};
use crate::cmd::full::Wanted;
use crate::cmd::overlap;
use crate::copy::{Source, Status};
use crate::error::{Context, Error, Result};
use crate::format::{CreateOptions, CreateRequest, Format, StreamRequest, protocol};
use crate::image::{
    Chain, ImageSpec, OpenContext, OpenFlags, StreamImage, creator, is_known_driver, not_supported, open_backing,
    open_chain, plain_name,
};
use crate::storage::{OutputStream, UnfinishedFiles};
use crate::units::align_down;

/// An opened target.
pub struct Target {
    /// The image and its backing files.
    pub chain: Chain,
    /// What it was opened by.
    pub spec: ImageSpec,
    /// Removes what this run has created, should it fail.
    pub guard: UnfinishedFiles,
}

/// A target that is to be created.
pub struct NewTarget {
    format: &'static Format,
    /// The file to create.
    filename: String,
    options: CreateOptions,
    size: u64,
}

impl NewTarget {
    /// Checks format and options, in the reference's order. `size` is the virtual size in bytes.
    pub fn check(request: &Request<'_>, size: u64) -> Result<NewTarget> {
        let name = request.target_format.unwrap_or("raw");
        let format = creator(name)?;
        plain_name(request.target)?;
        let filename = protocol::name_with_driver(name, request.target);
        let known = [format.create_options, protocol::options_for(&filename)];
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
        Ok(NewTarget { format, filename, options, size })
    }

    /// What it takes to tell how large it will be.
    pub fn wanted(&self) -> Wanted {
        Wanted { format: self.format, filename: self.filename.clone(), options: self.options.clone(), size: self.size }
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
        let Some(level) = request.compress else { return Ok(()) };
        let Some(check_level) = self.format.compression else {
            return Err(Error::unsupported("Compression not supported for this file format"));
        };
        if self.options.get("encryption") == Some("on") || self.options.get("encrypt.format").is_some() {
            return Err(Error::unsupported("Compression and encryption not supported at the same time"));
        }
        if self.options.get("preallocation").is_some_and(|mode| mode != "off") {
            return Err(Error::unsupported("Compression and preallocation not supported at the same time"));
        }
        check_level(&self.options, level)
    }

    /// The names of the files that it will consist of.
    pub fn places(&self) -> Result<Vec<String>> {
        let data_file = self.options.data_file();
        std::iter::once(self.filename.as_str()).chain(data_file).map(plain_name).collect()
    }

    /// What cannot be made of a stream, whose length is known only at its end.
    pub fn check_growth(&self) -> Result<()> {
        let option = |name: &str, off: &str| self.options.get(name).is_some_and(|value| value != off);
        let text = if option("preallocation", "off") {
            "The length of a stream is not known before its end, so nothing can be preallocated"
        } else if option("data_file_raw", "off") {
            "The length of a stream is not known before its end, so that there can be no 'data_file_raw'"
        } else if self.is_backed() {
            "A stream cannot be laid over a backing file; write it to a file and convert that with -B"
        } else {
            return Ok(());
        };
        Err(Error::unsupported(text))
    }

    /// What cannot be if the target is a stream.
    pub fn check_stream(&self) -> Result<()> {
        const NAMES: [&str; 5] = ["preallocation", "data_file", "data_file_raw", "nocow", "extent_size_hint"];
        let given = |name: &&&str| self.options.get(name).is_some_and(|value| value != "off" && !value.is_empty());
        match NAMES.iter().find(given) {
            Some(name) => Err(Error::unsupported(format!(
                "Option '{name}' has no meaning for a target that is a stream; write to a file"
            ))),
            None => Ok(()),
        }
    }

    /// Begins it as a stream into `out`; nothing is written yet.
    pub fn stream(&self, out: OutputStream, context: &OpenContext) -> Result<Box<dyn StreamImage>> {
        let stream = self.format.stream.ok_or_else(|| {
            Error::unsupported(format!("Images of format '{}' cannot be written to a stream", self.format.name))
        })?;
        stream(StreamRequest { size: self.size, options: &self.options, context, out })
    }

    /// The name of its format.
    pub fn format(&self) -> &'static str {
        self.format.name
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

    /// Creates and opens it, to be filled from `chains`.
    pub fn create(
        self,
        request: &Request<'_>,
        chains: &[Chain],
        flags: OpenFlags,
        context: &OpenContext,
    ) -> Result<Target> {
        let name = request.target;
        let converting = || format!("{name}: error while converting {}", self.format.name);
        let backing = self.try_backing(name, context).context(|| format!("Could not open '{name}'"))?;
        let data_file = self.options.data_file();
        overlap::check_data_file(name, data_file).context(converting)?;
        for place in std::iter::once(name).chain(data_file) {
            overlap::check_new(&plain_name(place)?, chains).context(converting)?;
            overlap::check_backing(name, place, backing.as_ref())?;
        }
        drop(backing);
        let create = self.format.creation()?;
        if request.compress.is_some() && data_file.is_some() {
            let cluster = self.options.get("cluster_size").and_then(|size| size.parse::<u64>().ok());
            let cluster = cluster.filter(|size| size.is_power_of_two()).unwrap_or(65536);
            return Err(refuse_compressed(chains, cluster));
        }
        let guard = UnfinishedFiles::collect();
        let (filename, options) = (&self.filename, &self.options);
        let no_flush = flags.cache.no_flush;
        create(CreateRequest { filename, size: self.size, options, context, no_flush }).context(converting)?;
        let spec = self.spec(name)?;
        let chain = open_chain(&spec, OpenFlags { created: true, ..flags }, context)?;
        Ok(Target { chain, spec, guard })
    }

    /// Opens the backing file, so that what is wrong with it is known before the target is touched.
    pub fn try_backing(&self, name: &str, context: &OpenContext) -> Result<Option<Chain>> {
        let Some(backing) = self.backing() else { return Ok(None) };
        let backing_format = self.options.get("backing_fmt");
        if backing_format.is_some_and(|format| !is_known_driver(format)) {
            return Ok(None); // creating has its own message for that
        }
        open_backing(name, backing, backing_format, OpenFlags { share: true, ..OpenFlags::READ }, context)
            .map(Some)
            .context(|| "Could not open backing file")
    }

    /// How to open it: encrypted images need to know which secret is theirs.
    fn spec(&self, name: &str) -> Result<ImageSpec> {
        let Some(secret) = self.options.get("encrypt.key-secret") else {
            return Ok(ImageSpec::name(name, Some(self.format.name)));
        };
        let mut options = crate::image::Options::new();
        options.insert("driver".to_owned(), self.format.name.into());
        options.insert("file.filename".to_owned(), plain_name(name)?.into());
        options.insert("encrypt.key-secret".to_owned(), secret.into());
        Ok(ImageSpec::options(name, options))
    }
}

/// What `-o help` prints.
pub fn option_help(format: &str, target: Option<&str>) -> Result<String> {
    Ok(create_options::option_help(creator(format)?, target))
}

impl Target {
    /// Whether it can be made larger while a stream comes in.
    pub fn can_grow(&self, request: &Request<'_>) -> bool {
        let layer = &self.chain.top().layer;
        !request.existing && (layer.limits().cluster > 1 || !layer.storage().limits().fixed_len)
    }

    /// Opens a target that exists (`-n`), to be filled from `chains`.
    pub fn open_existing(
        request: &Request<'_>,
        chains: &[Chain],
        flags: OpenFlags,
        context: &OpenContext,
    ) -> Result<Target> {
        let spec = image_spec(request.target, request.target_opts, request.target_format)?;
        let chain = open_chain(&spec, flags, context)?;
        for (name, _) in chain.top().files() {
            overlap::check_sources(name, chains).context(|| format!("Could not open '{}'", request.target))?;
        }
        let layer = &chain.top().layer;
        let compressor = request.compress.and_then(|level| layer.compressor(level));
        if compressor.is_some() && !Arc::ptr_eq(layer.storage(), layer.data_storage()) {
            return Err(refuse_compressed(chains, layer.limits().cluster));
        }
        Ok(Target { chain, spec, guard: UnfinishedFiles::collect() })
    }
}

/// Compressed clusters cannot lie in an external data file. The reference finds out when it comes to the first one.
fn refuse_compressed(chains: &[Chain], cluster: u64) -> Error {
    let source = Source::new(chains, false);
    let mut at = 0;
    while at < source.size() {
        match source.map(at, source.size() - at) {
            Ok(found) if matches!(found.status, Status::Zero) => at += found.len,
            _ => break,
        }
    }
    let byte = if at < source.size() { align_down(at, cluster) } else { 0 };
    not_supported().context(format!("error while writing at byte {byte}"))
}
