//! Checking an image: what is asked for, what is found, and how it is told.

use crate::error::{Error, Result};

/// What a check may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    #[default]
    Nothing,
    /// Space that is counted as used although nothing uses it; flags that depend on refcounts, if refcounts are right.
    Leaks,
    /// Everything that can be repaired.
    All,
}

/// What was found in an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Errors that endanger data.
    pub corruptions: u64,
    /// Clusters whose refcount is greater than it should be.
    pub leaks: u64,
    /// Places that could not be checked.
    pub check_errors: u64,
    /// Errors that were repaired.
    pub corruptions_fixed: u64,
    /// Leaks that were repaired.
    pub leaks_fixed: u64,
    /// The offset behind the last host cluster in use.
    pub image_end_offset: u64,
    /// Clusters of the virtual disk.
    pub total_clusters: u64,
    /// Those that have a place of their own.
    pub allocated_clusters: u64,
    /// Those that do not follow their predecessor on the host.
    pub fragmented_clusters: u64,
    /// Those that are compressed.
    pub compressed_clusters: u64,
}

/// Something that is told while the check goes on.
#[derive(Debug)]
pub enum CheckNote<'a> {
    /// A line of the report.
    Line(&'a str),
    /// A message of the program, after which the check fails.
    Failure(&'a Error),
    /// Why something could not be looked at; the check goes on.
    Cause(&'a Error),
}

/// Images whose own structures can be checked.
pub trait Checks {
    /// Looks at all structures, and repairs what `repair` allows; the image must then be open for writing. `note` is told
    /// what is found as it is found.
    fn check(&self, repair: Repair, note: &mut dyn FnMut(CheckNote<'_>)) -> Result<CheckReport>;
}
