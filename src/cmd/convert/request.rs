//! The arguments of `convert`, checked as far as that goes without opening anything.

use crate::cli::args::Args;
use crate::cli::create_options::{asks_for_help, take_compression_level};
use crate::cli::progress::Form;
use crate::cmd::source_snapshot::SnapshotChoice;
use crate::copy::rate::Rate;
use crate::digest::Algorithm;
use crate::error::{Error, Result};
use crate::image::CompressionLevel;
use crate::number::{number_argument, size_argument};
use crate::storage::CacheMode;
use crate::units::KIB;

/// The largest value of `-S`, in bytes.
const MAX_SPARSE: u64 = 16 << 20;
/// The largest value of `-m`.
const MAX_WORKERS: u64 = 16;
/// `-S` where it is not given, in bytes.
const DEFAULT_SPARSE: u64 = 4 * KIB;

/// What `convert` was asked for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The sources, at least one.
    pub sources: Vec<&'a str>,
    /// The target.
    pub target: &'a str,
    /// `-f`.
    pub source_format: Option<&'a str>,
    /// `--image-opts`: the sources are options.
    pub source_opts: bool,
    /// `-T`.
    pub source_cache: CacheMode,
    /// `-l`.
    pub snapshot: Option<SnapshotChoice>,
    /// `-U`.
    pub share: bool,
    /// `-O`, raw where it is not given; `None` with `--target-image-opts`.
    pub target_format: Option<&'a str>,
    /// `--target-image-opts`: the target is options.
    pub target_opts: bool,
    /// `-t`, still unchecked: the sources are opened before it is looked at.
    pub target_cache: &'a str,
    /// `-o`, all of them joined, without the level of compression.
    pub options: Option<String>,
    /// `-B`.
    pub backing: Option<&'a str>,
    /// `-F`.
    pub backing_format: Option<&'a str>,
    /// `-n`: the target exists.
    pub existing: bool,
    /// `--target-is-zero`.
    pub target_is_zero: bool,
    /// `-c`, and the level of compression that `-o` names.
    pub compress: Option<CompressionLevel>,
    /// `-C`.
    pub copy_range: bool,
    /// `--salvage`.
    pub salvage: bool,
    /// `--bitmaps`.
    pub bitmaps: bool,
    /// `--skip-broken-bitmaps`.
    pub skip_broken_bitmaps: bool,
    /// `-W`.
    pub out_of_order: bool,
    /// `-S` in bytes, if it was given.
    pub sparse: Option<u64>,
    /// `-m`, if it was given.
    pub workers: Option<usize>,
    /// `-r` in bytes per second; `None` without a limit.
    pub rate: Option<Rate>,
    /// What progress is shown.
    pub progress: Form,
    /// `-q`.
    pub quiet: bool,
    /// `--verify`.
    pub verify: bool,
    /// `--digest`.
    pub digest: Option<Algorithm>,
}

/// What came of looking at the arguments.
pub enum Parsed<'a> {
    /// Do this.
    Convert(Box<Request<'a>>),
    /// Print the creation options of this format, for this target.
    OptionHelp {
        /// The format.
        format: &'a str,
        /// The target, if there is one.
        target: Option<&'a str>,
    },
}

/// The value of `-S`.
pub fn parse_sparse(text: &str) -> Result<u64> {
    let size = size_argument("buffer size for sparse output", text)?;
    if size % 512 != 0 || size > MAX_SPARSE {
        return Err(Error::invalid(format!(
            "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to {MAX_SPARSE}. \
             Select 0 to disable sparse detection (fully allocates output)."
        )));
    }
    Ok(size)
}

/// The value of `-m`.
pub fn parse_workers(text: &str) -> Result<u64> {
    number_argument("number of coroutines", text, 1, MAX_WORKERS)
}

/// The value of `-r`.
pub fn parse_rate(text: &str) -> Result<u64> {
    size_argument("rate limit", text)
}

