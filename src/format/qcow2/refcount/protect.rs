//! Which clusters hold metadata in use, so that a refcount that is wrongly zero cannot hand them out again.

use std::collections::BTreeMap;

use super::Run;

/// What kind of metadata a protected range is, in the order in which the reference names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetadataKind {
    /// The cluster of the header.
    Header,
    /// The L1 table in use.
    ActiveL1,
    /// An L2 table of the L1 table in use.
    ActiveL2,
    /// A refcount block.
    RefcountBlock,
    /// The refcount table.
    RefcountTable,
    /// The snapshot table.
    SnapshotTable,
    /// The L1 table of a snapshot.
    InactiveL1,
    /// The bitmap directory.
    BitmapDirectory,
}

impl MetadataKind {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            MetadataKind::Header => "qcow2_header",
            MetadataKind::ActiveL1 => "active L1 table",
            MetadataKind::ActiveL2 => "active L2 table",
            MetadataKind::RefcountBlock => "refcount block",
            MetadataKind::RefcountTable => "refcount table",
            MetadataKind::SnapshotTable => "snapshot table",
            MetadataKind::InactiveL1 => "inactive L1 table",
            MetadataKind::BitmapDirectory => "bitmap directory",
        }
    }
}

/// The protected runs. In a sound image they do not overlap; in a broken one each keeps its own entry.
#[derive(Debug, Default)]
pub(super) struct Protected {
    /// Lengths in clusters, by first cluster and kind.
    runs: BTreeMap<(u64, MetadataKind), u64>,
    /// No run is longer, so a search need not look further back than this.
    longest: u64,
    /// End of the last run.
    end: u64,
}

impl Protected {
    /// Adds a run.
    pub fn add(&mut self, run: Run, kind: MetadataKind) {
        if run.clusters == 0 {
            return;
        }
        let len = self.runs.entry((run.first, kind)).or_default();
        *len = run.clusters.max(*len);
        self.longest = self.longest.max(*len);
        self.end = self.end.max(run.first.saturating_add(*len));
    }

    /// Takes out the run of that kind that starts at `first`.
    pub fn remove(&mut self, first: u64, kind: MetadataKind) {
        self.runs.remove(&(first, kind));
    }

    /// What of the metadata `run` would overwrite.
    pub fn overlap(&self, run: Run) -> Option<MetadataKind> {
        self.find(run, |_| true)
    }

    /// What else than `own` lies where `run`, which is to hold that kind of metadata, does.
    pub fn overlap_other(&self, run: Run, own: MetadataKind) -> Option<MetadataKind> {
        self.find(run, |kind| kind != own)
    }

    fn find(&self, run: Run, wanted: impl Fn(MetadataKind) -> bool) -> Option<MetadataKind> {
        if run.first >= self.end || run.clusters == 0 {
            return None;
        }
        let from = (run.first.saturating_sub(self.longest), MetadataKind::Header);
        let to = (run.first.saturating_add(run.clusters), MetadataKind::Header);
        let mut near = self.runs.range(from..to);
        near.find(|((first, kind), len)| first.saturating_add(**len) > run.first && wanted(*kind)).map(|(key, _)| key.1)
    }
}
