//! Putting an image onto another backing file so that the guest sees the same as before.
//!
//! Where the image has nothing of its own, what shows through from the present backing file is compared with what will
//! show through from the new one; what differs is copied into the image first. The mover does that ([`crate::copy`]):
//! large parts that neither has are found in the tables and cost nothing.

use crate::copy::{self, CopyOptions, Job, Monitor, NewBacking, OffloadMode, Source, TargetState};
use crate::error::Result;
use crate::image::{Chain, CompressionLevel, Node};

/// An image that is about to get another backing file.
pub struct Rebase<'a> {
    /// The image, open for writing, on its present backing file.
    pub image: &'a Chain,
    /// The new backing file; `None` for none.
    pub new: Option<&'a Chain>,
    /// Compress what is copied.
    pub compress: bool,
    /// How many threads read and compare.
    pub workers: usize,
    /// Who watches.
    pub monitor: &'a dyn Monitor,
}

impl Rebase<'_> {
    /// Copies into the image whatever it would lose. The image still lies on its present backing file afterwards.
    pub fn copy(&self) -> Result<()> {
        let depth = self.new.and_then(|new| depth_in(self.image, new));
        let source = Source::below(self.image, NewBacking { disk: self.new, depth });
        let options = CopyOptions {
            workers: self.workers,
            in_order: true,
            min_sparse: if can_say_zero(self.image.top())? { 1 } else { 0 },
            target: TargetState::Unknown,
            compress: self.compress.then_some(CompressionLevel::Default),
            salvage: false,
            offload: OffloadMode::Never,
            rate: None,
            grows: false,
        };
        let copied =
            copy::run(Job { source: &source, target: self.image, options, monitor: self.monitor, digest: None });
        // What has been copied is right whatever happens next; kept, its space is accounted for.
        let flushed = self.image.top().layer.flush();
        copied.map_err(|error| error.reword(wording)).and(flushed)
    }
}

/// What the reference says instead of the mover's words, which name a byte.
fn wording(context: &str) -> Option<&'static str> {
    let words = [
        ("error while writing at byte ", "Error while writing to COW image"),
        ("error while reading at byte ", "error while reading from old backing file"),
        ("error while reading block status at offset ", "error while reading image metadata"),
    ];
    words.iter().find(|(ours, _)| context.starts_with(ours)).map(|(_, words)| *words)
}

/// Whether the image has zero clusters: before version 3, an empty entry is all there is, and through that the new backing
/// file would show.
fn can_say_zero(node: &Node) -> Result<bool> {
    let specific = node.layer.info()?.format_specific;
    Ok(specific.is_none_or(|data| data.get("compat").is_none_or(|compat| compat != "0.10")))
}

/// How many layers below the top of `image` the chain `new` begins, if it is the rest of that chain.
fn depth_in(image: &Chain, new: &Chain) -> Option<usize> {
    let depth = image.nodes().len().checked_sub(new.nodes().len()).filter(|depth| *depth > 0)?;
    let below = &image.nodes()[depth..];
    below.iter().zip(new.nodes()).all(|(old, new)| is_same(old, new)).then_some(depth)
}

/// Whether both are the same file, seen in the same way.
fn is_same(old: &Node, new: &Node) -> bool {
    let plain = |node: &Node| !node.filename.starts_with("json:");
    old.driver() == new.driver()
        && plain(old)
        && plain(new)
        && old.identity().is_some()
        && old.identity() == new.identity()
}

#[cfg(test)]
#[path = "rebase_tests.rs"]
mod tests;