/// Checks the arguments in the reference's order.
pub fn parse(args: &Args) -> Result<Parsed<'_>> {
    let (options, level) = options(args)?;
    check_combinations(args, options.is_some(), level.is_some())?;
    let target_opts = args.flag("target-image-opts");
    let target_format = match args.text("output-format") {
        None if !target_opts => Some("raw"),
        format => format,
    };
    let mut sources = args.operands();
    let target = if sources.len() >= 2 { sources.pop() } else { None };
    if options.as_deref().is_some_and(asks_for_help) {
        return Ok(Parsed::OptionHelp { format: target_format.unwrap_or("raw"), target });
    }
    let Some(target) = target else { return Err(Error::invalid("Must specify image file name")) };
    let source_cache = args.text("source-cache").unwrap_or("writeback");
    let source_cache = CacheMode::parse(source_cache)
        .ok_or_else(|| Error::invalid(format!("Invalid source cache option: {source_cache}")))?;
    Ok(Parsed::Convert(Box::new(Request {
        sources,
        target,
        source_format: args.text("format"),
        source_opts: args.flag("image-opts"),
        source_cache,
        snapshot: args.get::<SnapshotChoice>("snapshot").cloned(),
        share: args.flag("force-share"),
        target_format,
        target_opts,
        target_cache: args.text("output-cache").unwrap_or("unsafe"),
        options,
        backing: args.text("backing").filter(|name| !name.is_empty()),
        backing_format: args.text("backing-format"),
        existing: args.flag("no-create"),
        target_is_zero: args.flag("target-is-zero"),
        compress: args.flag("compress").then_some(level.unwrap_or_default()),
        copy_range: args.flag("copy-range-offloading"),
        salvage: args.flag("salvage"),
        bitmaps: args.flag("bitmaps"),
        skip_broken_bitmaps: args.flag("skip-broken-bitmaps"),
        out_of_order: args.flag("oob-writes"),
        sparse: args.get::<u64>("sparse-size").copied(),
        // The parser has seen to the range.
        workers: args.get::<u64>("parallel").map(|count| *count as usize),
        rate: args.get::<u64>("rate").copied().filter(|rate| *rate > 0).map(Rate::After),
        progress: args.progress(),
        quiet: args.flag("quiet"),
        verify: args.flag("verify"),
        digest: args.get::<Algorithm>("digest").copied(),
    })))
}

/// The creation options, if there are any, and the level of compression if there is one.
fn options(args: &Args) -> Result<(Option<String>, Option<CompressionLevel>)> {
    let (left, level) = take_compression_level(&args.texts("options").join(","))?;
    Ok(((!left.is_empty()).then_some(left), level))
}

/// Options that exclude or need each other, in the reference's order. `creation` and `level`: whether `-o` has creation
/// options, and a level of compression.
fn check_combinations(args: &Args, creation: bool, level: bool) -> Result<()> {
    let copy_range = args.flag("copy-range-offloading");
    let checks = [
        (args.flag("skip-broken-bitmaps") && !args.flag("bitmaps"), "Use of --skip-broken-bitmaps requires --bitmaps"),
        (args.flag("compress") && copy_range, "Cannot enable copy offloading when -c is used"),
        (args.given("sparse-size") && copy_range, "Cannot enable copy offloading when -S is used"),
        (args.flag("salvage") && copy_range, "Cannot use copy offloading in salvaging mode"),
        (args.flag("target-image-opts") && !args.flag("no-create"), "--target-image-opts requires use of -n flag"),
        (args.flag("no-create") && creation, "-o has no effect when skipping image creation"),
        (args.flag("target-is-zero") && !args.flag("no-create"), "--target-is-zero requires use of -n flag"),
        (level && !args.flag("compress"), "compression_level has no effect without -c"),
        (args.given("digest") && args.flag("salvage"), "--digest has no meaning for a source that needs --salvage"),
        (args.flag("verify") && args.flag("salvage"), "--verify cannot compare with a source that needs --salvage"),
    ];
    match checks.iter().find(|(wrong, _)| *wrong) {
        Some((_, message)) => Err(Error::invalid(*message)),
        None => Ok(()),
    }
}

impl Request<'_> {
    /// `-S` in bytes.
    pub fn min_sparse(&self) -> u64 {
        self.sparse.unwrap_or(DEFAULT_SPARSE)
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.workers.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, |count| count.get().min(MAX_WORKERS as usize))
        })
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
