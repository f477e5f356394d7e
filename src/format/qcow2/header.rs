//! The header. Specification: "Header"; its extensions are in [`extensions`].

#![deny(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

mod extensions;
mod rewrite;

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use self::extensions::{c_string, is_complete, unknown_feature_names};
pub use self::rewrite::replace as replace_header;
use super::geometry::Geometry;
use crate::error::{Context, Error, Result};
use crate::storage::Storage;
use crate::units::{SECTOR, align_down, index};

/// "QFI\xfb".
pub const MAGIC: u32 = 0x5146_49fb;

/// Longest backing file name in bytes.
pub const BACKING_NAME_MAX: u64 = 1023;
/// Largest L1 table in bytes that is accepted, as in the reference: 32 MiB, enough for 2 EiB with 64 KiB clusters.
pub const L1_BYTES_MAX: u64 = 32 << 20;
/// Largest refcount table in bytes that is accepted, as in the reference.
pub const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;
/// Most snapshots an image may have, as in the reference.
pub const SNAPSHOTS_MAX: u64 = 65536;

/// Incompatible feature bits: a program that does not know one must not open the image.
pub mod incompatible {
    /// Refcounts may be wrong; they have to be rebuilt before the image is written.
    pub const DIRTY: u64 = 1 << 0;
    /// Structures are damaged; the image must not be written.
    pub const CORRUPT: u64 = 1 << 1;
    /// Guest data lies in an external data file.
    pub const DATA_FILE: u64 = 1 << 2;
    /// The compression type is not zlib.
    pub const COMPRESSION: u64 = 1 << 3;
    /// L2 entries are extended.
    pub const EXTENDED_L2: u64 = 1 << 4;
    /// All that this program knows.
    pub const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Compatible feature bits: may be ignored.
pub mod compatible {
    /// Refcount updates may be put off (under the dirty bit).
    pub const LAZY_REFCOUNTS: u64 = 1 << 0;
}

/// Autoclear feature bits: a program that does not know one clears it before it writes.
pub mod autoclear {
    /// The bitmaps extension is consistent with the guest data.
    pub const BITMAPS: u64 = 1 << 0;
    /// The external data file can be read as a raw image.
    pub const DATA_FILE_RAW: u64 = 1 << 1;
    /// All that this program knows.
    pub const KNOWN: u64 = BITMAPS | DATA_FILE_RAW;
}

/// Values of the encryption method field.
pub mod crypt_method {
    /// Not encrypted.
    pub const NONE: u32 = 0;
    /// AES-128-CBC.
    pub const AES: u32 = 1;
    /// LUKS.
    pub const LUKS: u32 = 2;
}

/// How compressed clusters are compressed. Specification: "compression_type".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompressionType {
    /// Raw deflate.
    #[default]
    Zlib,
    /// Zstandard frames.
    Zstd,
}

impl CompressionType {
    /// The name, as options and `info` use it.
    pub fn name(self) -> &'static str {
        match self {
            CompressionType::Zlib => "zlib",
            CompressionType::Zstd => "zstd",
        }
    }
}

/// The part of the header that versions 2 and 3 share.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawV2 {
    magic: U32,
    version: U32,
    backing_file_offset: U64,
    backing_file_size: U32,
    cluster_bits: U32,
    size: U64,
    crypt_method: U32,
    l1_size: U32,
    l1_table_offset: U64,
    refcount_table_offset: U64,
    refcount_table_clusters: U32,
    nb_snapshots: U32,
    snapshots_offset: U64,
}

/// What version 3 appends, up to and including the padding behind the compression type.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawV3 {
    incompatible: U64,
    compatible: U64,
    autoclear: U64,
    refcount_order: U32,
    header_length: U32,
    compression_type: u8,
    padding: [u8; 7],
}

const V2_LEN: usize = 72;
const V3_LEN: usize = 112;

/// What is read of the first cluster to begin with, which is the whole of the smallest ones.
const HEAD: usize = 512;

/// What is read next, where the header goes on behind [`HEAD`]. It nearly always ends there; the rest of the cluster, up to
/// 2 MiB, is read where it does not.
const LONG_HEAD: usize = 4096;

/// The shortest version 3 header: everything before the compression type.
const V3_MIN_LEN: u64 = 104;
const _: () = assert!(size_of::<RawV2>() == V2_LEN && size_of::<RawV3>() == V3_LEN - V2_LEN);

