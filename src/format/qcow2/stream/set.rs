//! A set of numbers in ascending order that knows how many of them lie below a number, in little memory: a run of any length
//! takes as much as a bitmap of [`BITS`] bits.

use std::ops::Range;

/// Numbers in one bitmap.
const BITS: u64 = 4096;
const WORDS: usize = (BITS / 64) as usize;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct ClusterSet {
    chunks: Vec<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    first: u64,
    /// How many numbers lie in the chunks before this one.
    before: u64,
    numbers: Numbers,
}

#[derive(Debug)]
enum Numbers {
    /// So many from the first on.
    Run(u64),
    /// Those from the first on whose bits are set, and how many they are.
    Bits(Box<[u64; WORDS]>, u64),
}

impl Chunk {
    fn count(&self) -> u64 {
        match &self.numbers {
            Numbers::Run(len) => *len,
            Numbers::Bits(_, count) => *count,
        }
    }

    /// How many of its numbers lie below `number`.
    fn below(&self, number: u64) -> u64 {
        let inside = number.saturating_sub(self.first);
        match &self.numbers {
            Numbers::Run(len) => inside.min(*len),
            Numbers::Bits(_, count) if inside >= BITS => *count,
            Numbers::Bits(words, _) => {
                let (word, bit) = place(inside);
                let whole: u32 = words[..word].iter().map(|word| word.count_ones()).sum();
                u64::from(whole + (words[word] & ((1 << bit) - 1)).count_ones())
            }
        }
    }

    /// The next run in it that reaches beyond `from`; `None` if there is none.
    fn run_from(&self, from: u64) -> Option<Range<u64>> {
        match &self.numbers {
            Numbers::Run(len) => (from < self.first + len).then(|| self.first.max(from)..self.first + len),
            Numbers::Bits(words, _) => {
                let start = next_bit(words, from.saturating_sub(self.first), true)?;
                let end = next_bit(words, start, false).unwrap_or(BITS);
                Some(self.first + start..self.first + end)
            }
        }
    }
}

/// Word and bit of a number below [`BITS`].
fn place(inside: u64) -> (usize, u64) {
    ((inside / 64) as usize, inside % 64)
}

/// The first bit from `from` on that is set, or not set.
fn next_bit(words: &[u64; WORDS], from: u64, set: bool) -> Option<u64> {
    let mut at = from;
    while at < BITS {
        let (word, bit) = place(at);
        let word = if set { words[word] } else { !words[word] } >> bit;
        if word != 0 {
            return Some(at + u64::from(word.trailing_zeros()));
        }
        at += 64 - bit;
    }
    None
}

impl ClusterSet {
    /// Adds numbers, which must not lie below the last one that is there; that one may be among them.
    pub fn push(&mut self, numbers: Range<u64>) {
        let mut start = numbers.start;
        while start < numbers.end {
            let Some(last) = self.chunks.last_mut() else {
                self.add_chunk(start, numbers.end);
                return;
            };
            match &mut last.numbers {
                Numbers::Run(len) if start <= last.first + *len => {
                    *len = (*len).max(numbers.end - last.first);
                    return;
                }
                Numbers::Bits(words, count) if start < last.first + BITS => {
                    let end = numbers.end.min(last.first + BITS);
                    for number in start - last.first..end - last.first {
                        let (word, bit) = place(number);
                        *count += u64::from(words[word] >> bit & 1 == 0);
                        words[word] |= 1 << bit;
                    }
                    if *count == BITS {
                        self.close_run();
                    }
                    start = end;
                }
                _ => {
                    self.add_chunk(start, numbers.end);
                    return;
                }
            }
        }
    }

    fn add_chunk(&mut self, start: u64, end: u64) {
        let before = self.len();
        let numbers =
            if end - start >= BITS { Numbers::Run(end - start) } else { Numbers::Bits(Box::new([0; WORDS]), 0) };
        let fill = matches!(numbers, Numbers::Bits(..));
        self.chunks.push(Chunk { first: start, before, numbers });
        if fill {
            self.push(start..end);
        }
    }

    /// Makes a run of the last bitmap, all of whose bits are set, or of the run before it a longer one.
    fn close_run(&mut self) {
        let Some(full) = self.chunks.pop() else { return };
        if let Some(Chunk { first, numbers: Numbers::Run(len), .. }) = self.chunks.last_mut()
            && *first + *len == full.first
        {
            *len += BITS;
            return;
        }
        self.chunks.push(Chunk { numbers: Numbers::Run(BITS), ..full });
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.chunks.last().map_or(0, |last| last.before + last.count())
    }

    /// How many lie below `number`.
    pub fn rank(&self, number: u64) -> u64 {
        let after = self.chunks.partition_point(|chunk| chunk.first < number);
        match after.checked_sub(1) {
            Some(index) => self.chunks[index].before + self.chunks[index].below(number),
            None => 0,
        }
    }

    /// Runs of those that lie in `range`, cut off at its ends, in ascending order; two of them may touch.
    pub fn runs(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut index = self.chunks.partition_point(|chunk| chunk.first <= range.start).saturating_sub(1);
        let mut at = range.start;
        std::iter::from_fn(move || {
            while at < range.end {
                let chunk = self.chunks.get(index)?;
                match chunk.run_from(at) {
                    Some(run) if run.start < range.end => {
                        let run = run.start..run.end.min(range.end);
                        at = run.end;
                        return Some(run);
                    }
                    Some(_) => return None,
                    None => index += 1,
                }
            }
            None
        })
    }
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;
