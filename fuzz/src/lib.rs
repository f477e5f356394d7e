//! What the fuzz targets do with their input. `tests/fuzz_corpus.rs` includes this file and runs the same bodies over the
//! stored corpus, so it needs nothing but the library.
//!
//! Images lie in memory, in a storage that does not grow beyond [`ROOM`]; nothing outside of them is opened. Besides
//! panics, overflows, memory and time, the bodies look for what no input may bring about: reading changes nothing, parts
//! of a disk read as they do in the whole, and an image that a check finds sound stays so, whatever is done to it.

use std::sync::Arc;

use qemu_img::cli::create_options::{option_list, parse_create_options};
use qemu_img::cli::{keyval, object, optlist};
use qemu_img::crypto::Secret;
use qemu_img::crypto::luks::{self, HeaderWindow};
use qemu_img::error::{Error, Result};
use qemu_img::image::{
    BitmapAction, BitmapEdit, Chain, Difference, ImageLimits, ImageSpec, NodeReport, OpenContext, OpenFlags,
    OpenPolicy, Options, Repair, SnapshotInfo, ZeroFlags, jsonname, open_chain, open_storage, probe,
};
use qemu_img::number::{parse_number, parse_size, size_argument};
use qemu_img::storage::{Limits, MemStorage, RangeKind, Storage, ZeroMode};
use qemu_img::{format, json, text};
use serde_json::Value;

/// A body: never panics, whatever the input is.
pub type Body = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Body)] = &[
    ("bitmap", bitmap),
    ("check", check),
    ("info", info),
    ("json", json_name),
    ("luks", luks_header),
    ("map", map),
    ("open", open),
    ("options", options),
    ("read", read),
    ("size", size),
    ("snapshot", snapshot),
    ("write", write),
];

/// How long an image in memory can become.
const ROOM: u64 = 16 << 20;
/// How much guest data is read of an image.
const READ_MAX: u64 = 4 << 20;
/// How many extents are looked at.
const EXTENTS_MAX: usize = 4096;

/// Memory that does not grow without end.
#[derive(Debug)]
struct Bounded(MemStorage);

impl Bounded {
    fn check(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= ROOM => Ok(()),
            _ => Err(Error::os(libc::ENOSPC)),
        }
    }
}

impl Storage for Bounded {
    fn len(&self) -> Result<u64> {
        self.0.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.check(offset, buf.len() as u64)?;
        self.0.write_at(buf, offset)
    }
    fn zero(&self, offset: u64, len: u64, mode: ZeroMode) -> Result<()> {
        self.check(offset, len)?;
        self.0.zero(offset, len, mode)
    }
    fn extent(&self, offset: u64, len: u64) -> Result<(RangeKind, u64)> {
        self.0.extent(offset, len)
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.check(0, len)?;
        self.0.set_len(len)
    }
    fn flush(&self) -> Result<()> {
        self.0.flush()
    }
    fn limits(&self) -> Limits {
        self.0.limits()
    }
}

/// Nothing is opened besides the image, but sizes are those that the format allows.
const LONELY: OpenPolicy = OpenPolicy { references: false, probing: true, limits: ImageLimits::FORMAT };

fn context(policy: OpenPolicy) -> OpenContext {
    let mut context = OpenContext::default();
    context.policy = policy;
    context
}

fn memory(data: &[u8]) -> Arc<Bounded> {
    Arc::new(Bounded(MemStorage::new(data.to_vec())))
}

/// Opens a qcow2 image without its backing file.
fn qcow2(storage: &Arc<Bounded>, flags: OpenFlags) -> Result<Chain> {
    let flags = OpenFlags { no_backing: true, ..flags };
    open_storage(Arc::clone(storage) as Arc<dyn Storage>, "image", Some("qcow2"), flags, &context(LONELY))
}

/// Runs something that must leave the image as it is.
fn unchanged(data: &[u8], body: impl FnOnce(&Arc<Bounded>)) {
    let storage = memory(data);
    body(&storage);
    assert!(storage.0.to_vec() == data, "what only reads has changed the image");
}

/// Probing, and opening in every way there is.
pub fn open(data: &[u8]) {
    let _ = probe(&data[..data.len().min(512)], "image");
    for policy in [LONELY, OpenPolicy::UNTRUSTED] {
        for flags in [OpenFlags::INFO, OpenFlags::READ, OpenFlags { check: true, ..OpenFlags::READ }] {
            unchanged(data, |storage| {
                let storage = Arc::clone(storage) as Arc<dyn Storage>;
                let opened = open_storage(storage, "image", None, flags, &context(policy));
                let _ = opened.map(|chain| chain.size());
            });
        }
    }
    // Opening for writing repairs what a run before left.
    let storage = memory(data);
    let _ = qcow2(&storage, OpenFlags::WRITE).map(|chain| chain.top().layer.flush());
}

