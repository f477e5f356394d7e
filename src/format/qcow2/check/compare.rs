//! Comparing refcounts with what was counted.

use super::Checker;
use super::counts::PIECE;
use super::disk::Unknown;
use crate::error::Result;
use crate::format::qcow2::refcount::{hex, width};
use crate::image::{CheckNote, Repair};

/// A refcount that is not what was counted.
#[derive(Clone, Copy, Debug)]
struct Difference {
    cluster: u64,
    /// On disk.
    found: u64,
    counted: u64,
}

impl Checker<'_> {
    /// Compares all refcounts with the counts, reports what differs, and corrects what `repair` allows.
    pub(super) fn compare(&mut self, repair: Repair) -> Result<()> {
        self.highest = 0;
        let mut lower = false;
        for index in self.blocks_to_compare() {
            let mut at = self.first_of_block(index);
            while let Some((end, differences)) = self.next_differences(index, at)? {
                for difference in differences {
                    lower |= self.differs(difference, repair)?;
                }
                at = end;
            }
        }
        if repair == Repair::Nothing {
            return Ok(());
        }
        // What was too small is right on disk before anything that was too great becomes free.
        self.disk.write()?;
        if lower { self.lower() } else { Ok(()) }
    }

    /// Reports one difference, and corrects it if it is a refcount that is too small. Says whether it is one that is too
    /// great and shall be corrected.
    fn differs(&mut self, difference: Difference, repair: Repair) -> Result<bool> {
        let Difference { cluster, found, counted } = difference;
        let leak = found > counted;
        // The reference makes new blocks wherever a refcount is zero. An image that was not closed has many such.
        let in_place = found > 0 || (self.only_counts && self.disk.has_block(cluster));
        if leak && repair != Repair::Nothing && self.keeps_leaks() {
            // Has been reported by the comparison that changes nothing.
            self.found.leaks += 1;
            return Ok(false);
        }
        let fix = match repair {
            Repair::Nothing => false,
            Repair::Leaks => leak,
            Repair::All => in_place,
        };
        let word = if fix {
            "Repairing"
        } else if leak {
            "Leaked"
        } else {
            "ERROR"
        };
        self.say(&format!("{word} cluster {cluster} refcount={found} reference={counted}"));
        self.rebuild |= !in_place;
        let number = match (fix, leak) {
            (true, true) => &mut self.found.leaks_fixed,
            (true, false) => &mut self.found.corruptions_fixed,
            (false, true) => &mut self.found.leaks,
            (false, false) => &mut self.found.corruptions,
        };
        *number += 1;
        if fix && !leak {
            self.set(cluster, counted)?;
        }
        Ok(fix && leak)
    }

    /// Corrects all refcounts that are too great.
    fn lower(&mut self) -> Result<()> {
        for index in self.blocks_to_compare() {
            let mut at = self.first_of_block(index);
            while let Some((end, differences)) = self.next_differences(index, at)? {
                for difference in differences.into_iter().filter(|difference| difference.found > difference.counted) {
                    self.set(difference.cluster, difference.counted)?;
                }
                at = end;
            }
        }
        self.disk.write()
    }

    fn set(&mut self, cluster: u64, value: u64) -> Result<()> {
        match self.disk.set(cluster, value) {
            Ok(()) => Ok(()),
            Err(Unknown::Unreadable(error)) => Err(error),
            Err(Unknown::Unaligned(..)) => Err(super::structures::unreadable()),
        }
    }

    fn first_of_block(&self, index: u64) -> u64 {
        index << self.geometry.refcount_block_bits()
    }

    /// Indices of the refcount blocks that are there or should be, in order.
    fn blocks_to_compare(&self) -> impl Iterator<Item = u64> + use<> {
        let bits = self.geometry.refcount_block_bits();
        let in_pieces = |number: u64| (number * PIECE) >> bits..(((number + 1) * PIECE - 1) >> bits) + 1;
        let mut ranges: Vec<_> = self.counts.numbers().into_iter().map(in_pieces).collect();
        let there = (0u64..).zip(&self.disk.table).filter(|(_, entry)| **entry != 0);
        ranges.extend(there.map(|(index, _)| index..index + 1));
        ranges.sort_unstable_by_key(|range| range.start);
        let (clusters, mut next) = (self.clusters, 0);
        let indices = ranges.into_iter().flat_map(move |range| {
            let rest = range.start.max(next)..range.end;
            next = next.max(range.end);
            rest
        });
        indices.take_while(move |index| index << bits < clusters)
    }

    /// The differences from cluster `at` of block `index` on, as far as they are looked for at a time, and where to go on;
    /// `None` at the end of the block.
    fn next_differences(&mut self, index: u64, at: u64) -> Result<Option<(u64, Vec<Difference>)>> {
        let bits = self.geometry.refcount_block_bits();
        let end = ((index + 1) << bits).min(self.clusters).min((at / PIECE + 1) * PIECE);
        if at >= end || at >> bits != index {
            return Ok(None);
        }
        let entries = self.geometry.refcount_block_entries();
        let order = self.geometry.refcount_order;
        let start = (at & (entries - 1)) as usize;
        let range = start..start + (end - at) as usize;
        let block = match self.disk.block(index) {
            Ok(block) => block,
            Err(unknown) => {
                self.cannot_tell(at..end, &unknown);
                return Ok(Some((end, Vec::new())));
            }
        };
        let counts = self.counts.bytes(at, range.len());
        let counts = counts.as_deref();
        let mut differences = Vec::new();
        let used = match (block, counts) {
            (None, None) => None,
            (Some(block), Some(counts)) if order == 4 && equal_16(&block[range.start * 2..range.end * 2], counts) => {
                counts.iter().rposition(|count| *count != 0)
            }
            _ => {
                let mut used = None;
                for offset in 0..range.len() {
                    let found = block.map_or(0, |block| width::get(block, order, range.start + offset));
                    let small = counts.map_or(0, |counts| counts[offset]);
                    if found == 0 && small == 0 {
                        continue;
                    }
                    used = Some(offset);
                    let cluster = at + offset as u64;
                    let counted = if small < u8::MAX { u64::from(small) } else { self.counts.get(cluster) };
                    if found != counted {
                        differences.push(Difference { cluster, found, counted });
                    }
                }
                used
            }
        };
        if let Some(used) = used {
            self.highest = self.highest.max(at + used as u64);
        }
        Ok(Some((end, differences)))
    }

    /// Reports refcounts that cannot be read.
    fn cannot_tell(&mut self, clusters: std::ops::Range<u64>, unknown: &Unknown) {
        self.announce(unknown);
        if let Unknown::Unreadable(error) = unknown {
            self.unreadable = true;
            (self.note)(CheckNote::Cause(error));
        }
        for cluster in clusters {
            self.say(&format!("Can't get refcount for cluster {cluster}: {}", text(unknown)));
            self.found.check_errors += 1;
        }
    }

    /// The first block in a wrong place is an event of its own.
    pub(super) fn announce(&mut self, unknown: &Unknown) {
        if let Unknown::Unaligned(offset, index) = unknown
            && !std::mem::replace(&mut self.announced, true)
        {
            self.say(&format!(
                "qcow2: Image is corrupt: Refblock offset {offset:#x} unaligned (reftable index: {}); further non-fatal \
                 corruption events will be suppressed",
                hex(*index)
            ));
        }
    }
}

/// Why a refcount cannot be told, in the system's words.
pub(super) fn text(unknown: &Unknown) -> String {
    match unknown {
        Unknown::Unaligned(..) => super::structures::unreadable().errno_text(),
        Unknown::Unreadable(error) => error.errno_text(),
    }
}

/// Whether 16-bit refcounts equal counts, none of which is too large for a byte.
fn equal_16(block: &[u8], counts: &[u8]) -> bool {
    block.chunks_exact(2).zip(counts).all(|(pair, count)| pair == [0, *count] && *count < u8::MAX)
}
