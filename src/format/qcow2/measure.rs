//! How large the file of a new image would be.
//!
//! The numbers are the reference's, which programs use to make volumes: an image that is written front to back fits into
//! them. They are counted for a file that holds header, tables and refcounts once and no leaks.

use super::crypt::CreateCrypt;
use super::geometry::Geometry;
use super::header::L1_BYTES_MAX;
use super::options;
use crate::error::{Context, Error, Result};
use crate::format::{CreateOptions, MeasureRequest, Measured};
use crate::image::{BitmapInfo, Chain};
use crate::number::parse_number;
use crate::units::align_up;

/// Length of an entry of the bitmap directory without the name. Specification: "Bitmap directory".
const BITMAP_ENTRY: u64 = 24;

/// Answers the question. Options that do not change sizes are not looked at, as in the reference.
pub fn measure(request: MeasureRequest<'_>) -> Result<Measured> {
    let plan = Plan::new(request.options)?;
    let geometry = plan.geometry;
    let crypt_len = crypt_len(&request, geometry)?;
    let mut size = align_up(request.size, geometry.cluster_size()).ok_or_else(too_large)?;
    // The reference asks this about the size that was named, not about the source's.
    if geometry.l1_entries(size) > L1_BYTES_MAX / 8 {
        return Err(Error::invalid("The image size is too large (try using a larger cluster size)"));
    }
    let mut data = 0;
    if let Some(source) = request.source {
        size = align_up(source.size(), geometry.cluster_size()).ok_or_else(too_large)?;
        // How much the source shares with the backing file is not known: at worst nothing.
        data = if plan.backed { size } else { data_len(source, geometry)? };
    }
    if plan.preallocated {
        data = size;
    }
    let metadata = metadata_len(geometry, size)?.checked_add(crypt_len).ok_or_else(too_large)?;
    let bitmaps = match request.source.and_then(|source| Some((source, source.top().layer.bitmaps()?))) {
        Some((source, bitmaps)) if plan.version >= 3 => Some(bitmaps_len(geometry, &bitmaps.list(), source.size())),
        _ => None,
    };
    let total = |data: u64| metadata.checked_add(data).ok_or_else(too_large);
    Ok(Measured { required: total(data)?, fully_allocated: total(size)?, bitmaps })
}

fn too_large() -> Error {
    Error::os(libc::EFBIG)
}

/// What the options say about the layout.
struct Plan {
    geometry: Geometry,
    version: u32,
    backed: bool,
    preallocated: bool,
}

impl Plan {
    /// Checks the options in the reference's order and words, which are not those of creation.
    fn new(options: &CreateOptions) -> Result<Plan> {
        let extended_l2 = options::is_on(options, "extended_l2");
        let cluster_bits = options::cluster_bits(options.get("cluster_size"), extended_l2)?;
        let version = match options.get("compat") {
            Some("0.10") => 2,
            None | Some("1.1") => 3,
            Some(other) => return Err(Error::invalid(format!("Invalid compatibility level: '{other}'"))),
        };
        let preallocated = match options.get("preallocation") {
            None | Some("off" | "metadata") => false,
            Some("falloc" | "full") => true,
            Some(other) => return Err(Error::invalid(format!("invalid parameter value: {other}"))),
        };
        let refcount_order = refcount_order(options.get("refcount_bits"), version)?;
        let backed = options.get("backing_file").is_some();
        let geometry = Geometry { cluster_bits, extended_l2, refcount_order, external_data: false };
        Ok(Plan { geometry, version, backed, preallocated })
    }
}

fn refcount_order(value: Option<&str>, version: u32) -> Result<u32> {
    let bits = value.map_or(Ok(16), parse_number).unwrap_or(0);
    if bits > 64 || !bits.is_power_of_two() {
        return Err(Error::invalid("Refcount width must be a power of two and may not exceed 64 bits"));
    }
    if version < 3 && bits != 16 {
        return Err(Error::invalid(
            "Different refcount widths than 16 bits require compatibility level 1.1 or above (use compat=1.1 or \
             greater)",
        ));
    }
    Ok(bits.trailing_zeros())
}

/// The length of the LUKS header, in whole clusters. Its options are checked as for creation, the key included.
fn crypt_len(request: &MeasureRequest<'_>, geometry: Geometry) -> Result<u64> {
    if request.options.get("encrypt.format") != Some("luks") {
        return Ok(0);
    }
    let mut options = request.options.clone();
    options.0.retain(|(name, _)| name != "encryption");
    let crypt = CreateCrypt::parse(&options, &request.context.secrets)?;
    let len = crypt.map_or(0, |crypt| crypt.header_len());
    Ok(geometry.clusters(len) * geometry.cluster_size())
}

/// Bytes of all clusters of the new image that data of the source falls into.
fn data_len(source: &Chain, geometry: Geometry) -> Result<u64> {
    let (mut at, mut total) = (0, 0);
    while at < source.size() {
        let status = source.status(at, source.size() - at).context(|| "Unable to get block status")?;
        if status.zero || !status.data {
            at += status.len;
            continue;
        }
        let start = geometry.cluster_start(at);
        at = geometry.clusters(at + status.len) * geometry.cluster_size();
        total += at - start;
    }
    Ok(total)
}

/// Bytes of header, L1 and L2 tables, refcount table and refcount blocks of an image in which all of `size` bytes (whole
/// clusters) are mapped.
fn metadata_len(geometry: Geometry, size: u64) -> Result<u64> {
    let l2_clusters = geometry.l1_entries(size);
    let l1_clusters = geometry.clusters(l2_clusters * 8);
    let counted = 1 + l1_clusters + l2_clusters;
    let clusters = counted.checked_add(geometry.clusters(size)).ok_or_else(too_large)?;
    (counted + refcount_clusters(geometry, clusters)).checked_mul(geometry.cluster_size()).ok_or_else(too_large)
}

/// Clusters of refcount blocks and the refcount table that count `clusters` clusters and themselves.
pub(super) fn refcount_clusters(geometry: Geometry, clusters: u64) -> u64 {
    let table_entries = geometry.cluster_size() / 8;
    let mut own = 0;
    loop {
        let blocks = (clusters + own).div_ceil(geometry.refcount_block_entries());
        let needed = blocks + blocks.div_ceil(table_entries);
        if needed == own {
            return own;
        }
        own = needed;
    }
}

/// Bytes that these bitmaps of a disk of `size` bytes take with all bits stored. Inconsistent ones count, too, as in
/// the reference.
fn bitmaps_len(geometry: Geometry, bitmaps: &[BitmapInfo], size: u64) -> u64 {
    let (mut clusters, mut directory) = (0, 0);
    for bitmap in bitmaps {
        let bits = geometry.clusters(size.div_ceil(u64::from(bitmap.granularity)).div_ceil(8));
        clusters += bits + geometry.clusters(bits * 8);
        directory += (BITMAP_ENTRY + crate::text::to_bytes(&bitmap.name).len() as u64).next_multiple_of(8);
    }
    (clusters + geometry.clusters(directory)) * geometry.cluster_size()
}

#[cfg(test)]
#[path = "measure_tests.rs"]
mod tests;
