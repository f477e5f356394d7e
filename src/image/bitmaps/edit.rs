//! Changing the bitmaps of an image: adding, removing, clearing, switching and merging them, several changes at a time.
//!
//! Changes are made in memory and reach the image together, in [`BitmapEdit::save`].

use super::super::{BitmapInfo, Layer, Node};
use super::{BitmapChange, bits, is_broken};
use crate::error::{Context, Error, Result};

/// Smallest granularity in bytes.
const GRANULARITY_MIN: u64 = 512;

/// A change of one bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BitmapAction {
    /// It shall exist, empty, and record writes; with this granularity in bytes, or the one that suits the image.
    Add(Option<u64>),
    /// It shall not exist any more.
    Remove,
    /// It shall be empty.
    Clear,
    /// Writes shall be recorded in it.
    Enable,
    /// Writes shall not be recorded in it.
    Disable,
    /// It shall have what this other bitmap has besides what it has itself.
    Merge(String),
}

impl BitmapAction {
    /// What the action is called in messages.
    pub fn name(&self) -> &'static str {
        match self {
            BitmapAction::Add(_) => "add",
            BitmapAction::Remove => "remove",
            BitmapAction::Clear => "clear",
            BitmapAction::Enable => "enable",
            BitmapAction::Disable => "disable",
            BitmapAction::Merge(_) => "merge",
        }
    }
}

/// The bitmaps of an image while they are being changed.
#[derive(Debug)]
pub struct BitmapEdit<'a> {
    node: &'a Node,
    bitmaps: Vec<BitmapChange>,
    changed: bool,
}

impl<'a> BitmapEdit<'a> {
    /// Begins with the bitmaps that the image has.
    pub fn new(node: &'a Node) -> Self {
        BitmapEdit { node, bitmaps: present(&*node.layer), changed: false }
    }

    /// Makes one change of the bitmap called `name`. Another bitmap to be merged is one of `source`, or of this image.
    pub fn apply(&mut self, action: &BitmapAction, name: &str, source: Option<&dyn Layer>) -> Result<()> {
        match action {
            BitmapAction::Add(granularity) => self.add(name, *granularity)?,
            BitmapAction::Remove => {
                let index = find(&self.bitmaps, name)?;
                self.bitmaps.remove(index);
            }
            BitmapAction::Clear => self.usable(name)?.bits = Some(Vec::new()),
            BitmapAction::Enable => self.usable(name)?.info.flags = vec!["auto"],
            BitmapAction::Disable => self.usable(name)?.info.flags.clear(),
            BitmapAction::Merge(other) => self.merge(name, other, source)?,
        }
        self.changed = true;
        Ok(())
    }

    /// Writes the changes to the image, all or none of them.
    pub fn save(self) -> Result<()> {
        match self.node.layer.bitmaps() {
            Some(bitmaps) if self.changed => bitmaps.replace(&self.bitmaps),
            // Opening it may have found something to mend.
            _ => self.node.layer.flush(),
        }
    }

