//! For tests: what files could hold if the power went away while they were being changed.
//!
//! What [`FaultStorage`]s have recorded of an operation is replayed up to every point. A disk keeps what was flushed. Of what
//! came later it may have any part, in any order: whole requests are there or not, and of writes each sector by itself.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::fault::{Event, FaultStorage};
use super::{MemStorage, Storage};

/// The unit in which a disk writes all or nothing.
const SECTOR: usize = 512;

/// How many states are tried between two flushes: `CRASH_STATES`, or this many.
const STATES: usize = 12;

/// The files of an operation as they were before it, and what it did to them.
pub struct Replay {
    initial: Vec<Vec<u8>>,
    /// Which file, and what was done.
    events: Vec<(usize, Event)>,
    /// Up to this many states between two flushes.
    budget: usize,
}

/// The files after a crash.
pub struct State {
    /// Their bytes.
    pub files: Vec<Vec<u8>>,
    /// After how many requests it came.
    pub at: usize,
    /// For messages: which of the requests since the last flush took effect.
    pub story: String,
}

impl State {
    /// The only file.
    pub fn file(&self) -> Vec<u8> {
        self.files[0].clone()
    }
}

/// What becomes of one request that was not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    There,
    Missing,
    /// Of a write each sector is there or not, as this number decides.
    Torn(u64),
}

impl Replay {
    /// What was done to files that held `initial`.
    pub fn new(initial: &[Vec<u8>], recorders: &[&FaultStorage]) -> Self {
        let stamped = recorders.iter().enumerate().flat_map(|(file, recorder)| {
            recorder.stamped_events().into_iter().map(move |(stamp, event)| (stamp, file, event))
        });
        let mut stamped: Vec<_> = stamped.collect();
        stamped.sort_by_key(|(stamp, ..)| *stamp);
        let events = stamped.into_iter().map(|(_, file, event)| (file, event)).collect();
        let budget = std::env::var("CRASH_STATES").ok().and_then(|text| text.parse().ok()).unwrap_or(STATES);
        Replay { initial: initial.to_vec(), events, budget }
    }

    /// How many requests there were.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether everything that was written was flushed afterwards. Giving space back need not be.
    pub fn is_durable(&self) -> bool {
        let files = 0..self.initial.len();
        files.into_iter().all(|file| {
            let own = self.events.iter().filter(|(other, _)| *other == file).map(|(_, event)| event);
            let rest = own.rev().take_while(|event| **event != Event::Flush);
            rest.into_iter().all(|event| !matches!(event, Event::Write { .. }))
        })
    }

    /// The files when all of it is done.
    pub fn last(&self) -> Vec<Vec<u8>> {
        let all: Vec<_> = self.events.iter().map(|(file, event)| (*file, event)).collect();
        apply(&self.initial, &all, &vec![Fate::There; all.len()])
    }

    /// Shows every state to `visit`, each once, and returns how many there were.
    pub fn each(&self, mut visit: impl FnMut(&State)) -> usize {
        let mut seen = HashSet::new();
        let mut show = |files: Vec<Vec<u8>>, at, story: String| {
            let mut hasher = DefaultHasher::new();
            files.hash(&mut hasher);
            if seen.insert(hasher.finish()) {
                visit(&State { files, at, story });
            }
        };
        // Long operations are cut off at a sample of all points, and between all flushes.
        let step = self.events.len() / (self.budget * 8) + 1;
        let mut stable = self.initial.clone();
        let mut pending: Vec<(usize, &Event)> = Vec::new();
        for at in 0..=self.events.len() {
            if at % step == 0 || at == self.events.len() {
                let everything = vec![Fate::There; pending.len()];
                show(apply(&stable, &pending, &everything), at, "all".into());
            }
            let next = self.events.get(at);
            if next.is_none_or(|(_, event)| *event == Event::Flush) {
                for fates in choices(&pending, self.budget, at as u64) {
                    show(apply(&stable, &pending, &fates), at, format!("{fates:?}"));
                }
            }
            match next {
                Some((file, Event::Flush)) => {
                    let own: Vec<_> = pending.iter().copied().filter(|(other, _)| other == file).collect();
                    stable = apply(&stable, &own, &vec![Fate::There; own.len()]);
                    pending.retain(|(other, _)| other != file);
                }
                Some((file, event)) => pending.push((*file, event)),
                None => {}
            }
        }
        seen.len()
    }
}