/// What `info` shows.
pub fn info(data: &[u8]) {
    unchanged(data, |storage| {
        let Ok(chain) = qcow2(storage, OpenFlags::INFO) else { return };
        let Ok(report) = NodeReport::new(chain.top()) else { return };
        let _ = json::pretty(&report.to_json());
        let _ = qemu_img::cmd::info_text(&report);
    });
}

/// The findings of a check: corruptions, leaks and errors; `None` if it failed.
fn findings(storage: &Arc<Bounded>) -> Option<(u64, u64, u64)> {
    let chain = qcow2(storage, OpenFlags { check: true, ..OpenFlags::READ }).ok()?;
    let report = chain.top().layer.checks()?.check(Repair::Nothing, &mut |_| {}).ok()?;
    Some((report.corruptions, report.leaks, report.check_errors))
}

/// Whether the image is sound: nothing wrong, perhaps leaks.
fn is_sound(storage: &Arc<Bounded>) -> bool {
    matches!(findings(storage), Some((0, _, 0)))
}

/// Checking and repairing.
pub fn check(data: &[u8]) {
    unchanged(data, |storage| {
        findings(storage);
    });
    for repair in [Repair::Leaks, Repair::All] {
        let storage = memory(data);
        let flags = OpenFlags { check: true, ..OpenFlags::WRITE };
        let Ok(chain) = qcow2(&storage, flags) else { continue };
        let Some(checks) = chain.top().layer.checks() else { continue };
        let sound = is_sound(&storage);
        let _ = checks.check(repair, &mut |_| {});
        let _ = chain.top().layer.flush();
        drop(chain);
        assert!(!sound || is_sound(&storage), "a repair has damaged a sound image");
    }
}

/// Extents, as `map` and the data mover see them.
pub fn map(data: &[u8]) {
    unchanged(data, |storage| {
        let Ok(chain) = qcow2(storage, OpenFlags::READ) else { return };
        let size = chain.size();
        let mut at = 0;
        for _ in 0..EXTENTS_MAX {
            if at >= size {
                break;
            }
            let Ok(status) = chain.status(at, size - at) else { break };
            assert!(status.start == at && status.len > 0 && status.len <= size - at, "an extent is out of range");
            at += status.len;
        }
    });
}

/// Reading, in the whole and in parts.
pub fn read(data: &[u8]) {
    unchanged(data, |storage| {
        let Ok(chain) = qcow2(storage, OpenFlags::READ) else { return };
        let size = chain.size();
        // The beginning and the end.
        for start in [0, size.saturating_sub(READ_MAX / 2) / 512 * 512] {
            let mut whole = vec![0; (size - start).min(READ_MAX / 2) as usize];
            if chain.read(start, &mut whole).is_err() {
                continue;
            }
            let mut part = vec![0; 1 + whole.len() / 7];
            for at in (0..whole.len()).step_by(part.len()) {
                let part = &mut part[..(whole.len() - at).min(1 + whole.len() / 7)];
                chain.read(start + at as u64, part).expect("what was read once can be read again");
                assert!(*part == whole[at..at + part.len()], "a part reads differently from the whole");
            }
        }
    });
}

