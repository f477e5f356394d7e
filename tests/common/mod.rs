//! What all integration tests share: running a tool in a sandbox folder, images made once and copied, and the
//! comparison of two folders left behind by two tools.
//!
//! The oracle is Debian's qemu-img, version 10.0. Tests whose names say `oracle`, `arguments` or `clients` compare
//! wording and ask for exactly that version through [`require_wording`]; the others need any qemu-img and qemu-io.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

pub mod bitmaps;
pub mod breakage;
pub mod corpus;
pub mod damage;
pub mod files;
pub mod holder;
pub mod images;
pub mod kinds;
pub mod looks;
pub mod model;
pub mod oracle;
pub mod run;
pub mod tables;

use std::sync::OnceLock;

pub use files::Sandbox;

/// The version the reference reports, as `(major, minor)`.
pub fn reference_version() -> (u32, u32) {
    static VERSION: OnceLock<(u32, u32)> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let out = std::process::Command::new(run::reference_path()).arg("--version").output();
        let text = match out {
            Ok(out) => String::from_utf8_lossy(&out.stdout).into_owned(),
            Err(error) => panic!("these tests need the reference tools (qemu-utils): {error}"),
        };
        let number = text.split_whitespace().nth(2).unwrap_or("");
        let mut parts = number.split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    })
}

/// Fails, rather than passing silently, where the reference's wording is not the one we follow.
pub fn require_wording() {
    let (major, minor) = reference_version();
    assert!(
        (major, minor) == (10, 0),
        "this test compares wording with qemu-img 10.0; the reference here is {major}.{minor}"
    );
}

/// Small deterministic random numbers (xorshift64*), so that a seed printed by a test reproduces it.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit.max(1)
    }

    /// True once in so many times.
    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Ours two times out of three.
    pub fn tool(&mut self) -> run::Tool {
        if self.chance(3) { run::Tool::Reference } else { run::Tool::Ours }
    }

    pub fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// The differences a table-driven test found; reported together at the end, so that one failure hides no other.
pub struct Report {
    title: &'static str,
    checked: usize,
    failures: Vec<String>,
}

impl Report {
    pub fn new(title: &'static str) -> Self {
        Report { title, checked: 0, failures: Vec::new() }
    }

    pub fn note(&mut self, case: &str, differences: Vec<String>) {
        self.checked += 1;
        if !differences.is_empty() {
            self.failures.push(format!("--- {case}\n{}", differences.join("\n")));
        }
    }

    pub fn absorb(&mut self, other: Report) {
        self.checked += other.checked;
        self.failures.extend(other.failures);
    }

    pub fn finish(self) {
        assert!(self.checked > 0, "{}: nothing was checked", self.title);
        println!("{}: {} cases, {} differ", self.title, self.checked, self.failures.len());
        let (count, checked) = (self.failures.len(), self.checked);
        assert!(count == 0, "{}: {count} of {checked} cases differ\n{}", self.title, self.failures.join("\n"));
    }
}

/// Whether this run takes a case of a large matrix. `scripts/test` takes one in [`share_taken`], always the same ones,
/// spread over rows and columns; `SHARE=1` takes all of them (`scripts/soak` does that).
pub fn taken(row: &str, column: &str) -> bool {
    // FNV-1a: the same on every machine.
    let hash = row
        .bytes()
        .chain([b' '])
        .chain(column.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let (part, parts) = part_taken();
    (hash >> 20).is_multiple_of(share_taken()) && (hash >> 40) % parts == part
}

/// Which part of the cases this run takes, and of how many parts: `PART=2/10` the second of ten. Matrices of hours can so be
/// run piece by piece.
fn part_taken() -> (u64, u64) {
    let Ok(text) = std::env::var("PART") else { return (0, 1) };
    let numbers = text.split_once('/').and_then(|(part, parts)| Some((part.parse().ok()?, parts.parse().ok()?)));
    let (part, parts): (u64, u64) = numbers.unwrap_or_else(|| panic!("PART is to be like 2/10, not {text}"));
    assert!((1..=parts).contains(&part), "there is no part {part} of {parts}");
    (part - 1, parts)
}

/// One in how many cases of the large matrices is taken.
pub fn share_taken() -> u64 {
    const BY_DEFAULT: u64 = 8;
    std::env::var("SHARE").ok().and_then(|text| text.parse().ok()).filter(|share| *share > 0).unwrap_or(BY_DEFAULT)
}

/// Runs `body` on every item, two at a time (the machines have two cores), and gathers the reports.
pub fn for_all<T: Sync>(title: &'static str, items: &[T], body: impl Fn(&T, &mut Report) + Sync) {
    let mut report = Report::new(title);
    report.absorb(collect(items, body));
    report.finish();
}

/// As [`for_all`]; what was found is for the caller to report.
pub fn collect<T: Sync>(items: &[T], body: impl Fn(&T, &mut Report) + Sync) -> Report {
    let title = "";
    let cursor = std::sync::atomic::AtomicUsize::new(0);
    let total = std::sync::Mutex::new(Report::new(title));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut report = Report::new(title);
                loop {
                    let at = cursor.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(item) = items.get(at) else { break };
                    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(item, &mut report)));
                    if let Err(panic) = done {
                        let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic".into());
                        report.note("the test itself", vec![text]);
                    }
                }
                total.lock().expect("a test thread panicked").absorb(report);
            });
        }
    });
    total.into_inner().expect("a test thread panicked")
}
