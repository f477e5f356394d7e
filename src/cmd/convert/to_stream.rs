//! Converting into a stream.

use super::request::Request;
use super::run::{Findings, check_single, open_sources, target_cache};
use super::stream::{End, Ends};
use super::target::NewTarget;
use crate::cmd::watch::Watch;
use crate::copy::Source;
use crate::copy::stream::{self, StreamJob};
use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::image::{Chain, OpenContext};

/// Converts into `output`. Everything that can be checked is checked before it is opened.
pub fn convert(
    request: &Request<'_>,
    context: &OpenContext,
    watch: &Watch,
    ends: &Ends,
    output: &End,
) -> Result<Findings> {
    let name = request.target;
    let (stream, chains) = open_sources(request, context, ends)?;
    let new = NewTarget::check(request, Source::new(&chains, false).size())?;
    check_single(&chains, new.is_backed())?;
    new.check_backing(request)?;
    new.check_stream()?;
    target_cache(request)?;
    if stream.is_some() && new.format() == "qcow2" {
        return Err(Error::unsupported(
            "An image of format 'qcow2' cannot be made of a stream and be a stream itself, as its layout has to be known \
             before its first byte; write one of them to a file",
        ));
    }
    let files = chains.iter().flat_map(Chain::nodes).flat_map(|node| node.files());
    output.check_overlap(files.map(|(name, identity)| (name, Some(identity))))?;
    let converting = || format!("{name}: error while converting {}", new.format());
    let backing = new.try_backing(name, context).context(|| format!("Could not open '{name}'"))?;
    let mut image = new.stream(output.open_output().context(converting)?, context).context(converting)?;
    let source = match &stream {
        Some(stream) => Source::from_stream(stream),
        None => Source::new(&chains, new.is_backed()),
    };
    let digest = request.digest.map(Digest::new);
    let job = StreamJob {
        source: &source,
        backing: backing.as_ref(),
        workers: request.workers(),
        sparse: request.sparse,
        salvage: request.salvage,
        rate: request.rate,
        monitor: watch,
        digest: digest.as_ref(),
    };
    stream::run(&job, &mut *image)?;
    Ok(Findings { digest: digest.map(Digest::finish), ..Findings::default() })
}
