//! `bitmap`: adds, removes, clears, switches and merges the persistent bitmaps of an image.

use super::Command;
use crate::cli::args::{Args, action, object, operands, parsed, value};
use crate::cli::common;
use crate::cli::output;
use crate::error::{Context, Error, Result};
use crate::image::{BitmapAction, BitmapEdit, Chain, ImageSpec, OpenFlags, open_chain};
use crate::number::size_argument;

/// The command.
pub static COMMAND: Command = Command {
    name: "bitmap",
    summary: "Add, remove, clear, switch or merge the persistent bitmaps of an image",
    synopsis: "bitmap (--merge source_bitmap | --add | --remove | --clear | --enable | --disable)... [-b source_file \
               [-F source_fmt]] [-g granularity] [--object objectdef] [--image-opts | -f fmt] filename bitmap",
    failure: 1,
    define,
    run,
};

fn define(command: clap::Command) -> clap::Command {
    command
        .arg(action("add", "Make the bitmap, empty and recording writes").long("add"))
        .arg(action("remove", "Delete the bitmap").long("remove"))
        .arg(action("clear", "Make the bitmap empty").long("clear"))
        .arg(action("enable", "Record writes in the bitmap from now on").long("enable"))
        .arg(action("disable", "Record no more writes in the bitmap").long("disable"))
        .arg(value("merge", "SOURCE", "Add to the bitmap what the bitmap SOURCE has").long("merge"))
        .arg(
            value("source-file", "FILE", "The image whose bitmap is merged (the same image)")
                .short('b')
                .long("source-file"),
        )
        .arg(value("source-format", "FMT", "The format of that image").short('F').long("source-format"))
        .arg(
            value("granularity", "SIZE", "With --add: how many bytes of the disk one bit stands for")
                .value_parser(parsed(|text| size_argument("granularity", text)))
                .short('g')
                .long("granularity"),
        )
        .arg(common::format())
        .arg(common::image_opts())
        .arg(object())
        .arg(operands("FILENAME BITMAP", "The image, and the name of the bitmap"))
}

fn run(args: &Args) -> Result<i32> {
    let actions = actions(args);
    if actions.is_empty() {
        return Err(Error::invalid("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"));
    }
    // As for the reference, no granularity is no choice of one.
    if args.get::<u64>("granularity").is_some_and(|bytes| *bytes > 0) && !args.given("add") {
        return Err(Error::invalid("granularity only supported with --add"));
    }
    if args.given("source-format") && !args.given("source-file") {
        return Err(Error::invalid("-F only supported with -b"));
    }
    if args.given("source-file") && !args.given("merge") {
        return Err(Error::invalid("Merge bitmap source file only supported with --merge"));
    }
    let operands = args.operands();
    let [filename, bitmap] = operands[..] else {
        return Err(Error::invalid("Expecting filename and bitmap name"));
    };
    let context = args.context();
    let chain = open_chain(&args.spec(filename)?, OpenFlags { no_backing: true, ..OpenFlags::WRITE }, &context)?;
    let source = args.text("source-file").map(|name| ImageSpec::name(name, args.text("source-format")));
    let source = source
        .map(|spec| open_chain(&spec, OpenFlags { no_backing: true, ..OpenFlags::READ }, &context))
        .transpose()?;
    edit(&chain, source.as_ref(), &actions, bitmap)?;
    Ok(0)
}

/// What to do, in the order of the command line.
fn actions(args: &Args) -> Vec<BitmapAction> {
    let granularity = args.get::<u64>("granularity").copied().filter(|bytes| *bytes != 0);
    let mut found = Vec::new();
    for (id, action) in [
        ("add", BitmapAction::Add(granularity)),
        ("remove", BitmapAction::Remove),
        ("clear", BitmapAction::Clear),
        ("enable", BitmapAction::Enable),
        ("disable", BitmapAction::Disable),
    ] {
        found.extend(args.places(id).into_iter().map(|place| (place, action.clone())));
    }
    let merges = args.texts("merge").into_iter().map(|source| BitmapAction::Merge(source.to_owned()));
    found.extend(args.places("merge").into_iter().zip(merges));
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, action)| action).collect()
}

/// Does it, up to the first action that fails; what was done before that one stays.
fn edit(chain: &Chain, source: Option<&Chain>, actions: &[BitmapAction], bitmap: &str) -> Result<()> {
    let mut edit = BitmapEdit::new(chain.top());
    let source = source.map(|chain| &*chain.top().layer);
    let done = actions.iter().try_for_each(|action| {
        let applied = edit.apply(action, bitmap, source);
        applied.context(|| format!("Operation {} on bitmap {bitmap} failed", action.name()))
    });
    let saved = edit.save().context(|| format!("Could not store the bitmaps of '{}'", chain.top().filename));
    match (done, saved) {
        (Err(error), Err(lost)) => {
            output::report(&lost);
            Err(error)
        }
        (done, saved) => done.and(saved),
    }
}
