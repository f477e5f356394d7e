//! Doing what a [`Request`] asks for: the order of events, and what has to be undone when one of them fails.
//!
//! Everything that can be checked is checked before the target is touched. From its creation to the end a guard removes
//! the target again (or empties a file that was there before) should anything fail.

use std::sync::Arc;

use super::request::Request;
use super::stream::Ends;
use super::target::{NewTarget, Target};
use super::to_stream;
use crate::cli::common::image_spec;
use crate::cli::output;
use crate::cli::progress::Ending;
use crate::cmd::digest::line as digest_line;
use crate::cmd::full::Contents;
use crate::cmd::source_snapshot::SnapshotChoice;
use crate::cmd::watch::Watch;
use crate::copy::verify::Reader;
use crate::copy::{self, CopyOptions, Job, Monitor, OffloadMode, Phase, Source, TargetState};
use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::image::{Chain, OpenContext, OpenFlags, bitmaps, file_identity, open_chain};
use crate::storage::{CacheMode, InputStream};

/// Zeros between data that are shorter than this are written like data onto a block device, unless `-S` says otherwise, in
/// bytes.
const DEVICE_SPARSE: u64 = 16 << 10;

/// Converts.
pub fn run(request: &Request<'_>, context: &OpenContext) -> Result<()> {
    let ends = Ends::find(request)?;
    let watch = Watch::new(ends.progress(&request.progress), request.quiet)?;
    let result = match &ends.output {
        Some(output) => to_stream::convert(request, context, &watch, &ends, output),
        None => convert(request, context, &watch, &ends),
    };
    watch.finish(Ending::of(&result));
    result?.print(request, &ends)
}

/// What is known about the target in the end, besides that it is there.
#[derive(Default)]
pub struct Findings {
    /// `--verify`: who has read it back.
    pub reader: Option<Reader>,
    /// `--digest`.
    pub digest: Option<String>,
}

impl Findings {
    fn print(&self, request: &Request<'_>, ends: &Ends) -> Result<()> {
        let reader = match self.reader {
            _ if request.quiet => None,
            None => None,
            Some(Reader::Independent) => Some("qcow2-rs, an independent reader"),
            Some(Reader::Own) => Some("this program's own reader"),
            Some(Reader::OwnInstead) => Some("this program's own reader, as qcow2-rs gave up"),
        };
        let mut text = reader.map_or_else(String::new, |reader| format!("Verified: read back by {reader}\n"));
        if let Some(digest) = &self.digest {
            text.push_str(&digest_line(digest, request.target));
        }
        match text.as_str() {
            "" => Ok(()),
            _ if ends.takes_stdout() => {
                output::notice(text.trim_end());
                Ok(())
            }
            text => output::print(text),
        }
    }
}

fn convert(request: &Request<'_>, context: &OpenContext, watch: &Watch, ends: &Ends) -> Result<Findings> {
    let (stream, chains) = open_sources(request, context, ends)?;
    let source_size = Source::new(&chains, false).size();
    let new = if request.existing { None } else { Some(NewTarget::check(request, source_size)?) };
    let backed = new.as_ref().map_or(request.backing.is_some(), NewTarget::is_backed);
    check_single(&chains, backed)?;
    if let Some(new) = &new {
        new.check_backing(request)?;
        new.check_compression(request)?;
        if stream.is_some() {
            new.check_growth()?;
        }
    }
    check_bitmaps(request, &chains)?;
    if let Some(new) = &new {
        new.check_bitmaps(request)?;
    }
    let cache = target_cache(request)?;
    let flags = OpenFlags { cache, ..OpenFlags::WRITE };
    let wanted = new.as_ref().map(NewTarget::wanted);
    let open = || match new {
        Some(new) => {
            if let Some(input) = &ends.input {
                let places = new.places()?;
                input.check_overlap(places.iter().map(|name| (name.as_str(), file_identity(name))))?;
            }
            new.create(request, &chains, flags, context)
        }
        None => Target::open_existing(request, &chains, flags, context),
    };
    let fill = |target: Target| {
        if let Some(input) = &ends.input {
            let files = target.chain.top().files();
            input.check_overlap(files.into_iter().map(|(name, identity)| (name, Some(identity))))?;
        }
        check_target(request, &target.chain, source_size, backed)?;
        fill(request, &chains, stream.as_ref(), target, backed, context, watch)
    };
    open().and_then(fill).map_err(|error| match &wanted {
        Some(wanted) => wanted.advise(error, Contents::Of(&chains), context),
        None => error,
    })
}

