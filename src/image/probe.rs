//! Finding out the format of an image from its first bytes.

use crate::error::{Error, Kind, Result};
use crate::format::{self, FORMATS, Format, protocol};
use crate::nearest::did_you_mean;

/// How many bytes from the start of an image decide about its format.
pub const PROBE_LEN: usize = 512;

/// A format that the reference recognises and this program cannot open. Taking such an image for a raw disk would show
/// the guest the wrong bytes.
struct Foreign {
    name: &'static str,
    probe: fn(head: &[u8], filename: &str) -> u32,
}

/// Formats of the reference that are not supported yet.
static FOREIGN: &[Foreign] = &[
    Foreign { name: "bochs", probe: bochs },
    Foreign { name: "cloop", probe: cloop },
    Foreign { name: "dmg", probe: |_, filename| if filename.ends_with(".dmg") { 2 } else { 0 } },
    Foreign { name: "luks", probe: |head, _| starts(head, b"LUKS\xba\xbe\x00\x01") },
    Foreign { name: "parallels", probe: parallels },
    Foreign { name: "qcow", probe: |head, _| starts(head, b"QFI\xfb\x00\x00\x00\x01") },
    Foreign { name: "qed", probe: |head, _| starts(head, b"QED\0") },
    Foreign { name: "vdi", probe: |head, _| at(head, 64, &0xbeda_107f_u32.to_le_bytes()) },
    Foreign { name: "vhdx", probe: |head, _| starts(head, b"vhdxfile") },
    Foreign { name: "vmdk", probe: vmdk },
    Foreign { name: "vpc", probe: |head, _| starts(head, b"conectix") },
];

/// Drivers of the reference that are neither supported nor formats one can probe.
const FOREIGN_DRIVERS: &[&str] = &[
    "blklogwrites",
    "blkreplay",
    "blkverify",
    "compress",
    "copy-before-write",
    "copy-on-read",
    "ftp",
    "ftps",
    "gluster",
    "http",
    "https",
    "host_cdrom",
    "io_uring",
    "iscsi",
    "iser",
    "nbd",
    "nfs",
    "nvme",
    "nvme-io_uring",
    "preallocate",
    "quorum",
    "rbd",
    "replication",
    "snapshot-access",
    "ssh",
    "throttle",
    "virtio-blk-vfio-pci",
    "virtio-blk-vhost-user",
    "virtio-blk-vhost-vdpa",
    "vvfat",
];

/// A driver as `-f` and `driver=` name it.
#[derive(Clone, Copy, Debug)]
pub enum Driver {
    /// A format.
    Format(&'static Format),
    /// A way to reach bytes: `file`, `host_device`, `null-co`, `null-aio` or `blkdebug`.
    Protocol(&'static str),
}

impl Driver {
    /// The driver called `name`.
    pub fn find(name: &str) -> Result<Driver> {
        if let Some(format) = format::find(name) {
            return Ok(Driver::Format(format));
        }
        match name {
            "file" => Ok(Driver::Protocol("file")),
            "host_device" => Ok(Driver::Protocol("host_device")),
            "null-co" => Ok(Driver::Protocol("null-co")),
            "null-aio" => Ok(Driver::Protocol("null-aio")),
            "blkdebug" => Ok(Driver::Protocol("blkdebug")),
            _ if FOREIGN.iter().any(|foreign| foreign.name == name) => Err(unsupported_format(name)),
            _ if FOREIGN_DRIVERS.contains(&name) => {
                Err(Error::unsupported(format!("The block driver '{name}' is not supported yet")))
            }
            _ => Err(Error::invalid(format!("Unknown driver '{name}'")).advise(mistyped(name))),
        }
    }
}

/// What makes images of the format (or, as the reference allows it, by the protocol) called `name`.
pub fn creator(name: &str) -> Result<&'static Format> {
    match Driver::find(name) {
        Ok(Driver::Format(format)) => Ok(format),
        Ok(Driver::Protocol("file")) => Ok(&protocol::FILE),
        Ok(Driver::Protocol("host_device")) => Ok(&protocol::HOST_DEVICE),
        Ok(Driver::Protocol("null-co")) => Ok(&protocol::NULL_CO),
        Ok(Driver::Protocol("null-aio")) => Ok(&protocol::NULL_AIO),
        Ok(Driver::Protocol(_)) => Ok(&protocol::BLKDEBUG),
        Err(error) if matches!(error.kind(), Kind::Unsupported(_)) => Err(error),
        Err(_) => Err(Error::invalid(format!("Unknown file format '{name}'")).advise(mistyped(name))),
    }
}

/// The question whether a format was meant by a name that is none.
fn mistyped(name: &str) -> Option<String> {
    did_you_mean("", name, FORMATS.iter().map(|format| format.name))
}

/// Whether the reference has a driver of this name, supported here or not.
pub fn is_known_driver(name: &str) -> bool {
    match Driver::find(name) {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), Kind::Unsupported(_)),
    }
}

