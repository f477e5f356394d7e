//! `dd`: copies a part of a disk into a new image.

use std::sync::Arc;

use super::Command;
use super::full::{Contents, Wanted};
use super::overlap;
use super::watch::Watch;
use crate::cli::args::{Args, object, operands, value};
use crate::cli::common;
use crate::cli::output;
use crate::cli::progress::{Ending, Form};
use crate::copy::{self, CopyOptions, Job, OffloadMode, Source, TargetState};
use crate::error::{Context, Error, Result};
use crate::format::{CreateOptions, CreateRequest, protocol, raw};
use crate::image::{
    Chain, ImageSpec, Node, OpenContext, OpenFlags, creator, is_known_driver, open_chain, plain_name, storage_of,
};
use crate::number::{MAX_SIZE, NumberError, number_argument, parse_size};
use crate::storage::UnfinishedFiles;
use crate::units::{SECTOR, align_up};

/// The command.
pub static COMMAND: Command = Command {
    name: "dd",
    summary: "Copy a part of a disk into a new image",
    synopsis: "dd [--image-opts] [-U] [-f fmt] [-O output_fmt] [bs=block_size] [count=blocks] [skip=blocks] if=input \
               of=output",
    failure: 1,
    define,
    run,
};

/// The largest value of `bs=`, in bytes.
const MAX_BLOCK: u64 = i32::MAX as u64;

fn define(command: clap::Command) -> clap::Command {
    command
        // In this order the reference lists what an ambiguous option may have meant.
        .arg(object())
        .arg(common::format())
        .arg(common::image_opts())
        .arg(value("output-format", "FMT", "The format of the new image (raw)").short('O').long("output-format"))
        .arg(common::force_share())
        .arg(operands(
            "if=INPUT of=OUTPUT [bs=SIZE] [count=BLOCKS] [skip=BLOCKS]",
            "The image to read and the one to make; the block size (512); how many blocks of the input there are, and how \
             many of them at the start are left out",
        ))
}

/// What the operands say.
#[derive(Debug, Default)]
struct Operands<'a> {
    input: Option<&'a str>,
    output: Option<&'a str>,
    /// The block size in bytes.
    block: Option<u64>,
    /// How many blocks of the input count.
    count: Option<u64>,
    /// How many of them are left out at the start.
    skip: u64,
}

impl<'a> Operands<'a> {
    fn parse(words: &[&'a str]) -> Result<Self> {
        let mut operands = Operands::default();
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || number_argument(name, value, 0, MAX_SIZE);
            match name {
                "if" if word.contains('=') => operands.input = Some(value),
                "of" if word.contains('=') => operands.output = Some(value),
                "bs" if word.contains('=') => operands.block = Some(block_size(value)?),
                "count" if word.contains('=') => operands.count = Some(number()?),
                "skip" if word.contains('=') => operands.skip = number()?,
                _ => return Err(Error::invalid(format!("unrecognized operand {name}"))),
            }
        }
        Ok(operands)
    }

    /// Where to begin in a disk of `len` bytes, and where to end; `None` if it ends before that.
    fn range(&self, len: u64) -> Option<(u64, u64)> {
        let block = self.block.unwrap_or(SECTOR);
        let bytes = |blocks: u64| blocks.saturating_mul(block);
        let end = self.count.map_or(len, |count| len.min(bytes(count)));
        (bytes(self.skip) <= end).then(|| (bytes(self.skip), end))
    }
}

fn block_size(text: &str) -> Result<u64> {
    match parse_size(text) {
        Ok(size) if (1..=MAX_BLOCK).contains(&size) => Ok(size),
        Err(NumberError::Invalid) => Err(Error::invalid(format!("Invalid bs specified: '{text}'."))),
        _ => Err(Error::invalid(format!("Invalid bs specified. Must be between 1 and {MAX_BLOCK}."))),
    }
}

fn run(args: &Args) -> Result<i32> {
    let operands = Operands::parse(&args.operands())?;
    let (Some(input), Some(output)) = (operands.input, operands.output) else {
        return Err(Error::invalid("Must specify both input and output files"));
    };
    let (context, watch) = (args.context(), Watch::new(Form::None, false)?);
    let flags = OpenFlags { share: args.flag("force-share"), ..OpenFlags::READ };
    let chain = open_chain(&args.spec(input)?, flags, &context)?;
    let (start, end) = operands.range(chain.size()).unwrap_or_else(|| {
        output::report(&Error::invalid(format!("{input}: cannot skip to specified offset")));
        (0, 0)
    });
    copy_range(args, chain, (start, end), output, &context, &watch)?;
    watch.finish(Ending::Done);
    Ok(0)
}

/// Makes the target, and copies guest bytes `start..end` into it.
fn copy_range(
    args: &Args,
    chain: Chain,
    (start, end): (u64, u64),
    output: &str,
    context: &OpenContext,
    watch: &Watch,
) -> Result<()> {
    let name = args.text("output-format").unwrap_or("raw");
    if !is_known_driver(name) {
        return Err(Error::invalid("Unknown file format"));
    }
    let format = creator(name)?;
    let file = plain_name(output)?;
    let filename = protocol::name_with_driver(name, output);
    let creating = || format!("{output}: error while creating output image");
    let chains = [chain];
    overlap::check_new(&file, &chains).context(creating)?;
    let create = format.creation()?;
    let len = end - start;
    let size = align_up(len, SECTOR).unwrap_or(len);
    let guard = UnfinishedFiles::collect();
    let options = CreateOptions::default();
    create(CreateRequest { filename: &filename, size, options: &options, context, no_flush: false })
        .context(creating)?;
    let target = open_chain(&ImageSpec::name(output, Some(name)), OpenFlags::WRITE, context)?;

    let [chain] = chains;
    let part = [Chain::new(vec![Node::new(raw::part_of(storage_of(&Arc::new(chain)), start, len), output)])];
    let options = CopyOptions {
        workers: std::thread::available_parallelism().map_or(1, |count| count.get().min(16)),
        in_order: true,
        // As in the reference, everything is written, zeros too.
        min_sparse: 0,
        target: TargetState::Unknown,
        compress: None,
        salvage: false,
        offload: OffloadMode::Never,
        rate: None,
        grows: false,
    };
    let copied =
        copy::run(Job { source: &Source::new(&part, false), target: &target, options, monitor: watch, digest: None })
            .map_err(|error| error.reword(wording))
            .and_then(|()| target.top().layer.flush());
    drop(target);
    match copied {
        Ok(()) => guard.keep(),
        Err(error) => {
            drop(guard);
            let wanted = Wanted { format, filename, options: CreateOptions::default(), size };
            return Err(wanted.advise(error, Contents::Everything, context));
        }
    }
    Ok(())
}

/// What the reference says instead of the mover's words, which name a byte.
fn wording(context: &str) -> Option<&'static str> {
    let words = [
        ("error while writing at byte ", "error while writing to output image file"),
        ("error while reading at byte ", "error while reading from input image file"),
    ];
    words.iter().find(|(ours, _)| context.starts_with(ours)).map(|(_, words)| *words)
}
