//! Repairs when requests fail and when the power goes: what the disk and its snapshots hold stays, nothing gets worse than it
//! was, and the next repair brings to an end what this one began.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::format::qcow2::snapshot::fault_tests::{contents, image};
use crate::format::qcow2::testing::{Seen, available, expect, open_storage, report};
use crate::image::{CheckReport, OpenFlags, Repair};
use crate::storage::crash::Replay;
use crate::storage::fault::{FaultStorage, Op};
use crate::storage::{MemStorage, Storage};

const COPIED: u64 = 1 << 63;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// An image as bytes, for spoiling it.
struct Victim(Vec<u8>);

impl Victim {
    fn word(&self, at: u64) -> u64 {
        u64::from_be_bytes(self.0[at as usize..at as usize + 8].try_into().expect("eight bytes"))
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.0[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    fn cluster(&self) -> u64 {
        1 << self.0[23]
    }

    /// Where the refcount of a cluster of the first block lies.
    fn count_at(&self, cluster: u64) -> u64 {
        (self.word(self.word(48)) & OFFSET) + 2 * cluster
    }

    fn count(&mut self, cluster: u64, change: impl Fn(u16) -> u16) {
        let at = self.count_at(cluster);
        let count = u16::from_be_bytes([self.0[at as usize], self.0[at as usize + 1]]);
        self.put(at, &change(count).to_be_bytes());
    }

    /// The active L2 table.
    fn table(&self) -> u64 {
        self.word(self.word(40)) & OFFSET
    }

    /// The first entry of the active L2 table with a plain cluster.
    fn plain(&self) -> u64 {
        let step = if self.0[79] & 16 != 0 { 16 } else { 8 };
        let mut entries = (0..self.cluster() / step).map(|index| self.table() + index * step);
        entries.find(|at| self.word(*at) & !(COPIED | OFFSET) == 0 && self.word(*at) & OFFSET != 0).expect("data")
    }
}

/// Name, and what it does to an image. What the guest sees is what it was.
type Damage = (&'static str, fn(&mut Victim));

const DAMAGES: &[Damage] = &[
    ("nothing", |_| ()),
    ("leaks", |victim| (4..12).for_each(|cluster| victim.count(cluster, |count| count + 2))),
    ("too small", |victim| (4..40).for_each(|cluster| victim.count(cluster, |count| count.min(1)))),
    ("both", |victim| {
        (4..20).for_each(|cluster| victim.count(cluster, |count| count.min(1)));
        (20..30).for_each(|cluster| victim.count(cluster, |count| count + 1));
    }),
    ("none at all", |victim| (0..12).for_each(|cluster| victim.count(cluster, |_| 0))),
    ("no refcount block", |victim| victim.put(victim.word(48), &[0; 8])),
    ("a refcount block outside", |victim| victim.put(victim.word(48) + 8, &(1u64 << 40).to_be_bytes())),
    ("no refcount table", |victim| victim.put(56, &[0; 4])),
    ("flags", |victim| {
        let (l1, plain) = (victim.word(40), victim.plain());
        victim.put(l1, &(victim.word(l1) ^ COPIED).to_be_bytes());
        victim.put(plain, &(victim.word(plain) ^ COPIED).to_be_bytes());
    }),
    ("short entries of snapshots", |victim| {
        // The second entry, with no extra data: ID and name move up.
        let first = victim.word(64);
        let names = u64::from(victim.0[first as usize + 13]) + u64::from(victim.0[first as usize + 15]);
        let at = first + (64 + names).next_multiple_of(8);
        let names = victim.0[at as usize + 64..at as usize + 80].to_vec();
        victim.put(at + 36, &[0; 4]);
        victim.put(at + 40, &names);
    }),
    ("too many snapshots", |victim| victim.put(60, &[0, 0, 0, 4])),
    ("too few snapshots", |victim| victim.put(60, &[0, 0, 0, 1])),
    ("a cluster outside, and leaks", |victim| {
        let table = victim.table();
        let last = table + victim.cluster() - 16;
        victim.put(last, &(COPIED | 1 << 40).to_be_bytes());
        (4..12).for_each(|cluster| victim.count(cluster, |count| count + 2));
    }),
    ("a cluster outside, and no refcount block", |victim| {
        let last = victim.table() + victim.cluster() - 16;
        victim.put(last, &(COPIED | 1 << 40).to_be_bytes());
        victim.put(victim.word(48), &[0; 8]);
    }),
];

fn check(storage: Arc<dyn Storage>, repair: Repair) -> Result<CheckReport> {
    let flags = OpenFlags { write: repair != Repair::Nothing, check: true, ..OpenFlags::READ };
    let layer = open_storage(storage, flags)?;
    layer.checks().expect("qcow2 has them").check(repair, &mut |_| ())
}

/// What is left to complain about: errors, then leaks.
fn badness(report: &CheckReport) -> (u64, u64) {
    (report.corruptions + report.check_errors, report.leaks)
}

/// Each layout with each damage and each way to repair: folder for files, name of the case, the damaged image, what it
/// holds, how to repair it.
fn each_case(mut body: impl FnMut(&Path, &str, &[u8], &[(String, Vec<u8>)], Repair)) {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    for options in ["cluster_size=64k", "cluster_size=16k,extended_l2=on"] {
        let sound = image(dir.path(), options);
        for (name, spoil) in DAMAGES {
            let mut victim = Victim(sound.clone());
            spoil(&mut victim);
            let start: Arc<dyn Storage> = Arc::new(MemStorage::new(victim.0.clone()));
            // Some damages keep others from opening it; it holds the same as without them.
            let holds = contents(&start).or_else(|_| contents(&(Arc::new(MemStorage::new(sound.clone())) as _)));
            let holds = holds.expect("readable");
            for repair in [Repair::Leaks, Repair::All] {
                body(dir.path(), &format!("{options}, {name}, {repair:?}"), &victim.0, &holds, repair);
            }
        }
    }
}

/// How bad an image is now.
fn verdict(storage: Arc<dyn Storage>) -> Result<(u64, u64)> {
    check(storage, Repair::Nothing).map(|report| badness(&report))
}

/// Whether an interrupted repair left `storage` no worse than the image was before (`before`), and whether further repairs
/// make it as good as an uninterrupted one (`wanted`).
fn verify(
    storage: &Arc<MemStorage>,
    holds: &[(String, Vec<u8>)],
    repair: Repair,
    before: Option<(u64, u64)>,
    wanted: Option<(u64, u64)>,
) -> Result<(), String> {
    let storage = Arc::clone(storage) as Arc<dyn Storage>;
    let now = verdict(Arc::clone(&storage));
    if let (Some(before), Ok(now)) = (before, &now)
        && now.0 > before.0
    {
        return Err(format!("worse: {before:?}, now {now:?}"));
    }
    if before.is_some() && now.is_err() {
        return Err(format!("worse: {now:?}"));
    }
    if wanted.is_some() {
        // Twice: while there are snapshots too many the first one leaves what leaked, and the old table with it.
        for _ in 0..2 {
            check(Arc::clone(&storage), repair).map_err(|error| format!("the next repair fails: {error}"))?;
        }
        let after = verdict(Arc::clone(&storage)).ok();
        let better = |after: (u64, u64), wanted: (u64, u64)| after.0 <= wanted.0 && (after.1 == 0 || wanted.1 > 0);
        if !after.zip(wanted).is_some_and(|(after, wanted)| better(after, wanted)) {
            return Err(format!("the next repair leaves {after:?}, not {wanted:?}"));
        }
    }
    // Entries of the snapshot table without anything in them may go.
    let named = |found: &[(String, Vec<u8>)]| -> Vec<_> {
        let mut found: Vec<_> = found.to_vec();
        let disk = found.remove(0);
        found.retain(|(name, _)| !name.is_empty());
        found.insert(0, disk);
        found
    };
    match contents(&storage) {
        Ok(found) if named(&found) == named(holds) => Ok(()),
        Ok(found) => Err(format!("holds something else: {:?}", found.iter().map(|(name, _)| name).collect::<Vec<_>>())),
        // It could not be opened before, either.
        Err(_) if before.is_some() && wanted.is_none() => Ok(()),
        Err(error) => Err(format!("unreadable: {error}")),
    }
}

#[test]
fn a_crash_during_a_repair_loses_nothing() {
    let mut states = 0;
    each_case(|dir, name, damaged, holds, repair| {
        let before = verdict(Arc::new(MemStorage::new(damaged.to_vec()))).ok();
        let memory = Arc::new(MemStorage::new(damaged.to_vec()));
        let recorder = Arc::new(FaultStorage::new(Arc::clone(&memory) as _));
        let result = check(Arc::clone(&recorder) as _, repair);
        let wanted = result.ok().map(|_| verdict(Arc::clone(&memory) as _).expect("it ends"));
        let replay = Replay::new(&[damaged.to_vec()], &[&recorder]);
        assert!(replay.is_durable(), "{name}");
        states += replay.each(|state| {
            let storage = Arc::new(MemStorage::new(state.file()));
            let outcome = verify(&storage, holds, repair, before, wanted);
            assert_eq!(outcome, Ok(()), "{name}, cut off after {}, {}", state.at, state.story);
        });
        if wanted.is_some_and(|wanted| wanted == (0, 0)) {
            std::fs::write(dir.join("o"), memory.to_vec()).expect("a temporary file");
            expect(dir, "qemu-img", &["check", "-f", "qcow2", "o"]);
        }
    });
    report("check -r", states);
}

#[test]
fn a_failed_request_during_a_repair_loses_nothing() {
    each_case(|_, name, damaged, holds, repair| {
        let before = verdict(Arc::new(MemStorage::new(damaged.to_vec()))).ok();
        let memory = Arc::new(MemStorage::new(damaged.to_vec()));
        let result = check(Arc::clone(&memory) as _, repair);
        let wanted = result.ok().map(|_| verdict(Arc::clone(&memory) as _).expect("it ends"));
        // Requests that fail before the first write all leave the same image.
        let mut seen = Seen::default();
        for op in [Op::Read, Op::Write, Op::Flush, Op::Zero, Op::SetLen, Op::Extent] {
            for (nth, lasting) in (1..200).flat_map(|nth| [(nth, false), (nth, true)]) {
                let memory = Arc::new(MemStorage::new(damaged.to_vec()));
                let faulty = Arc::new(FaultStorage::new(Arc::clone(&memory) as _));
                match lasting {
                    true => faulty.fail_from(op, nth, libc::EIO),
                    false => faulty.fail(op, nth, libc::EIO),
                }
                let _ = check(Arc::clone(&faulty) as _, repair);
                if seen.is_new(&memory.to_vec()) {
                    let outcome = verify(&memory, holds, repair, before, wanted);
                    assert_eq!(outcome, Ok(()), "{name} with {op:?} {nth} failing, lasting {lasting}");
                }
                if faulty.count(op) < nth {
                    break;
                }
            }
        }
    });
}

/// "Refcount is exactly one" about a cluster that is used more often lets the next write spoil the other users.
#[test]
fn refcounts_that_could_not_be_read_set_no_flags() {
    let mut left = 0;
    each_case(|_, name, damaged, _, repair| {
        if !name.contains("too small") {
            return;
        }
        for nth in 1..200 {
            let memory = Arc::new(MemStorage::new(damaged.to_vec()));
            let faulty = Arc::new(FaultStorage::new(Arc::clone(&memory) as _));
            faulty.fail(Op::Read, nth, libc::EIO);
            let _ = check(Arc::clone(&faulty) as _, repair);
            if verdict(Arc::clone(&memory) as _).ok() != Some((0, 0)) {
                left += 1;
                let (before, after) = (Victim(damaged.to_vec()), Victim(memory.to_vec()));
                let mut entries = (before.table()..before.table() + before.cluster()).step_by(8);
                let set = entries.find(|at| after.word(*at) & !before.word(*at) & COPIED != 0);
                assert_eq!(set, None, "{name} with read {nth} failing");
            }
            if faulty.count(Op::Read) < nth {
                break;
            }
        }
    });
    assert!(left > 0 || !available(), "some repairs are not brought to an end");
}