/// Where the LUKS header lies. Specification: "Full disk encryption header pointer".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CryptoPointer {
    /// Host offset; a multiple of the cluster size.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// Where the bitmap directory lies. Specification: "Bitmaps extension".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapsPointer {
    /// Number of bitmaps.
    pub count: u32,
    /// Size of the directory in bytes.
    pub directory_size: u64,
    /// Host offset of the directory.
    pub directory_offset: u64,
}

/// What a header is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To read the image.
    Read,
    /// To write to it.
    Write,
    /// To check it, and perhaps to repair it: what a check reports and repairs is accepted.
    Check,
}

/// The header of an image with all its extensions. Versions differ only in what is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// log2 of the cluster size.
    pub cluster_bits: u32,
    /// log2 of the refcount width in bits.
    pub refcount_order: u32,
    /// Virtual size in bytes, as it is written (readers use whole sectors of it).
    pub size: u64,
    /// See [`crypt_method`].
    pub crypt_method: u32,
    /// Entries of the active L1 table.
    pub l1_size: u32,
    /// Host offset of the active L1 table.
    pub l1_offset: u64,
    /// Host offset of the refcount table.
    pub refcount_table_offset: u64,
    /// Size of the refcount table in clusters.
    pub refcount_table_clusters: u32,
    /// Number of snapshots.
    pub nb_snapshots: u32,
    /// Host offset of the snapshot table.
    pub snapshots_offset: u64,
    /// See [`incompatible`].
    pub incompatible: u64,
    /// See [`compatible`].
    pub compatible: u64,
    /// See [`autoclear`].
    pub autoclear: u64,
    /// How compressed clusters are compressed.
    pub compression: CompressionType,
    /// Name of the backing file, as it is written: bytes, not necessarily UTF-8.
    pub backing_file: Option<Vec<u8>>,
    /// Format of the backing file.
    pub backing_format: Option<Vec<u8>>,
    /// Name of the external data file.
    pub data_file: Option<Vec<u8>>,
    /// Where the LUKS header is.
    pub crypto: Option<CryptoPointer>,
    /// Where the bitmap directory is.
    pub bitmaps: Option<BitmapsPointer>,
    /// Header fields behind those this program knows, kept as they are.
    pub unknown_fields: Vec<u8>,
    /// Header extensions this program does not know: type and contents, kept as they are.
    pub unknown_extensions: Vec<(u32, Vec<u8>)>,
}

impl Header {
    /// The layout that follows from the header.
    pub fn geometry(&self) -> Geometry {
        Geometry {
            cluster_bits: self.cluster_bits,
            extended_l2: self.incompatible & incompatible::EXTENDED_L2 != 0,
            refcount_order: self.refcount_order,
            external_data: self.has_data_file(),
        }
    }

    /// Whether guest data lies in an external data file.
    pub fn has_data_file(&self) -> bool {
        self.incompatible & incompatible::DATA_FILE != 0
    }

    /// Whether the external data file can be used as a raw image, too.
    pub fn data_file_raw(&self) -> bool {
        self.autoclear & autoclear::DATA_FILE_RAW != 0
    }

    /// The virtual size in whole sectors, which is what the guest sees.
    pub fn guest_size(&self) -> u64 {
        align_down(self.size, SECTOR)
    }

