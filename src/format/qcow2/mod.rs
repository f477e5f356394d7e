//! qcow2, versions 2 and 3, written from the specification ("The QCOW2 image format").
//!
//! | module | what it knows |
//! |---|---|
//! | `geometry` | the numbers that follow from the header; offset types |
//! | `header` | the header and its extensions, on disk and as [`header::Header`] |
//! | `entry` | L1 and L2 entries |
//! | `open` | from a file to a [`Qcow2`] |
//! | `map` | guest offset to extent, through the L2 table cache |
//! | `tables` | the cache of L2 tables |
//! | `refcount` | refcounts of all widths, finding and giving back clusters |
//! | `txn` | the only writer of metadata: in which order it reaches the disk |
//! | `write` | places for guest bytes, zero clusters, publishing |
//! | `compress`, `crypt` | payload transformations |
//! | `snapshot`, `bitmap` | what their tables hold and the operations on them |
//! | `options`, `create` | creation options and new images |
//!
//! One lock ([`Qcow2::meta`]) guards all tables. Payload is read and written without it.

mod entry;
mod geometry;
mod header;

use std::sync::{Arc, Mutex};

use crate::storage::Storage;

/// An opened qcow2 image.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    /// The image file.
    file: Arc<dyn Storage>,
    /// Where guest data lies: the external data file, or the image file.
    data: Arc<dyn Storage>,
    /// The layout.
    geometry: geometry::Geometry,
    /// The tables.
    meta: Mutex<Meta>,
}

/// Everything in memory that stands for metadata on disk.
#[derive(Debug)]
struct Meta {
    header: header::Header,
}