/// Which of the `pending` requests take effect, in up to `budget` ways: all ways where those are few; none, each one
/// alone, all but each one, each write torn, and then what chance brings.
fn choices(pending: &[(usize, &Event)], budget: usize, seed: u64) -> Vec<Vec<Fate>> {
    let count = pending.len();
    if count == 0 {
        return Vec::new();
    }
    let mut random = Chance((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut all = vec![vec![Fate::Missing; count]];
    let fate = |there| if there { Fate::There } else { Fate::Missing };
    if count < 16 && 1 << count <= budget / 2 {
        all.extend((1..1 << count).map(|bits: usize| (0..count).map(|at| fate(bits >> at & 1 == 1)).collect()));
    } else {
        for one in 0..count {
            all.push((0..count).map(|at| fate(at == one)).collect());
            all.push((0..count).map(|at| fate(at != one)).collect());
        }
    }
    let is_long = |event: &Event| matches!(event, Event::Write { data, .. } if data.len() > SECTOR);
    for (one, _) in pending.iter().enumerate().filter(|(_, (_, event))| is_long(event)) {
        for others in [Fate::There, Fate::Missing] {
            let mut fates = vec![others; count];
            fates[one] = Fate::Torn(random.next());
            all.push(fates);
        }
    }
    // Where there are more than can be tried, chance decides which are.
    while all.len() > budget {
        let at = random.next() as usize % all.len();
        all.swap_remove(at);
    }
    let torn = |random: &mut Chance| match random.next() % 4 {
        0 => Fate::Torn(random.next()),
        number => fate(number % 2 == 1),
    };
    while all.len() < budget {
        all.push((0..count).map(|_| torn(&mut random)).collect());
    }
    all
}

/// xorshift64: cheap, and the same on every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 3
    }
}

/// The files after these requests. Changes of length take effect in order, as a journalling file system does it: where one
/// is missing, later ones are, too.
fn apply(files: &[Vec<u8>], pending: &[(usize, &Event)], fates: &[Fate]) -> Vec<Vec<u8>> {
    let storages: Vec<_> = files.iter().map(|bytes| MemStorage::new(bytes.clone())).collect();
    let mut cut = vec![false; files.len()];
    for ((file, event), fate) in pending.iter().zip(fates) {
        let storage = &storages[*file];
        match (event, fate) {
            (Event::SetLen(_), Fate::Missing) => cut[*file] = true,
            (Event::SetLen(_), _) if cut[*file] => {}
            (_, Fate::Missing) => {}
            (Event::Write { offset, data }, Fate::Torn(number)) => tear(storage, *offset, data, Chance(*number | 1)),
            (event, _) => event.apply(storage).expect("in memory"),
        }
    }
    storages.into_iter().map(MemStorage::into_vec).collect()
}

/// Writes some of the sectors of a write.
fn tear(storage: &MemStorage, offset: u64, data: &[u8], mut random: Chance) {
    // Some up to or from a point, or sector by sector.
    let sectors = (data.len() / SECTOR).max(1) as u64;
    let (kind, border) = (random.next() % 4, (random.next() % sectors + 1) as usize);
    let (mut done, mut number) = (0, 0);
    while done < data.len() {
        let at = offset + done as u64;
        let count = (SECTOR - at as usize % SECTOR).min(data.len() - done);
        let there = match kind {
            0 => number < border,
            1 => number >= border,
            _ => random.next().is_multiple_of(2),
        };
        if there {
            storage.write_at(&data[done..done + count], at).expect("in memory");
        }
        done += count;
        number += 1;
    }
}

#[cfg(test)]
#[path = "crash_tests.rs"]
mod tests;