    /// Reads and checks header and extensions of an image, with no more demands than the purpose makes.
    pub fn read(file: &dyn Storage, purpose: Purpose) -> Result<Header> {
        let mut first = vec![0; HEAD];
        file.read_at(&mut first, 0).context(|| "Could not read qcow2 header")?;
        let v2 = RawV2::read_from_bytes(&first[..V2_LEN]).expect("the length is right");
        let mut v3 = RawV3::read_from_bytes(&first[V2_LEN..V3_LEN]).expect("the length is right");
        if v2.magic.get() != MAGIC {
            return Err(Error::invalid("Image is not in qcow2 format"));
        }
        let version = v2.version.get();
        if !(2..=3).contains(&version) {
            return Err(Error::unsupported(format!("Unsupported qcow2 version {version}")));
        }
        let cluster_bits = v2.cluster_bits.get();
        if !(9..=21).contains(&cluster_bits) {
            return Err(Error::invalid(format!("Unsupported cluster size: 2^{cluster_bits}")));
        }
        let cluster_size = 1 << cluster_bits;
        let header_length = if version == 2 {
            v3 = RawV3::new_zeroed();
            v3.refcount_order = U32::new(4);
            V2_LEN as u64
        } else {
            u64::from(v3.header_length.get())
        };
        if version == 3 && header_length < V3_MIN_LEN {
            return Err(Error::invalid("qcow2 header too short"));
        }
        if header_length > cluster_size {
            return Err(Error::invalid("qcow2 header exceeds cluster size"));
        }
        if header_length <= V3_MIN_LEN {
            (v3.compression_type, v3.padding) = (0, [0; 7]);
        }
        let backing_offset = v2.backing_file_offset.get();
        if backing_offset > cluster_size {
            return Err(Error::invalid("Invalid backing file offset"));
        }
        let backing_end = backing_offset.saturating_add(v2.backing_file_size.get().into());
        // Behind the end of the file there are zeros, which end the extensions.
        for len in [LONG_HEAD, index(cluster_size)].map(|len| len.min(index(cluster_size))) {
            let known = first.len();
            if known < len && !is_complete(&first, header_length, backing_end) {
                first.resize(len, 0);
                file.read_at(&mut first[known..], known as u64)?;
            }
        }
        let end = if backing_offset == 0 { first.len() } else { index(backing_offset) };
        let area = first.get(index(header_length)..end).unwrap_or(&[]);
        let unknown_fields = first.get(V3_LEN..index(header_length)).unwrap_or(&[]).to_vec();
        let mut header = Header {
            version,
            cluster_bits,
            refcount_order: v3.refcount_order.get(),
            size: v2.size.get(),
            crypt_method: v2.crypt_method.get(),
            l1_size: v2.l1_size.get(),
            l1_offset: v2.l1_table_offset.get(),
            refcount_table_offset: v2.refcount_table_offset.get(),
            refcount_table_clusters: v2.refcount_table_clusters.get(),
            nb_snapshots: v2.nb_snapshots.get(),
            snapshots_offset: v2.snapshots_offset.get(),
            incompatible: v3.incompatible.get(),
            compatible: v3.compatible.get(),
            autoclear: v3.autoclear.get(),
            compression: CompressionType::Zlib,
            backing_file: None,
            backing_format: None,
            data_file: None,
            crypto: None,
            bitmaps: None,
            unknown_fields,
            unknown_extensions: Vec::new(),
        };
        header.check_features(v3.compression_type, purpose, area)?;
        header.check_tables(purpose)?;
        if header.crypt_method > crypt_method::LUKS {
            // The number is signed in the reference's message.
            return Err(Error::invalid(format!("Unsupported encryption method {}", header.crypt_method.cast_signed())));
        }
        header.read_extensions(area)?;
        header.read_backing_name(&first, backing_offset, u64::from(v2.backing_file_size.get()))?;
        Ok(header)
    }

    fn check_features(&mut self, compression: u8, purpose: Purpose, extensions: &[u8]) -> Result<()> {
        self.compression = match compression {
            0 => CompressionType::Zlib,
            1 => CompressionType::Zstd,
            other => return Err(Error::unsupported(format!("qcow2: unknown compression type: {other}"))),
        };
        let flagged = self.incompatible & incompatible::COMPRESSION != 0;
        if flagged != (self.compression != CompressionType::Zlib) {
            let must = if flagged { "must not" } else { "must" };
            let text = format!("qcow2: Compression type incompatible feature bit {must} be set");
            return Err(Error::invalid(text));
        }
        let unknown = self.incompatible & !incompatible::KNOWN;
        if unknown != 0 {
            let names = unknown_feature_names(unknown, extensions);
            return Err(Error::unsupported(format!("Unsupported qcow2 feature(s): {names}")));
        }
        if purpose == Purpose::Write && self.incompatible & incompatible::CORRUPT != 0 {
            return Err(Error::invalid("qcow2: Image is corrupt; cannot be opened read/write"));
        }
        let subcluster = self.geometry().subcluster_size();
        if subcluster < SECTOR {
            return Err(Error::invalid(format!("Unsupported subcluster size: {subcluster}")));
        }
        if self.refcount_order > 6 {
            let text = "Reference count entry width too large; may not exceed 64 bits";
            return Err(Error::invalid(text));
        }
        Ok(())
    }

