//! What `info` shows about a qcow2 image.

use serde_json::{Map, Value, json};

use super::header::{Header, compatible, crypt_method, incompatible};
use super::open::text;
use super::{Meta, Qcow2};
use crate::error::Result;
use crate::image::{BitmapInfo, LayerInfo, Snapshots};

impl Qcow2 {
    /// Everything `info` shows.
    pub(super) fn layer_info(&self) -> Result<LayerInfo> {
        let snapshots = Snapshots::list(self)?;
        let meta = self.meta();
        Ok(LayerInfo {
            snapshots,
            cluster_size: Some(self.geometry.cluster_size()),
            encrypted: meta.header.crypt_method != crypt_method::NONE,
            dirty: meta.header.incompatible & incompatible::DIRTY != 0,
            format_specific: Some(self.format_specific(&meta)),
            ..LayerInfo::default()
        })
    }

    fn format_specific(&self, meta: &Meta) -> Value {
        let header: &Header = &meta.header;
        let mut data = Map::new();
        let mut put = |key: &str, value: Value| {
            data.insert(key.to_owned(), value);
        };
        let version_3 = header.version >= 3;
        put("compat", json!(if version_3 { "1.1" } else { "0.10" }));
        put("compression-type", json!(header.compression.name()));
        if version_3 {
            put("lazy-refcounts", json!(header.compatible & compatible::LAZY_REFCOUNTS != 0));
        }
        if !meta.bitmaps.is_empty() {
            let bitmap =
                |info: BitmapInfo| json!({"flags": info.flags, "name": info.name, "granularity": info.granularity});
            put("bitmaps", meta.bitmaps.list().into_iter().map(bitmap).collect());
        }
        put("refcount-bits", json!(self.geometry.refcount_bits()));
        if let Some(encrypt) = &self.crypt_info {
            put("encrypt", encrypt.clone());
        }
        if let Some(name) = header.data_file.as_deref().filter(|_| header.has_data_file()) {
            put("data-file", json!(text(name)));
        }
        if version_3 && header.has_data_file() {
            put("data-file-raw", json!(header.data_file_raw()));
        }
        if version_3 {
            put("corrupt", json!(header.incompatible & incompatible::CORRUPT != 0));
            put("extended-l2", json!(self.geometry.extended_l2));
        }
        data.into()
    }
}
