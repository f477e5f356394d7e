//! Commits when the power goes: through the top the guest sees the same at every moment.

use std::path::Path;
use std::sync::Arc;

use super::Commit;
use crate::copy::Unwatched;
use crate::error::Result;
use crate::format::qcow2::testing::{available, expect, open_storage, report, soundness};
use crate::image::{Chain, Node, OpenFlags};
use crate::storage::crash::Replay;
use crate::storage::fault::{FaultStorage, Op};
use crate::storage::{MemStorage, Storage};

/// An image with data, zeros and compressed clusters, on another one: their bytes, the top first.
fn images(dir: &Path, options: &str, snapshot: bool) -> Vec<Vec<u8>> {
    let io = |name: &str, commands: &[&str]| {
        let args: Vec<_> = commands.iter().flat_map(|command| ["-c", command]).chain([name]).collect();
        expect(dir, "qemu-io", &args);
    };
    for name in ["top", "base"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
    expect(dir, "qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, "base", "2M"]);
    io("base", &["write -P 1 0 300k", "write -P 2 1M 200k"]);
    expect(dir, "qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, "-b", "base", "-F", "qcow2", "top"]);
    io("top", &["write -P 3 100k 300k", "write -c -P 4 512k 64k", "write -z 1M 128k", "write -P 5 1900k 100k"]);
    if snapshot {
        expect(dir, "qemu-img", &["snapshot", "-c", "kept", "top"]);
        io("top", &["write -P 6 128k 64k"]);
        expect(dir, "qemu-img", &["snapshot", "-c", "kept", "base"]);
    }
    ["top", "base"].map(|name| std::fs::read(dir.join(name)).expect("an image")).to_vec()
}

/// These images as a chain, opened for reading, or for writing.
fn chain(storages: &[Arc<dyn Storage>], flags: OpenFlags) -> Result<Chain> {
    let node = |storage: &Arc<dyn Storage>| Ok(Node::new(open_storage(Arc::clone(storage), flags)?, "i"));
    storages.iter().map(node).collect::<Result<_>>().map(Chain::new)
}

/// What the guest sees of the chain, and what of its lowest image alone.
fn look(files: &[Vec<u8>]) -> [Vec<u8>; 2] {
    let storages: Vec<Arc<dyn Storage>> =
        files.iter().map(|bytes| Arc::new(MemStorage::new(bytes.clone())) as _).collect();
    [&storages[..], &storages[storages.len() - 1..]].map(|storages| {
        let chain = chain(storages, OpenFlags::READ).unwrap_or_else(|error| panic!("it opens: {error}"));
        let mut disk = vec![0; chain.size() as usize];
        chain.read(0, &mut disk).expect("readable");
        disk
    })
}

/// What the snapshots of an image hold of its own.
fn snapshots(bytes: &[u8]) -> Vec<Vec<u8>> {
    let storage: Arc<dyn Storage> = Arc::new(MemStorage::new(bytes.to_vec()));
    let open = || open_storage(Arc::clone(&storage), OpenFlags::READ).expect("it opens");
    let list = open().snapshots().expect("qcow2 has them").list().expect("readable");
    let content = |name: &str| {
        let layer = open();
        layer.snapshots().expect("qcow2 has them").view(None, Some(name)).expect("it is there");
        let mut disk = vec![0; layer.size() as usize];
        Chain::new(vec![Node::new(layer, "i")]).read(0, &mut disk).expect("readable");
        disk
    };
    list.iter().map(|info| content(&info.name)).collect()
}

/// What the command does.
fn commit(storages: &[Arc<dyn Storage>]) -> Result<()> {
    let upper = chain(&storages[..1], OpenFlags::WRITE)?;
    let base = chain(&storages[1..], OpenFlags::WRITE)?;
    Commit { upper: &upper, base: &base, rate: None, workers: 2, monitor: &Unwatched }.run()?;
    let layer = &upper.top().layer;
    layer.make_empty().and_then(|()| layer.flush())
}

/// Whether what the guest sees is `wanted`, and every sector of the base what it was or will be.
fn verify(dir: &Path, files: &[Vec<u8>], wanted: [&[Vec<u8>; 2]; 2], kept: [&[Vec<u8>]; 2]) -> Result<(), String> {
    let [top, base] = look(files);
    let [before, after] = wanted;
    if top != before[0] {
        return Err("the guest sees something else".into());
    }
    let sectors = base.chunks(512).zip(before[1].chunks(512).zip(after[1].chunks(512)));
    if let Some(bad) = sectors.into_iter().position(|(now, (before, after))| now != before && now != after) {
        return Err(format!("sector {bad} of the base is neither what it was nor what it will be"));
    }
    for (file, kept) in files.iter().zip(kept) {
        if snapshots(file) != kept {
            return Err("a snapshot holds something else".into());
        }
        soundness(dir, file)?;
    }
    Ok(())
}

const OPTIONS: [(&str, bool); 4] = [
    ("cluster_size=64k", false),
    ("cluster_size=64k", true),
    ("cluster_size=4k", true),
    ("cluster_size=16k,extended_l2=on", true),
];

fn recorders(files: &[Vec<u8>]) -> Vec<Arc<FaultStorage>> {
    files.iter().map(|bytes| Arc::new(FaultStorage::new(Arc::new(MemStorage::new(bytes.clone()))))).collect()
}

fn storages(recorders: &[Arc<FaultStorage>]) -> Vec<Arc<dyn Storage>> {
    recorders.iter().map(|recorder| Arc::clone(recorder) as _).collect()
}

/// What a storage holds now.
fn bytes(storage: &dyn Storage) -> Vec<u8> {
    let mut bytes = vec![0; storage.len().expect("in memory") as usize];
    storage.read_at(&mut bytes, 0).expect("in memory");
    bytes
}

#[test]
fn the_guest_sees_the_same_after_a_crash() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut states = 0;
    for (options, snapshot) in OPTIONS {
        let initial = images(dir.path(), options, snapshot);
        let recorders = recorders(&initial);
        commit(&storages(&recorders)).expect("nothing fails");
        let done: Vec<_> = recorders.iter().map(|recorder| bytes(&**recorder)).collect();
        let (before, after) = (look(&initial), look(&done));
        assert_eq!([&after[0], &after[1]], [&before[0], &before[0]], "{options}: all is in the base");
        let kept = [snapshots(&initial[0]), snapshots(&initial[1])];
        let recorders: Vec<_> = recorders.iter().map(|recorder| &**recorder).collect();
        let replay = Replay::new(&initial, &recorders);
        assert!(replay.is_durable(), "{options}");
        states += replay.each(|state| {
            let verdict = verify(dir.path(), &state.files, [&before, &after], [&kept[0], &kept[1]]);
            assert_eq!(verdict, Ok(()), "{options} {snapshot} cut off after {}, {}", state.at, state.story);
        });
    }
    report("commit", states);
}

#[test]
fn the_guest_sees_the_same_after_a_failed_request() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (options, snapshot) in [OPTIONS[0], OPTIONS[2]] {
        let initial = images(dir.path(), options, snapshot);
        let before = look(&initial);
        let after = [before[0].clone(), before[0].clone()];
        let kept = [snapshots(&initial[0]), snapshots(&initial[1])];
        for (op, file) in
            [Op::Read, Op::Write, Op::Flush, Op::Zero, Op::SetLen].into_iter().flat_map(|op| [(op, 0), (op, 1)])
        {
            for (nth, lasting) in (1..400).flat_map(|nth| [(nth, false), (nth, true)]) {
                let recorders = recorders(&initial);
                match lasting {
                    true => recorders[file].fail_from(op, nth, libc::ENOSPC),
                    false => recorders[file].fail(op, nth, libc::EIO),
                }
                let result = commit(&storages(&recorders));
                recorders[file].heal();
                let files: Vec<_> = recorders.iter().map(|recorder| bytes(&**recorder)).collect();
                let verdict = verify(dir.path(), &files, [&before, &after], [&kept[0], &kept[1]]);
                let what = format!("{options}, {op:?} {nth} of file {file} failing, lasting {lasting}");
                assert_eq!(verdict, Ok(()), "{what}");
                if recorders[file].count(op) < nth {
                    assert!(result.is_ok(), "{what}: {result:?}");
                    break;
                }
            }
        }
    }
}