/// The snapshot table, showing snapshots, and changing them.
pub fn snapshot(data: &[u8]) {
    let mut names = Vec::new();
    unchanged(data, |storage| {
        let Ok(chain) = qcow2(storage, OpenFlags::READ) else { return };
        let Some(snapshots) = chain.top().layer.snapshots() else { return };
        names = snapshots.list().unwrap_or_default();
        let _ = qemu_img::cli::snapshot_table(&names);
        for snapshot in names.iter().take(4) {
            if snapshots.view(Some(&snapshot.id), None).is_ok() {
                let mut some = vec![0; chain.size().min(1 << 20) as usize];
                let _ = chain.read(0, &mut some);
            }
        }
    });
    unchanged(data, |storage| {
        let Ok(chain) = qcow2(storage, OpenFlags::INFO) else { return };
        let Some(snapshots) = chain.top().layer.snapshots() else { return };
        if let Ok(details) = snapshots.details() {
            assert!(details.len() == names.len(), "each snapshot takes something");
            assert!(
                details.iter().all(|found| found.referenced >= found.exclusive.max(found.shared)),
                "a part is too large"
            );
            let _ = qemu_img::cli::details_table(&names, &details);
        }
        for snapshot in names.iter().take(4) {
            differences(storage, snapshot);
        }
    });
    let mut actions: Vec<(&str, &str)> = vec![("create", "new")];
    for snapshot in names.iter().take(2) {
        actions.extend([("apply", snapshot.id.as_str()), ("delete", snapshot.name.as_str())]);
    }
    for (action, name) in actions {
        keeps_sound(data, |chain| {
            let Some(snapshots) = chain.top().layer.snapshots() else { return };
            let _ = match action {
                "create" => snapshots.create(name),
                "apply" => snapshots.apply(name),
                _ => snapshots.delete(name),
            };
        });
    }
}

/// The ranges in which a snapshot and the present state differ: in order, and elsewhere both hold the same bytes.
fn differences(storage: &Arc<Bounded>, snapshot: &SnapshotInfo) {
    let (Ok(now), Ok(then)) = (qcow2(storage, OpenFlags::READ), qcow2(storage, OpenFlags::READ)) else { return };
    let mut rows = Vec::new();
    let mut end = 0;
    let mut visit = |row: &Difference| {
        assert!(row.start >= end && row.len > 0, "ranges are out of order");
        end = row.start + row.len;
        rows.push(row.start..end);
        if rows.len() < EXTENTS_MAX { Ok(()) } else { Err(Error::os(libc::E2BIG)) }
    };
    let Some(snapshots) = now.top().layer.snapshots() else { return };
    if snapshots.differences(&snapshot.id, None, &mut visit).is_err() {
        return;
    }
    let shown = then.top().layer.snapshots().is_some_and(|snapshots| snapshots.view(Some(&snapshot.id), None).is_ok());
    let len = now.size().min(snapshot.disk_size).min(1 << 20) as usize;
    let (mut new, mut old) = (vec![0; len], vec![0; len]);
    if shown && now.read(0, &mut new).is_ok() && then.read(0, &mut old).is_ok() {
        let differs = (0..len as u64)
            .find(|at| new[*at as usize] != old[*at as usize] && !rows.iter().any(|range| range.contains(at)));
        assert!(differs.is_none(), "{differs:?} differs, but is not in {rows:?}");
    }
}

/// Opens an image for writing and changes it; if it was sound it must be so afterwards.
fn keeps_sound(data: &[u8], change: impl FnOnce(&Chain)) {
    let storage = memory(data);
    let sound = is_sound(&storage);
    {
        let Ok(chain) = qcow2(&storage, OpenFlags::WRITE) else { return };
        change(&chain);
        let _ = chain.top().layer.flush();
    }
    assert!(!sound || is_sound(&storage), "a change has damaged a sound image");
}

/// Guest writes: at the beginning, in the middle, over borders, zeros.
pub fn write(data: &[u8]) {
    keeps_sound(data, |chain| {
        let size = chain.size();
        let bytes = [0x5a; 3000];
        for at in [0, size / 2, size.saturating_sub(3000), 65000] {
            let len = size.saturating_sub(at).min(bytes.len() as u64);
            if chain.write(at, &bytes[..len as usize]).is_err() {
                break;
            }
            let mut back = vec![0; len as usize];
            if chain.read(at, &mut back).is_ok() {
                assert!(back == bytes[..back.len()], "what was written reads differently");
            }
        }
        let len = size.min(1 << 16);
        if chain.zero(0, len, ZeroFlags { may_unmap: true }).is_ok() {
            let mut back = vec![1; len as usize];
            if chain.read(0, &mut back).is_ok() {
                assert!(back.iter().all(|byte| *byte == 0), "what was made zero is not");
            }
        }
    });
}