    fn add(&mut self, name: &str, granularity: Option<u64>) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("Bitmap name cannot be empty"));
        }
        let granularity = match granularity {
            // The reference keeps 32 bits of it.
            Some(bytes) => match bytes & 0xffff_ffff {
                low if low >= GRANULARITY_MIN && low.is_power_of_two() => low as u32,
                _ => return Err(Error::invalid("Granularity must be power of 2 and at least 512")),
            },
            None => default_granularity(&*self.node.layer),
        };
        if find(&self.bitmaps, name).is_ok() {
            return Err(Error::invalid(format!("Bitmap already exists: {name}")));
        }
        let info = BitmapInfo { name: name.to_owned(), granularity, flags: vec!["auto"] };
        self.check_room(&info)?;
        self.bitmaps.push(BitmapChange { info, bits: Some(Vec::new()) });
        Ok(())
    }

    /// Whether the image can store another bitmap like this.
    fn check_room(&self, info: &BitmapInfo) -> Result<()> {
        let (layer, node) = (&*self.node.layer, self.node.node_name());
        if layer.format() != "qcow2" {
            return Err(Error::unsupported("Operation not supported")
                .context(format!("Can't store persistent bitmaps to {node}")));
        }
        let present: Vec<_> = self.bitmaps.iter().map(|bitmap| &bitmap.info).collect();
        let checked = match layer.bitmaps() {
            Some(bitmaps) => bitmaps.check_room(&present, info),
            None => Err(Error::unsupported("Cannot store dirty bitmaps in qcow2 v2 files")),
        };
        checked.context(|| format!("Can't make bitmap '{}' persistent in '{node}'", info.name))
    }

    fn merge(&mut self, name: &str, other: &str, source: Option<&dyn Layer>) -> Result<()> {
        let index = usable(&self.bitmaps, name)?;
        let size = self.node.layer.size();
        let (granularity, bits) = match source {
            Some(layer) => bitmap_of(layer, other, size)?,
            None => {
                let found = &self.bitmaps[usable(&self.bitmaps, other)?];
                (found.info.granularity, self.bits_of(found)?)
            }
        };
        let mut merged = self.bits_of(&self.bitmaps[index])?;
        let target = &mut self.bitmaps[index];
        let order = |granularity: u32| granularity.trailing_zeros();
        bits::merge(&mut merged, order(target.info.granularity), &bits, order(granularity), size);
        target.bits = Some(merged);
        Ok(())
    }

    /// The bits of a bitmap of this image, with the changes so far.
    fn bits_of(&self, bitmap: &BitmapChange) -> Result<Vec<u8>> {
        match (&bitmap.bits, self.node.layer.bitmaps()) {
            (Some(bits), _) => Ok(bits.clone()),
            (None, Some(bitmaps)) => bitmaps.read(&bitmap.info.name),
            (None, None) => Ok(Vec::new()),
        }
    }

    fn usable(&mut self, name: &str) -> Result<&mut BitmapChange> {
        let index = usable(&self.bitmaps, name)?;
        Ok(&mut self.bitmaps[index])
    }
}

/// The bitmaps that a layer has.
fn present(layer: &dyn Layer) -> Vec<BitmapChange> {
    let list = layer.bitmaps().map(|bitmaps| bitmaps.list()).unwrap_or_default();
    list.into_iter().map(|info| BitmapChange { info, bits: None }).collect()
}

/// Granularity and bits of a bitmap of another image, whose disk must have this size.
fn bitmap_of(layer: &dyn Layer, name: &str, size: u64) -> Result<(u32, Vec<u8>)> {
    let list = present(layer);
    let found = &list[usable(&list, name)?];
    let source = layer.size();
    if source != size {
        return Err(Error::invalid(format!(
            "Bitmaps are of different sizes (destination size is {size}, source size is {source}) and can't be merged"
        )));
    }
    let bits = layer.bitmaps().map_or_else(|| Ok(Vec::new()), |bitmaps| bitmaps.read(name))?;
    Ok((found.info.granularity, bits))
}

fn find(bitmaps: &[BitmapChange], name: &str) -> Result<usize> {
    let found = bitmaps.iter().position(|bitmap| bitmap.info.name == name);
    found.ok_or_else(|| Error::not_found(format!("Dirty bitmap '{name}' not found")))
}

/// As [`find`]; what the bitmap holds must be right.
fn usable(bitmaps: &[BitmapChange], name: &str) -> Result<usize> {
    let index = find(bitmaps, name)?;
    if is_broken(&bitmaps[index].info) {
        let error = Error::invalid(format!("Bitmap '{name}' is inconsistent and cannot be used"));
        return Err(error.hint("Try block-dirty-bitmap-remove to delete this bitmap from disk"));
    }
    Ok(index)
}

/// The cluster size, within reason.
fn default_granularity(layer: &dyn Layer) -> u32 {
    match layer.limits().cluster {
        // The format has no clusters.
        1 => 65536,
        cluster => cluster.clamp(4096, 65536) as u32,
    }
}
