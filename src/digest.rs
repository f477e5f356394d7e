//! Digests of what a guest sees, computed from pieces that several threads read.
//!
//! Both digests are the plain ones of all bytes of the disk, holes as zeros, so `sha256sum` and `b3sum` of a raw copy agree
//! with them. Neither has a short cut for holes: SHA-256 is a chain, and BLAKE3 mixes the offset into every KiB on purpose. But
//! BLAKE3 is a tree: each thread hashes its own pieces, and only 32 bytes a piece have to be put in order. With SHA-256 the
//! threads take turns, in the order of the disk; a turn is as long as hashing takes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use blake3::hazmat::{self, ChainingValue, HasherExt, Mode};
use sha2::{Digest as _, Sha256};

use crate::copy::turn::Turn;
use crate::error::Result;
use crate::units::{MIB, align_down};

/// The length of a subtree that is hashed by itself, in bytes. Pieces of work start at multiples of it.
pub const PIECE: u64 = 2 * MIB;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Which digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256, as `sha256sum` prints it.
    #[default]
    Sha256,
    /// BLAKE3 with 32 bytes, as `b3sum` prints it.
    Blake3,
}

impl Algorithm {
    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Algorithm> {
        [Algorithm::Sha256, Algorithm::Blake3].into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Blake3 => "blake3",
        }
    }
}

/// What takes bytes one behind the other.
pub trait Sink {
    /// Takes these.
    fn bytes(&mut self, bytes: &[u8]);

    /// Takes so many zeros.
    fn zeros(&mut self, len: u64) {
        let mut left = len;
        while left > 0 {
            // Never more than the array has.
            let now = left.min(ZEROS.len() as u64) as usize;
            self.bytes(&ZEROS[..now]);
            left -= now as u64;
        }
    }
}

impl Sink for Sha256 {
    fn bytes(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

impl Sink for blake3::Hasher {
    fn bytes(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

/// A digest in the making, shared by those who compute it. Pieces of work are numbered from 0 without gaps, in the order of
/// the disk.
#[derive(Debug)]
pub struct Digest {
    state: State,
    turn: Turn,
}

#[derive(Debug)]
enum State {
    Sha256(Mutex<Sha256>),
    Blake3(Mutex<Tree>),
}

impl Digest {
    /// With no pieces yet.
    pub fn new(algorithm: Algorithm) -> Digest {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(Mutex::default()),
            Algorithm::Blake3 => State::Blake3(Mutex::default()),
        };
        Digest { state, turn: Turn::default() }
    }

    /// Takes the piece of work `index`, which starts at `start`, a multiple of [`PIECE`], and ends at one or with the disk:
    /// `feed` passes its bytes on. Waits for the pieces before. If `feed` fails, or [`Digest::stop`] is called, there is
    /// no digest any more.
    pub fn add(&self, index: u64, start: u64, feed: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<()> {
        match &self.state {
            State::Blake3(tree) => {
                let mut pieces = Pieces::new(start);
                feed(&mut pieces)?;
                if self.turn.wait(index) {
                    lock(tree).append(pieces.finish());
                    self.turn.pass(index);
                }
                Ok(())
            }
            State::Sha256(hasher) => {
                if self.turn.wait(index) {
                    feed(&mut *lock(hasher))?;
                    self.turn.pass(index);
                }
                Ok(())
            }
        }
    }

    /// Nobody shall wait for pieces that will not come.
    pub fn stop(&self) {
        self.turn.stop();
    }

    /// Whether [`Digest::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.turn.is_stopped()
    }

    /// The digest in hexadecimal, when all pieces have been added.
    pub fn finish(self) -> String {
        match self.state {
            State::Sha256(hasher) => {
                let digest = hasher.into_inner().unwrap_or_else(PoisonError::into_inner).finalize();
                digest.iter().map(|byte| format!("{byte:02x}")).collect()
            }
            State::Blake3(tree) => tree.into_inner().unwrap_or_else(PoisonError::into_inner).finish(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The subtrees of some neighbouring pieces.
struct Pieces {
    at: u64,
    hasher: blake3::Hasher,
    values: Vec<ChainingValue>,
    /// The first piece of the disk, which is no subtree if nothing follows.
    first: Option<Box<blake3::Hasher>>,
}

impl Pieces {
    fn new(start: u64) -> Pieces {
        debug_assert_eq!(start % PIECE, 0);
        Pieces { at: start, hasher: hasher_at(start), values: Vec::new(), first: None }
    }

    /// The piece that ends here is whole, or the end of the disk. `start` is where it starts.
    fn close(&mut self, start: u64) {
        let done = std::mem::replace(&mut self.hasher, hasher_at(self.at.next_multiple_of(PIECE)));
        self.values.push(done.finalize_non_root());
        if start == 0 {
            self.first = Some(Box::new(done));
        }
    }

    fn finish(mut self) -> Pieces {
        let start = align_down(self.at, PIECE);
        if start < self.at {
            self.close(start);
        }
        self
    }
}

fn hasher_at(offset: u64) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher
}

impl Sink for Pieces {
    fn bytes(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = PIECE - self.at % PIECE;
            // The smaller of the two is a length in memory.
            let (now, later) = rest.split_at(room.min(rest.len() as u64) as usize);
            self.hasher.update(now);
            self.at += now.len() as u64;
            if self.at.is_multiple_of(PIECE) {
                self.close(self.at - PIECE);
            }
            rest = later;
        }
    }
}

/// The tree above the pieces: of each height at most one finished subtree, the highest first. Specification: BLAKE3, "Tree of
/// chunks".
#[derive(Debug, Default)]
struct Tree {
    stack: Vec<ChainingValue>,
    /// How many pieces are in the stack.
    count: u64,
    /// The last piece, which may be the right edge of the root.
    last: Option<ChainingValue>,
    /// The first piece, which is all there is of a small disk.
    first: Box<blake3::Hasher>,
}

impl Tree {
    fn append(&mut self, pieces: Pieces) {
        if let Some(first) = pieces.first {
            self.first = first;
        }
        for value in pieces.values {
            if let Some(last) = self.last.replace(value) {
                self.push(last);
            }
        }
    }

    fn push(&mut self, mut value: ChainingValue) {
        self.count += 1;
        let mut count = self.count;
        while count.is_multiple_of(2) {
            let left = self.stack.pop().expect("an even number of pieces has a left half");
            value = hazmat::merge_subtrees_non_root(&left, &value, Mode::Hash);
            count /= 2;
        }
        self.stack.push(value);
    }

    fn finish(mut self) -> String {
        if self.stack.is_empty() {
            return self.first.finalize().to_hex().to_string();
        }
        let root_left = self.stack.remove(0);
        let mut right = self.last.expect("there are several pieces");
        while let Some(left) = self.stack.pop() {
            right = hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
        hazmat::merge_subtrees_root(&root_left, &right, Mode::Hash).to_hex().to_string()
    }
}

#[cfg(test)]
#[path = "digest_tests.rs"]
mod tests;
