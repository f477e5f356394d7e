//! Twofish with its key-dependent S-boxes in tables. Specification: "Twofish: A 128-Bit Block Cipher" (1998), section 4.
//!
//! The `twofish` library computes the S-boxes anew for every block, which gives about 1 MB/s.

use zeroize::{Zeroize, Zeroizing};

use super::cipher::BlockCipher;

/// The 4-bit permutations t0 to t3 of q0 and q1 (section 4.3.5).
const T: [[[u8; 16]; 4]; 2] = [
    [
        [0x8, 0x1, 0x7, 0xd, 0x6, 0xf, 0x3, 0x2, 0x0, 0xb, 0x5, 0x9, 0xe, 0xc, 0xa, 0x4],
        [0xe, 0xc, 0xb, 0x8, 0x1, 0x2, 0x3, 0x5, 0xf, 0x4, 0xa, 0x6, 0x7, 0x0, 0x9, 0xd],
        [0xb, 0xa, 0x5, 0xe, 0x6, 0xd, 0x9, 0x0, 0xc, 0x8, 0xf, 0x3, 0x2, 0x4, 0x7, 0x1],
        [0xd, 0x7, 0xf, 0x4, 0x1, 0x2, 0x6, 0xe, 0x9, 0xb, 0x3, 0x0, 0x8, 0x5, 0xc, 0xa],
    ],
    [
        [0x2, 0x8, 0xb, 0xd, 0xf, 0x7, 0x6, 0xe, 0x3, 0x1, 0x9, 0x4, 0x0, 0xa, 0xc, 0x5],
        [0x1, 0xe, 0x2, 0xb, 0x4, 0xc, 0x3, 0x7, 0x6, 0xd, 0xa, 0x5, 0xf, 0x9, 0x0, 0x8],
        [0x4, 0xc, 0x7, 0x5, 0x1, 0x6, 0x9, 0xa, 0x0, 0xe, 0xd, 0x8, 0x2, 0xb, 0x3, 0xf],
        [0xb, 0x9, 0x5, 0x1, 0xc, 0x3, 0xd, 0xe, 0x6, 0x4, 0x7, 0xf, 0x2, 0x0, 0x8, 0xa],
    ],
];

const MDS: [[u8; 4]; 4] =
    [[0x01, 0xef, 0x5b, 0x5b], [0x5b, 0xef, 0xef, 0x01], [0xef, 0x5b, 0x01, 0xef], [0xef, 0x01, 0xef, 0x5b]];
const MDS_POLYNOMIAL: u16 = 0x169;

const RS: [[u8; 8]; 4] = [
    [0x01, 0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e],
    [0xa4, 0x56, 0x82, 0xf3, 0x1e, 0xc6, 0x68, 0xe5],
    [0x02, 0xa1, 0xfc, 0xc1, 0x47, 0xae, 0x3d, 0x19],
    [0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e, 0x03],
];
const RS_POLYNOMIAL: u16 = 0x14d;

/// Which q each byte goes through, innermost (with the fourth key word) first (figure 2).
const Q_ORDER: [[usize; 5]; 4] = [[1, 1, 0, 0, 1], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1], [1, 0, 1, 1, 0]];

const fn q(which: usize, x: u8) -> u8 {
    let t = &T[which];
    let (a0, b0) = (x >> 4, x & 15);
    let (a1, b1) = (a0 ^ b0, a0 ^ (((b0 >> 1) | (b0 << 3)) & 15) ^ ((a0 << 3) & 15));
    let (a2, b2) = (t[0][a1 as usize], t[1][b1 as usize]);
    let (a3, b3) = (a2 ^ b2, a2 ^ (((b2 >> 1) | (b2 << 3)) & 15) ^ ((a2 << 3) & 15));
    t[3][b3 as usize] << 4 | t[2][a3 as usize]
}

const fn multiply(a: u8, b: u8, polynomial: u16) -> u8 {
    let (mut a, mut b, mut product) = (a as u16, b, 0);
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a <<= 1;
        if a & 0x100 != 0 {
            a ^= polynomial;
        }
        b >>= 1;
    }
    product as u8
}

/// Byte `lane` of a word through the chain of q and key words (at most four, `words[0]` outermost), then its column of
/// the MDS matrix.
fn column(lane: usize, byte: u8, words: &[[u8; 4]]) -> u32 {
    let mut y = byte;
    for (index, word) in words.iter().enumerate().rev() {
        y = q(Q_ORDER[lane][3 - index], y) ^ word[lane];
    }
    y = q(Q_ORDER[lane][4], y);
    u32::from_le_bytes(MDS.map(|row| multiply(row[lane], y, MDS_POLYNOMIAL)))
}

