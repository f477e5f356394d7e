//! From a file to a [`Qcow2`].

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use super::bitmap::{self, BitmapSet};
use super::entry::L1Entry;
use super::header::{Header, Purpose};
use super::snapshot::SnapshotTable;
use super::tables::{L1Table, L2Cache};
use super::txn::DiscardPolicy;
use super::{Meta, Qcow2, crypt};
use crate::error::{Context, Error, Result};
use crate::format::OpenRequest;
use crate::image::{BackingRef, ImageLimits, Layer, OpenFlags, Options, Warning, as_bool};
use crate::storage::Storage;

/// Opens a qcow2 image.
pub fn open(mut request: OpenRequest<'_>) -> Result<Box<dyn Layer>> {
    let purpose = match request.flags {
        OpenFlags { check: true, .. } => Purpose::Check,
        OpenFlags { write: true, .. } => Purpose::Write,
        _ => Purpose::Read,
    };
    let header = Header::read(&*request.storage, purpose)?;
    check_limits(&header, &request.context.policy.limits)?;
    let geometry = header.geometry();
    let (crypt, crypt_info) = crypt::open(&header, &request.storage, request.options, request.flags, request.context)?;
    let l1 =
        L1Table::read(&*request.storage, header.l1_offset, header.l1_size).context(|| "Could not read L1 table")?;
    if request.context.policy.limits != ImageLimits::FORMAT {
        check_distinct(l1.entries())?;
    }
    let data = open_data_file(&header, &mut request)?;
    let snapshots = match purpose {
        Purpose::Check => SnapshotTable::default(),
        _ => SnapshotTable::read(&*request.storage, &header)?,
    };
    for snapshot in &snapshots.entries {
        let bytes = u64::from(snapshot.l1_size).saturating_mul(8);
        ImageLimits::check("Bytes of the L1 table of a snapshot", bytes, request.context.policy.limits.l1_bytes)?;
    }
    if let Some(warning) = bitmap::warning(&header) {
        request.context.warn(&Warning::Plain(warning.to_owned()));
    }
    let bitmaps = BitmapSet::read(&*request.storage, &header)?;
    let l2 = L2Cache::new(Arc::clone(&request.storage), geometry);
    let mut meta = Meta { l1, l2, snapshots, bitmaps, header: header.clone(), writer: None };
    if purpose == Purpose::Write {
        meta.open_writer(&request.storage, &data)?;
        meta.writer()?.discards = discard_policy(request.options);
    }
    Ok(Box::new(Qcow2 {
        file: request.storage,
        data,
        geometry,
        size: AtomicU64::new(header.guest_size()),
        compression: header.compression,
        crypt,
        crypt_info,
        backing: header
            .backing_file
            .as_deref()
            .map(|name| BackingRef { filename: text(name), format: header.backing_format.as_deref().map(text) }),
        unwritten: OnceLock::new(),
        warnings: request.context.warnings,
        writable: purpose == Purpose::Write,
        meta: Mutex::new(meta),
    }))
}

/// No image that is sound has one L2 table in two places; a crafted one becomes endless by it.
fn check_distinct(l1: &[L1Entry]) -> Result<()> {
    let mut tables: Vec<_> = l1.iter().filter_map(|entry| entry.table()).collect();
    tables.sort_unstable();
    match tables.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            let text =
                format!("The L2 table at {:#x} is referred to twice, which is refused with --untrusted", pair[0].0);
            Err(Error::unsupported(text))
        }
        None => Ok(()),
    }
}

/// Checks sizes that the header states against the limits of whoever opens the image.
fn check_limits(header: &Header, limits: &ImageLimits) -> Result<()> {
    let check = ImageLimits::check;
    let refcount_bytes = u64::from(header.refcount_table_clusters).saturating_mul(header.geometry().cluster_size());
    check("Bytes of the L1 table", u64::from(header.l1_size).saturating_mul(8), limits.l1_bytes)?;
    check("Bytes of the refcount table", refcount_bytes, limits.refcount_table_bytes)?;
    check("Number of snapshots", header.nb_snapshots.into(), limits.snapshots)?;
    check("Number of bitmaps", header.bitmaps.map_or(0, |pointer| pointer.count.into()), limits.bitmaps)
}

/// What the run-time options say about space that is given up. Their types are checked with those of the others, after
/// opening.
fn discard_policy(options: &Options) -> DiscardPolicy {
    let default = DiscardPolicy::default();
    let on = |name: &str, default| options.get(name).and_then(as_bool).unwrap_or(default);
    DiscardPolicy {
        request: on("pass-discard-request", default.request),
        snapshot: on("pass-discard-snapshot", default.snapshot),
        other: on("pass-discard-other", default.other),
        keep_places: on("discard-no-unref", default.keep_places),
    }
}

/// Names are bytes on disk; the rest of the program takes text.
pub(super) fn text(bytes: &[u8]) -> String {
    crate::text::from_bytes(bytes)
}

fn open_data_file(header: &Header, request: &mut OpenRequest<'_>) -> Result<Arc<dyn Storage>> {
    if !request.flags.no_io && header.data_file_raw() && !header.has_data_file() {
        return Err(Error::invalid("data-file-raw requires a data file"));
    }
    let name = header.data_file.as_deref().map(text);
    // Looking at metadata alone does not touch the data file, which may not be there.
    let data = request.open_data_file(header.has_data_file(), name.as_deref())?;
    Ok(data.unwrap_or_else(|| Arc::clone(&request.storage)))
}