/// Copies the sources, `stream` or `chains`, into the target, and what belongs to that. Should it fail, the target is gone
/// again if this run has created it.
fn fill(
    request: &Request<'_>,
    chains: &[Chain],
    stream: Option<&InputStream>,
    target: Target,
    backed: bool,
    context: &OpenContext,
    watch: &Watch,
) -> Result<Findings> {
    let source = match stream {
        Some(stream) => Source::from_stream(stream),
        None => Source::new(chains, backed),
    };
    let options = CopyOptions {
        grows: stream.is_some() && target.can_grow(request),
        ..copy_options(request, &target.chain, backed)
    };
    let digest = request.digest.map(Digest::new);
    copy::run(Job { source: &source, target: &target.chain, options, monitor: watch, digest: digest.as_ref() })?;
    let Target { chain, spec, guard } = target;
    let flush = || chain.top().layer.flush().context(|| format!("Could not finish '{}'", request.target));
    watch.phase(Phase::Flush);
    flush()?;
    if request.bitmaps {
        watch.phase(Phase::Bitmaps);
        let warn = |warning: String| output::warn(&warning);
        let (from, to) = (&chains[0].top().layer, &chain.top().layer);
        bitmaps::copy_all(&**from, &**to, request.skip_broken_bitmaps, warn)?;
        flush()?;
    }
    let reader = if request.verify {
        // Opened anew, as what is in memory of the tables could be right where the file is wrong; the lock stays held.
        context.names.forget();
        let cache = target_cache(request)?;
        let flags = OpenFlags { share: true, cache, created: !request.existing, ..OpenFlags::READ };
        let again =
            open_chain(&spec, flags, context).context(|| format!("'{}' is not what it should be", request.target))?;
        Some(verify(request, chains, &again, watch)?)
    } else {
        None
    };
    drop(chain);
    guard.keep();
    Ok(Findings { reader, digest: digest.map(Digest::finish) })
}

/// Compares the finished target with the sources.
fn verify(request: &Request<'_>, chains: &[Chain], target: &Chain, watch: &Watch) -> Result<Reader> {
    // Panics of the second reader mean that our own takes over.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() != Some(copy::verify::SECOND_READER) {
            hook(info);
        }
    }));
    copy::verify::verify(&Source::new(chains, false), target, watch)
        .context(|| format!("'{}' is not what it should be", request.target))
}

/// The sources: a stream, or images.
pub fn open_sources(
    request: &Request<'_>,
    context: &OpenContext,
    ends: &Ends,
) -> Result<(Option<InputStream>, Vec<Chain>)> {
    if let Some(end) = &ends.input {
        return Ok((Some(end.open_input()?), Vec::new()));
    }
    let flags = OpenFlags { share: request.share, exclusive: true, cache: request.source_cache, ..OpenFlags::READ };
    let open = |name: &&str| {
        let spec = image_spec(name, request.source_opts, request.source_format)?;
        open_chain(&spec, flags, context)
    };
    let chains = request.sources.iter().map(open).collect::<Result<Vec<_>>>()?;
    load_snapshot(request, &chains)?;
    Ok((None, chains))
}

/// A target with a backing file has one source.
pub fn check_single(chains: &[Chain], backed: bool) -> Result<()> {
    if backed && chains.len() > 1 {
        return Err(Error::invalid(
            "Having a backing file for the target makes no sense when concatenating multiple input images",
        ));
    }
    Ok(())
}