/// The function h of a word whose four bytes are all `byte`.
fn h(byte: u8, words: &[[u8; 4]]) -> u32 {
    (0..4).fold(0, |sum, lane| sum ^ column(lane, byte, words))
}

/// Twofish with a key.
pub(super) struct Twofish {
    keys: [u32; 40],
    boxes: [[u32; 256]; 4],
}

impl Twofish {
    /// With a key of 16, 24 or 32 bytes.
    pub(super) fn new(key: &[u8]) -> Self {
        assert!(matches!(key.len(), 16 | 24 | 32), "callers know the lengths of keys");
        let (even, odd): (Vec<[u8; 4]>, Vec<[u8; 4]>) =
            key.as_chunks::<8>().0.iter().map(|k| ([k[0], k[1], k[2], k[3]], [k[4], k[5], k[6], k[7]])).unzip();
        let (even, odd) = (Zeroizing::new(even), Zeroizing::new(odd));
        let product = |key: &[u8; 8], row: &[u8; 8]| {
            row.iter().zip(key).fold(0, |sum, (&a, &b)| sum ^ multiply(a, b, RS_POLYNOMIAL))
        };
        let words: Zeroizing<Vec<[u8; 4]>> =
            Zeroizing::new(key.as_chunks::<8>().0.iter().rev().map(|key| RS.map(|row| product(key, &row))).collect());
        let mut keys = [0; 40];
        for (number, pair) in (0u8..).zip(keys.as_chunks_mut::<2>().0) {
            let a = h(2 * number, &even);
            let b = h(2 * number + 1, &odd).rotate_left(8);
            *pair = [a.wrapping_add(b), a.wrapping_add(b).wrapping_add(b).rotate_left(9)];
        }
        let boxes = std::array::from_fn(|lane| std::array::from_fn(|byte| column(lane, byte as u8, &words)));
        Twofish { keys, boxes }
    }

    fn g(&self, x: u32) -> u32 {
        let [a, b, c, d] = x.to_le_bytes().map(usize::from);
        self.boxes[0][a] ^ self.boxes[1][b] ^ self.boxes[2][c] ^ self.boxes[3][d]
    }

    /// The function F of a round.
    fn f(&self, round: usize, a: u32, b: u32) -> (u32, u32) {
        let (t0, t1) = (self.g(a), self.g(b.rotate_left(8)));
        let first = t0.wrapping_add(t1);
        (first.wrapping_add(self.keys[2 * round + 8]), first.wrapping_add(t1).wrapping_add(self.keys[2 * round + 9]))
    }

    fn load(&self, block: &[u8; 16], keys: usize) -> [u32; 4] {
        let words = block.as_chunks::<4>().0;
        std::array::from_fn(|at| u32::from_le_bytes(words[at]) ^ self.keys[keys + at])
    }

    fn store(&self, block: &mut [u8; 16], words: [u32; 4], keys: usize) {
        for (at, bytes) in block.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *bytes = (words[at] ^ self.keys[keys + at]).to_le_bytes();
        }
    }
}

impl BlockCipher for Twofish {
    fn encrypt(&self, data: &mut [u8]) {
        for block in data.as_chunks_mut::<16>().0 {
            let [mut a, mut b, mut c, mut d] = self.load(block, 0);
            for round in 0..16 {
                let (f0, f1) = self.f(round, a, b);
                let next = ((c ^ f0).rotate_right(1), d.rotate_left(1) ^ f1);
                (a, b, c, d) = (next.0, next.1, a, b);
            }
            self.store(block, [c, d, a, b], 4);
        }
    }

    fn decrypt(&self, data: &mut [u8]) {
        for block in data.as_chunks_mut::<16>().0 {
            let [mut c, mut d, mut a, mut b] = self.load(block, 4);
            for round in (0..16).rev() {
                let before = (c, d);
                let (f0, f1) = self.f(round, before.0, before.1);
                let old = (a.rotate_left(1) ^ f0, (b ^ f1).rotate_right(1));
                (a, b, c, d) = (before.0, before.1, old.0, old.1);
            }
            self.store(block, [a, b, c, d], 0);
        }
    }
}

impl Drop for Twofish {
    fn drop(&mut self) {
        self.keys.zeroize();
        for table in &mut self.boxes {
            table.zeroize();
        }
    }
}