/// Whether the reference knows a protocol that this program does not.
pub fn is_foreign_protocol(name: &str) -> bool {
    const MORE: [&str; 7] = ["fat", "gluster+rdma", "gluster+tcp", "gluster+unix", "nbd+tcp", "nbd+unix", "rbd"];
    FOREIGN_DRIVERS.contains(&name) || MORE.contains(&name)
}

fn unsupported_format(name: &str) -> Error {
    Error::unsupported(format!("Images in {name} format are not supported yet"))
}

/// The format that claims these first bytes most surely; raw if none does. An error if the reference would take the
/// image for something that is not supported.
pub fn probe(head: &[u8], filename: &str) -> Result<&'static Format> {
    let mut best = FORMATS[FORMATS.len() - 1];
    let mut score = 0;
    for format in FORMATS {
        let claim = (format.probe)(head);
        if claim > score {
            (best, score) = (format, claim);
        }
    }
    match FOREIGN.iter().find(|foreign| (foreign.probe)(head, filename) > score) {
        Some(foreign) => Err(unsupported_format(foreign.name)
            .hint(format!("Give '-f {}' if the disk itself is meant to start with those bytes.", best.name))),
        None => Ok(best),
    }
}

/// Whether an image that starts like this is taken for raw, by us and by the reference.
pub fn probes_as_raw(head: &[u8]) -> bool {
    probe(head, "").is_ok_and(|format| format.name == "raw")
}

/// Certain if `magic` is found at an offset.
fn at(head: &[u8], offset: usize, magic: &[u8]) -> u32 {
    match head.get(offset..) {
        Some(rest) if rest.starts_with(magic) => 100,
        _ => 0,
    }
}

fn starts(head: &[u8], magic: &[u8]) -> u32 {
    at(head, 0, magic)
}

fn parallels(head: &[u8], _: &str) -> u32 {
    let magic = starts(head, b"WithoutFreeSpace").max(starts(head, b"WithouFreSpacExt"));
    magic.min(at(head, 16, &2u32.to_le_bytes()))
}

/// "Header: magic[32], type[16], subtype[16], version": growing redo logs of both versions.
fn bochs(head: &[u8], _: &str) -> u32 {
    let version = at(head, 64, &0x0002_0000_u32.to_le_bytes()).max(at(head, 64, &0x0001_0000_u32.to_le_bytes()));
    let magic = starts(head, b"Bochs Virtual HD Image\0");
    magic.min(at(head, 32, b"Redolog\0")).min(at(head, 48, b"Growing\0")).min(version)
}

fn cloop(head: &[u8], _: &str) -> u32 {
    let magic = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
    starts(head, magic).min(2)
}

/// Sparse extents by their magic, descriptor files by their first line that is neither blank nor a comment.
fn vmdk(head: &[u8], _: &str) -> u32 {
    let magic = starts(head, b"KDMV").max(starts(head, b"COWD"));
    if magic > 0 {
        return magic;
    }
    let mut rest = head;
    loop {
        match rest.first() {
            Some(b'#') => match rest.iter().position(|c| *c == b'\n') {
                Some(end) => rest = &rest[end + 1..],
                None => return 0,
            },
            Some(b' ') => match rest.iter().position(|c| *c != b' ') {
                Some(end) if rest[end] == b'\n' => rest = &rest[end + 1..],
                Some(end) if rest[end..].starts_with(b"\r\n") => rest = &rest[end + 2..],
                _ => return 0,
            },
            Some(b'\n') => rest = &rest[1..],
            Some(b'\r') if rest.starts_with(b"\r\n") => rest = &rest[2..],
            _ => break,
        }
    }
    let line = |version: u8, end: &str| starts(rest, format!("version={version}{end}").as_bytes());
    (1..=3).map(|version| line(version, "\n").max(line(version, "\r\n"))).max().unwrap_or(0)
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