    fn check_tables(&self, purpose: Purpose) -> Result<()> {
        let geometry = self.geometry();
        let cluster = geometry.cluster_size();
        let refcount_bytes = u64::from(self.refcount_table_clusters).saturating_mul(cluster);
        // A check makes a new one.
        if self.refcount_table_clusters == 0 && purpose != Purpose::Check {
            return Err(Error::invalid("Image does not contain a reference count table"));
        }
        let check = |what: &str, offset, bytes, max| check_table(geometry, what, offset, bytes, max);
        check("Reference count table", self.refcount_table_offset, refcount_bytes, REFCOUNT_TABLE_BYTES_MAX)?;
        // Table entries are at least 40 bytes long; the table itself is read and checked by `snapshot`.
        if purpose != Purpose::Check {
            let snapshot_bytes = u64::from(self.nb_snapshots).saturating_mul(40);
            check("Snapshot table", self.snapshots_offset, snapshot_bytes, SNAPSHOTS_MAX * 40)?;
        }
        check("Active L1 table", self.l1_offset, u64::from(self.l1_size).saturating_mul(8), L1_BYTES_MAX)?;
        if self.size.checked_next_multiple_of(geometry.l2_span()).is_none() {
            return Err(Error::os(libc::EFBIG).context("Could not refresh total sector count"));
        }
        let needed = geometry.l1_entries(self.size);
        if needed > i32::MAX as u64 {
            return Err(Error::os(libc::EFBIG).replace("Image is too big"));
        }
        if u64::from(self.l1_size) < needed {
            return Err(Error::invalid("L1 table is too small"));
        }
        Ok(())
    }

    fn read_backing_name(&mut self, first: &[u8], offset: u64, len: u64) -> Result<()> {
        if offset == 0 {
            return Ok(());
        }
        let field = first.get(index(offset)..).and_then(|rest| rest.get(..index(len)));
        let Some(field) = field.filter(|_| len <= BACKING_NAME_MAX) else {
            return Err(Error::invalid("Backing file name too long"));
        };
        let name = c_string(field);
        self.backing_file = (!name.is_empty()).then_some(name);
        Ok(())
    }

    /// The bytes of header, extensions and backing file name, as they lie from offset 0. Fails if they do not fit into
    /// one cluster.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.layout(true)
    }

    /// See [`Header::to_bytes`]. `names`: with the names of features.
    #[expect(clippy::cast_possible_truncation, reason = "all of it fits into a cluster")]
    fn layout(&self, names: bool) -> Result<Vec<u8>> {
        let mut out = vec![0; if self.version == 2 { V2_LEN } else { V3_LEN }];
        if self.version == 3 {
            out.extend_from_slice(&self.unknown_fields);
        }
        let header_length = out.len();
        self.put_extensions(&mut out, names);
        let backing_offset = out.len();
        let backing = self.backing_file.as_deref().unwrap_or(&[]);
        out.extend_from_slice(backing);
        if out.len() as u64 > 1 << self.cluster_bits {
            return Err(Error::os(libc::ENOSPC));
        }
        let v2 = RawV2 {
            magic: U32::new(MAGIC),
            version: U32::new(self.version),
            backing_file_offset: U64::new(if backing.is_empty() { 0 } else { backing_offset as u64 }),
            backing_file_size: U32::new(backing.len() as u32),
            cluster_bits: U32::new(self.cluster_bits),
            size: U64::new(self.size),
            crypt_method: U32::new(self.crypt_method),
            l1_size: U32::new(self.l1_size),
            l1_table_offset: U64::new(self.l1_offset),
            refcount_table_offset: U64::new(self.refcount_table_offset),
            refcount_table_clusters: U32::new(self.refcount_table_clusters),
            nb_snapshots: U32::new(self.nb_snapshots),
            snapshots_offset: U64::new(self.snapshots_offset),
        };
        out[..V2_LEN].copy_from_slice(v2.as_bytes());
        if self.version == 3 {
            let v3 = RawV3 {
                incompatible: U64::new(self.incompatible),
                compatible: U64::new(self.compatible),
                autoclear: U64::new(self.autoclear),
                refcount_order: U32::new(self.refcount_order),
                header_length: U32::new(header_length as u32),
                compression_type: self.compression as u8,
                padding: [0; 7],
            };
            out[V2_LEN..V3_LEN].copy_from_slice(v3.as_bytes());
        }
        Ok(out)
    }
}

/// Checks offset and size of a table that the header points to.
pub fn check_table(geometry: Geometry, what: &str, offset: u64, bytes: u64, max: u64) -> Result<()> {
    if bytes > max {
        return Err(Error::os(libc::EFBIG).replace(format!("{what} too large")));
    }
    if (i64::MAX as u64).saturating_sub(bytes) < offset || geometry.in_cluster(offset) != 0 {
        return Err(Error::invalid(format!("{what} offset invalid")));
    }
    Ok(())
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
