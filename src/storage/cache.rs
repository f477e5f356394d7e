//! Cache modes.

/// How writes reach the disk, as `-t` and `-T` say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheMode {
    /// Go around the page cache (`O_DIRECT`).
    pub direct: bool,
    /// Ignore requests to flush.
    pub no_flush: bool,
    /// Every write returns when it is on stable storage.
    pub writethrough: bool,
}

impl CacheMode {
    /// `writeback`: the page cache, flushed when it matters.
    pub const WRITEBACK: CacheMode = CacheMode { direct: false, no_flush: false, writethrough: false };
    /// `unsafe`: the page cache, never flushed.
    pub const UNSAFE: CacheMode = CacheMode { no_flush: true, ..CacheMode::WRITEBACK };
    /// `none`: around the page cache, flushed when it matters.
    pub const NONE: CacheMode = CacheMode { direct: true, ..CacheMode::WRITEBACK };
    /// `writethrough`: the page cache, and every write is stable.
    pub const WRITETHROUGH: CacheMode = CacheMode { writethrough: true, ..CacheMode::WRITEBACK };
    /// `directsync`: around the page cache, and every write is stable.
    pub const DIRECTSYNC: CacheMode = CacheMode { direct: true, ..CacheMode::WRITETHROUGH };

    /// The mode of that name.
    pub fn parse(name: &str) -> Option<CacheMode> {
        Some(match name {
            "none" | "off" => CacheMode::NONE,
            "writeback" => CacheMode::WRITEBACK,
            "unsafe" => CacheMode::UNSAFE,
            "directsync" => CacheMode::DIRECTSYNC,
            "writethrough" => CacheMode::WRITETHROUGH,
            _ => return None,
        })
    }
}
