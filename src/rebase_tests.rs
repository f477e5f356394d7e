//! Rebases when the power goes: on whichever backing file the image says it lies, the guest sees the same.

use std::path::Path;
use std::sync::Arc;

use super::Rebase;
use crate::copy::Unwatched;
use crate::error::Result;
use crate::format::qcow2::testing::{available, expect, open_storage, report, soundness};
use crate::image::{BackingRef, Chain, Node, OpenFlags};
use crate::storage::crash::Replay;
use crate::storage::fault::{FaultStorage, Op};
use crate::storage::{MemStorage, Storage};

/// An image, the one it lies on, and the one it shall lie on.
struct Scene {
    image: Vec<u8>,
    old: Arc<dyn Storage>,
    new: Arc<dyn Storage>,
    /// The name of the new one, or none.
    named: Option<BackingRef>,
    compress: bool,
}

fn scene(dir: &Path, options: &str, name: &str, compress: bool) -> Scene {
    let io = |name: &str, commands: &[&str]| {
        let args: Vec<_> = commands.iter().flat_map(|command| ["-c", command]).chain([name]).collect();
        expect(dir, "qemu-io", &args);
    };
    for name in ["top", "old", "new"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
    for name in ["old", "new"] {
        expect(dir, "qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, name, "2M"]);
    }
    io("old", &["write -P 1 0 300k", "write -P 2 1M 200k", "write -P 3 1600k 100k"]);
    io("new", &["write -P 1 0 100k", "write -P 7 900k 200k"]);
    expect(dir, "qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, "-b", "old", "-F", "qcow2", "top"]);
    io("top", &["write -P 4 100k 64k", "write -z 1100k 64k"]);
    if !options.contains("compat=0.10") {
        // Then the header is longer than a sector.
        expect(dir, "qemu-img", &["bitmap", "--add", "top", "bits"]);
    }
    let load = |name: &str| -> Arc<dyn Storage> {
        Arc::new(MemStorage::new(std::fs::read(dir.join(name)).expect("an image")))
    };
    let image = std::fs::read(dir.join("top")).expect("an image");
    let named = BackingRef { filename: name.into(), format: Some("qcow2".into()) };
    Scene { image, old: load("old"), new: load("new"), named: Some(named).filter(|_| !name.is_empty()), compress }
}

impl Scene {
    fn chain(&self, storages: &[&Arc<dyn Storage>], flags: OpenFlags) -> Result<Chain> {
        let node = |(number, storage): (usize, &&Arc<dyn Storage>)| {
            let flags = if number == 0 { flags } else { OpenFlags::READ };
            open_storage(Arc::clone(storage), flags).map(|layer| Node::new(layer, "i"))
        };
        storages.iter().enumerate().map(node).collect::<Result<_>>().map(Chain::new)
    }

    /// What the command does.
    fn run(&self, storage: &Arc<dyn Storage>) -> Result<()> {
        let image = self.chain(&[storage, &self.old], OpenFlags::WRITE)?;
        let new = self.named.as_ref().map(|_| self.chain(&[&self.new], OpenFlags::READ)).transpose()?;
        let rebase =
            Rebase { image: &image, new: new.as_ref(), compress: self.compress, workers: 2, monitor: &Unwatched };
        rebase.copy()?;
        image.top().layer.set_backing(self.named.as_ref())
    }

    /// What the guest sees through the image, and whether it lies on the new backing file by now.
    fn look(&self, bytes: &[u8]) -> Result<(Vec<u8>, bool)> {
        let storage: Arc<dyn Storage> = Arc::new(MemStorage::new(bytes.to_vec()));
        let named = open_storage(Arc::clone(&storage), OpenFlags::READ)?.backing();
        let moved = named == self.named;
        if !moved {
            assert_eq!(named.map(|backing| backing.filename).as_deref(), Some("old"), "one of both names");
        }
        let chain = match (moved, &named_storage(self, moved)) {
            (_, None) => self.chain(&[&storage], OpenFlags::READ)?,
            (_, Some(below)) => self.chain(&[&storage, below], OpenFlags::READ)?,
        };
        let mut disk = vec![0; chain.size() as usize];
        chain.read(0, &mut disk)?;
        Ok((disk, moved))
    }
}

fn named_storage(scene: &Scene, moved: bool) -> Option<Arc<dyn Storage>> {
    match moved {
        false => Some(Arc::clone(&scene.old)),
        true => scene.named.as_ref().map(|_| Arc::clone(&scene.new)),
    }
}

fn each(mut body: impl FnMut(&Path, &str, &Scene)) {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let long = "n".repeat(700);
    for options in ["cluster_size=64k", "cluster_size=4k", "cluster_size=16k,extended_l2=on", "compat=0.10"] {
        for (name, compress) in [("new", false), (&*long, true), ("", false)] {
            let scene = scene(dir.path(), options, name, compress);
            body(dir.path(), &format!("{options} onto {:.9}", name), &scene);
        }
    }
}

#[test]
fn the_guest_sees_the_same_after_a_crash() {
    let mut states = 0;
    each(|dir, what, scene| {
        let (disk, _) = scene.look(&scene.image).expect("readable");
        let recorder = Arc::new(FaultStorage::new(Arc::new(MemStorage::new(scene.image.clone()))));
        scene.run(&(Arc::clone(&recorder) as _)).expect("nothing fails");
        let mut last = false;
        let replay = Replay::new(std::slice::from_ref(&scene.image), &[&recorder]);
        assert!(replay.is_durable(), "{what}");
        states += replay.each(|state| {
            let what = format!("{what} cut off after {}, {}", state.at, state.story);
            let (found, moved) = scene.look(&state.files[0]).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(found == disk, "{what}: the guest sees something else");
            assert_eq!(soundness(dir, &state.files[0]), Ok(()), "{what}");
            last |= moved;
        });
        assert!(last, "{what}: it lies on the new one in the end");
    });
    report("rebase", states);
}

#[test]
fn the_guest_sees_the_same_after_a_failed_request() {
    each(|dir, what, scene| {
        if what.contains("16k") {
            return;
        }
        let (disk, _) = scene.look(&scene.image).expect("readable");
        for op in [Op::Read, Op::Write, Op::Flush, Op::Zero, Op::SetLen] {
            for (nth, lasting) in (1..400).flat_map(|nth| [(nth, false), (nth, true)]) {
                let memory = Arc::new(MemStorage::new(scene.image.clone()));
                let faulty = Arc::new(FaultStorage::new(Arc::clone(&memory) as _));
                match lasting {
                    true => faulty.fail_from(op, nth, libc::ENOSPC),
                    false => faulty.fail(op, nth, libc::EIO),
                }
                let result = scene.run(&(Arc::clone(&faulty) as _));
                let what = format!("{what}, {op:?} {nth} failing, lasting {lasting}");
                let (found, moved) = scene.look(&memory.to_vec()).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(found == disk, "{what}: the guest sees something else");
                assert_eq!(soundness(dir, &memory.to_vec()), Ok(()), "{what}");
                if faulty.count(op) < nth {
                    assert!(result.is_ok() && moved, "{what}: {result:?}");
                    break;
                }
            }
        }
    });
}
