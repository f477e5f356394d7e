//! What `map` shows: for each guest range, which image of a chain it comes from and where it lies.

use super::{Chain, Child, ExtentKind, Node};
use crate::error::Result;
use crate::storage::RangeKind;

/// What is known about a guest range without reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status<'a> {
    /// Guest offset of the first byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// How many images below the top it comes from; for what no image has, the last one that was asked.
    pub depth: usize,
    /// Some image of the chain has it, as data or as zeros.
    pub present: bool,
    /// It reads as zeros.
    pub zero: bool,
    /// It is stored as data.
    pub data: bool,
    /// It is stored compressed.
    pub compressed: bool,
    /// Where it lies as it is, or would lie if it were written.
    pub place: Option<Place<'a>>,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The host offset.
    pub offset: u64,
    /// The name of the file.
    pub file: &'a str,
}

impl Status<'_> {
    /// Whether `next`, which begins where this ends, is more of the same.
    pub fn continues_with(&self, next: &Status<'_>) -> bool {
        let place = self.place.map(|place| Place { offset: place.offset + self.len, ..place });
        *next == Status { start: next.start, len: next.len, place, ..self.clone() }
    }
}

impl Chain {
    /// What lies at `start`, for as far as that holds within `len` bytes; the range must lie within the disk.
    pub fn status(&self, start: u64, len: u64) -> Result<Status<'_>> {
        let mut len = len;
        for (depth, node) in self.nodes().iter().enumerate() {
            if let Some(chain) = node.filtered() {
                let below = chain.status(start, len.min(chain.size() - start))?;
                return Ok(Status { depth: depth + below.depth, ..below });
            }
            let extent = node.layer.map(start, len.min(node.layer.size() - start))?;
            len = extent.len;
            let place = |host: u64| node.data_child().map(|child| Place { offset: host, file: child.name() });
            let status =
                Status { start, len, depth, present: true, zero: false, data: true, compressed: false, place: None };
            return match extent.kind {
                ExtentKind::Compressed { .. } => Ok(Status { compressed: true, ..status }),
                ExtentKind::Data { encrypted: true, .. } => Ok(status),
                ExtentKind::Data { .. } if node.data_child().is_some_and(Child::says_nothing) => {
                    Ok(Status { present: false, data: false, ..status })
                }
                ExtentKind::Data { host, encrypted: false } => {
                    let (zero, len) = node.reserved_hole(host, len)?;
                    Ok(Status { len, zero, place: place(host), ..status })
                }
                ExtentKind::Zero { host, encrypted } => {
                    let host = host.filter(|_| !encrypted);
                    Ok(Status { zero: true, data: false, place: host.and_then(place), ..status })
                }
                ExtentKind::Unallocated => {
                    match self.nodes().get(depth + 1).map(|below| below.layer.size()) {
                        Some(size) if start < size => continue,
                        // Nothing below, or what is below ends before.
                        _ => {
                            let (host, run) = node.layer.reserved(start)?;
                            let (place, len) = (host.and_then(place), len.min(run));
                            Ok(Status { len, present: false, zero: true, data: false, place, ..status })
                        }
                    }
                }
            };
        }
        unreachable!("the last image has nothing below it")
    }
}

impl Node {
    /// The image below, where this one is a filter and nothing else.
    fn filtered(&self) -> Option<&Chain> {
        self.parts.protocol.and(self.data_child()).and_then(Child::filtered)
    }

    /// Whether data at `host` is a hole that was reserved in advance and never written, and for how long that holds.
    fn reserved_hole(&self, host: u64, len: u64) -> Result<(bool, u64)> {
        if !self.layer.is_reserved_in_advance() {
            return Ok((false, len));
        }
        let (kind, len) = self.layer.data_storage().extent(host, len)?;
        Ok((kind == RangeKind::Hole, len))
    }
}
