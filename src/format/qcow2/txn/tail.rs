//! The end of the file: it is cut off where nothing is in use, and lengthened to the last cluster that is.

use super::Writer;
use crate::error::Result;
use crate::storage::{RangeKind, Storage};

/// How many bytes that are not holes are read to find out that they are zeros.
const ZEROS_MAX: u64 = 4 << 20;

impl Writer {
    /// Cuts off free clusters at the end of the file, if some of them were given up by this writer: other space behind
    /// the last cluster may have been reserved by somebody. The refcounts that say so are on stable storage. Only zeros
    /// are cut off: if refcounts are wrong, nothing is lost by this.
    pub fn cut_tail(&mut self) -> Result<()> {
        match self.free_tail()? {
            Some((end, len)) if reads_as_zeros(&*self.file, end, len)? => self.cut(end),
            _ => Ok(()),
        }
    }

    /// As [`Writer::cut_tail`], whatever is in there: where nothing can be but what refcounts count.
    pub fn cut_free(&mut self) -> Result<()> {
        match self.free_tail()? {
            Some((end, _)) => self.cut(end),
            None => Ok(()),
        }
    }

    /// Where free clusters at the end of the file begin, and how long the file is.
    fn free_tail(&mut self) -> Result<Option<(u64, u64)>> {
        let bits = self.geometry.cluster_bits;
        let len = self.file.len()?;
        if self.file.limits().fixed_len || self.freed_end < self.geometry.clusters(len) {
            return Ok(None);
        }
        let used = self.refcounts.used_end()?;
        Ok(used.map(|used| (used << bits, len)).filter(|(end, len)| end < len))
    }

    fn cut(&mut self, end: u64) -> Result<()> {
        self.file.set_len(end)?;
        self.refcounts.cut(end >> self.geometry.cluster_bits);
        Ok(())
    }

    /// The file ends with the last cluster that is in use, also where nobody wrote that cluster to its end.
    pub(super) fn extend_file(&mut self) -> Result<()> {
        let Some(end) = self.refcounts.new_end() else { return Ok(()) };
        if !self.file.limits().fixed_len && self.file.len()? < end {
            self.file.set_len(end)?;
            self.unflushed = true;
        }
        Ok(())
    }
}

/// Whether there is nothing but holes and a few zeros from `at` to `end`.
fn reads_as_zeros(file: &dyn Storage, mut at: u64, end: u64) -> Result<bool> {
    let mut buffer = Vec::new();
    let mut budget = ZEROS_MAX;
    while at < end {
        let (kind, len) = file.extent(at, end - at)?;
        if kind == RangeKind::Data {
            if len > budget {
                return Ok(false);
            }
            budget -= len;
            buffer.resize(len as usize, 0);
            file.read_at(&mut buffer, at)?;
            if buffer.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
        at += len;
    }
    Ok(true)
}