/// The bitmap directory, bitmaps, and changing them.
pub fn bitmap(data: &[u8]) {
    let mut names = Vec::new();
    unchanged(data, |storage| {
        let Ok(chain) = qcow2(storage, OpenFlags::READ) else { return };
        let Some(bitmaps) = chain.top().layer.bitmaps() else { return };
        names = bitmaps.list();
        for bitmap in names.iter().take(4) {
            let _ = bitmaps.read(&bitmap.name);
        }
    });
    let first = names.first().map_or("a", |bitmap| bitmap.name.as_str());
    let last = names.last().map_or("a", |bitmap| bitmap.name.as_str());
    for actions in [
        vec![(BitmapAction::Add(Some(65536)), "new"), (BitmapAction::Merge(first.to_owned()), "new")],
        vec![(BitmapAction::Remove, first)],
        vec![(BitmapAction::Clear, last), (BitmapAction::Enable, last)],
        vec![(BitmapAction::Disable, first), (BitmapAction::Merge(last.to_owned()), first)],
    ] {
        keeps_sound(data, |chain| {
            let mut edit = BitmapEdit::new(chain.top());
            if actions.iter().all(|(action, name)| edit.apply(action, name, None).is_ok()) {
                let _ = edit.save();
            }
        });
    }
}

/// LUKS headers. Passphrases are tried where that takes a moment only.
pub fn luks_header(data: &[u8]) {
    let storage = memory(data);
    for offset in [0, 4096] {
        let window = HeaderWindow { storage: &*storage, offset, len: ROOM };
        let Ok(volume) = luks::open(window, None, u64::MAX) else { continue };
        let _ = json::pretty(&volume.info.qcow2_json());
        let _ = json::pretty(&volume.info.luks_json());
        let _ = luks::open(window, Some(&Secret::new(b"secret".to_vec())), 4000);
    }
}

/// Numbers and sizes.
pub fn size(data: &[u8]) {
    let words = text::from_bytes(data);
    let (size, number) = (parse_size(&words), parse_number(&words));
    let _ = size_argument("image size", &words);
    if !words.is_empty() && words.bytes().all(|byte| byte.is_ascii_digit()) {
        assert_eq!(size.ok(), words.parse().ok(), "plain digits are a size");
        if !words.starts_with('0') {
            assert_eq!(number.ok(), words.parse().ok(), "plain digits are a number");
        }
    }
}

/// Option lists and key-value strings.
pub fn options(data: &[u8]) {
    let words = text::from_bytes(data);
    let _ = option_list(&words);
    for element in optlist::elements(&words, None).chain(optlist::elements(&words, Some("file"))) {
        let _ = (element.is_help(), optlist::check_id(&element.value));
    }
    for format in format::FORMATS {
        let known = [format.create_options, format.amend_options];
        let _ = parse_create_options(&words, &known);
    }
    let _ = keyval::parse(&words, "qom-type");
    // Reading files is not what is looked at here.
    if !words.contains("file") {
        let _ = object::define(&[words.as_str()]);
        let _ = object::define(&[&format!("secret,id=a,data=x,{words}")]);
    }
}

/// `json:` names: the text, and opening what it describes, where no name in it leads to a file.
pub fn json_name(data: &[u8]) {
    let words = text::from_bytes(data);
    let Ok(value) = jsonname::parse(&words) else { return };
    // Printing may change a number's form (-0.0), but only once; and the order of keys, which means nothing.
    let print_and_read = |value| jsonname::parse(&json::one_line(value)).expect("what is printed can be read");
    let once = print_and_read(&value);
    assert!(print_and_read(&once) == once, "a value changes by being printed");
    let Value::Object(options) = value else { return };
    let options = harmless(options);
    let spec = ImageSpec::options("options", options);
    let flags = OpenFlags { no_backing: false, ..OpenFlags::READ };
    let Ok(chain) = open_chain(&spec, flags, &context(LONELY)) else { return };
    if let Ok(report) = NodeReport::new(chain.top()) {
        let _ = json::pretty(&report.to_json());
    }
    let mut some = vec![0; chain.size().min(65536) as usize];
    let _ = chain.read(0, &mut some);
}

/// The options without names of files, and without waiting.
fn harmless(options: Options) -> Options {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let keep = |key: &str| !matches!(last(key).as_str(), "config" | "latency-ns");
    let change = |(key, value): (String, Value)| {
        let value = match value {
            Value::Object(inner) => Value::Object(harmless(inner)),
            Value::Array(values) => values.into_iter().map(harmless_value).collect(),
            Value::String(_) if matches!(last(&key).as_str(), "filename" | "x-image") => "null-co://".into(),
            other => other,
        };
        (key, value)
    };
    options.into_iter().filter(|(key, _)| keep(key)).map(change).collect()
}

fn harmless_value(value: Value) -> Value {
    match value {
        Value::Object(inner) => Value::Object(harmless(inner)),
        Value::Array(values) => values.into_iter().map(harmless_value).collect(),
        other => other,
    }
}