/// The cache mode of the target.
pub fn target_cache(request: &Request<'_>) -> Result<CacheMode> {
    CacheMode::parse(request.target_cache)
        .ok_or_else(|| Error::invalid(format!("Invalid cache option: {}", request.target_cache)))
}

fn load_snapshot(request: &Request<'_>, chains: &[Chain]) -> Result<()> {
    let Some(choice) = &request.snapshot else { return Ok(()) };
    if matches!(choice, SnapshotChoice::Any(_)) && chains.len() > 1 {
        return Err(Error::invalid("No support for concatenating multiple snapshot"));
    }
    choice.show(&*chains[0].top().layer)
}

fn check_bitmaps(request: &Request<'_>, chains: &[Chain]) -> Result<()> {
    if !request.bitmaps {
        return Ok(());
    }
    if chains.len() > 1 {
        return Err(Error::invalid("Copying bitmaps only possible with single source"));
    }
    bitmaps::check_copy(&*chains[0].top().layer, request.skip_broken_bitmaps)
}

/// What can only be checked when the target is open.
fn check_target(request: &Request<'_>, target: &Chain, source_size: u64, backed: bool) -> Result<()> {
    let layer = &target.top().layer;
    if request.bitmaps && layer.bitmaps().is_none() {
        return Err(Error::unsupported(format!("Format driver '{}' does not support bitmaps", layer.format())));
    }
    if let Some(level) = request.compress {
        let Some(compressor) = layer.compressor(level) else {
            return Err(Error::unsupported("Compression not supported for this file format"));
        };
        compressor?;
    }
    if request.existing && layer.size() < source_size {
        return Err(Error::invalid("output file is smaller than input file"));
    }
    if request.bitmaps && layer.bitmaps().is_none() {
        return Err(Error::unsupported(format!("Format driver '{}' does not support bitmaps", layer.format())));
    }
    if request.target_is_zero && backed {
        return Err(Error::invalid("Cannot use --target-is-zero when the destination image has a backing file"));
    }
    Ok(())
}

/// Whether what the target's tables call unallocated or zero reads as zeros, and nobody wants to be told of zeros written
/// there.
fn tells_zeros(target: &Chain) -> bool {
    let layer = &target.top().layer;
    let records = layer.bitmaps().is_some_and(|all| all.list().iter().any(|bitmap| bitmap.flags.contains(&"auto")));
    layer.limits().cluster > 1
        && target.nodes().len() == 1
        && Arc::ptr_eq(layer.storage(), layer.data_storage())
        && !records
}

fn copy_options(request: &Request<'_>, target: &Chain, backed: bool) -> CopyOptions {
    let fresh = !request.existing && request.min_sparse() > 0 && target.top().layer.limits().zero_init;
    let state = if backed {
        // An existing target may hold anything behind the end of its backing file.
        let behind = target.nodes().get(1).filter(|_| !request.existing);
        let zero_from = behind.map_or(u64::MAX, |node| node.layer.size());
        TargetState::Backed { zero_from }
    } else if request.target_is_zero || fresh {
        TargetState::Zero
    } else if tells_zeros(target) {
        TargetState::Mapped
    } else {
        TargetState::Unknown
    };
    // Zeroing a short range of a device costs more than writing it.
    let device = state == TargetState::Unknown && target.top().layer.data_storage().limits().fixed_len;
    let default_sparse = if device { DEVICE_SPARSE } else { request.min_sparse() };
    let offload = if request.copy_range {
        OffloadMode::Copy
    } else if request.sparse.is_some() || request.salvage {
        // Somebody who says how zeros are to be found wants them to be looked for.
        OffloadMode::Never
    } else {
        OffloadMode::Clone
    };
    CopyOptions {
        workers: request.workers(),
        in_order: !request.out_of_order,
        min_sparse: request.sparse.unwrap_or(default_sparse),
        target: state,
        compress: request.compress,
        salvage: request.salvage,
        offload,
        rate: request.rate,
        grows: false,
    }
}
