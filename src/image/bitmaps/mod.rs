//! Persistent dirty bitmaps: which parts of a disk have been written since some moment.

pub(crate) mod bits;
mod edit;

use super::{BitmapInfo, Layer};
use crate::error::{Context, Error, Result};

pub use edit::{BitmapAction, BitmapEdit};

/// What one bitmap shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapChange {
    /// Its name, granularity and flags.
    pub info: BitmapInfo,
    /// Its bits, without zeros at the end; `None` for those of the bitmap that has this name now.
    pub bits: Option<Vec<u8>>,
}

/// The persistent bitmaps of a layer.
pub trait Bitmaps {
    /// All of them, in the order of the image.
    fn list(&self) -> Vec<BitmapInfo>;

    /// The bits of a bitmap, the first in the least significant bit of the first byte.
    fn read(&self, name: &str) -> Result<Vec<u8>>;

    /// Adds a bitmap with these bits.
    fn add(&self, bitmap: &BitmapInfo, bits: Vec<u8>) -> Result<()>;

    /// Whether `bitmap` can be stored besides those that are `present`.
    fn check_room(&self, present: &[&BitmapInfo], bitmap: &BitmapInfo) -> Result<()>;

    /// Makes these all the bitmaps of the image, in this order. After a crash either these are there or those that were
    /// there before.
    fn replace(&self, bitmaps: &[BitmapChange]) -> Result<()>;
}

/// Whether bits are not to be trusted, because a program that recorded writes did not finish.
fn is_broken(bitmap: &BitmapInfo) -> bool {
    bitmap.flags.contains(&"in-use")
}

/// Whether the bitmaps of `source` can be copied; asked before anything is done.
pub fn check_copy(source: &dyn Layer, skip_broken: bool) -> Result<()> {
    let Some(bitmaps) = source.bitmaps() else {
        return Err(Error::unsupported("Source lacks bitmap support"));
    };
    match bitmaps.list().iter().rfind(|bitmap| is_broken(bitmap)) {
        Some(broken) if !skip_broken => {
            let error = Error::invalid(format!("Cannot copy inconsistent bitmap '{}'", broken.name));
            Err(error.hint("Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it"))
        }
        _ => Ok(()),
    }
}

/// Copies the bitmaps of `source` to `target`, whose guest data is complete. Broken ones are left out, with a warning, if
/// `skip_broken`; otherwise they are an error.
pub fn copy_all(source: &dyn Layer, target: &dyn Layer, skip_broken: bool, mut warn: impl FnMut(String)) -> Result<()> {
    check_copy(source, skip_broken)?;
    let Some(from) = source.bitmaps() else { return Ok(()) };
    let Some(to) = target.bitmaps() else {
        return Err(Error::unsupported(format!("Format driver '{}' does not support bitmaps", target.format())));
    };
    let (broken, sound): (Vec<_>, Vec<_>) = from.list().into_iter().partition(is_broken);
    for bitmap in broken.iter().rev() {
        warn(format!("Skipping inconsistent bitmap '{}'", bitmap.name));
    }
    // The reference starts with the last one, which shows in what it complains about.
    let present = to.list();
    let is_there = |bitmap: &&BitmapInfo| present.iter().any(|other| other.name == bitmap.name);
    if let Some(last) = sound.last().filter(|last| source.size() != target.size() && !is_there(last)) {
        return Err(Error::invalid(format!(
            "Failed to populate bitmap {}: Bitmaps are of different sizes (destination size is {}, source size is {}) \
             and can't be merged",
            last.name,
            target.size(),
            source.size()
        )));
    }
    if let Some(twin) = sound.iter().rfind(is_there) {
        let error = Error::invalid(format!("Bitmap already exists: {}", twin.name));
        return Err(error.context(format!("Failed to create bitmap {}", twin.name)));
    }
    for bitmap in &sound {
        let bits = from.read(&bitmap.name).context(|| format!("Failed to populate bitmap {}", bitmap.name))?;
        to.add(bitmap, bits).context(|| format!("Failed to create bitmap {}", bitmap.name))?;
    }
    Ok(())
}
