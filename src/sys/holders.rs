//! Who holds a lock on a byte of a file. Locks of an open file belong to no process, so that the kernel names none when it
//! is asked about the lock; but `/proc/PID/fdinfo` lists the locks of every open file of every process that may be
//! looked at.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the search may take: a machine may run very many processes with very many files.
const PATIENCE: Duration = Duration::from_millis(500);

/// A byte of a file that somebody has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockedByte {
    /// The device that the file is on, as `stat` numbers it.
    pub device: u64,
    /// The file's inode number.
    pub inode: u64,
    /// The offset of the byte.
    pub offset: u64,
}

/// A process that has a file open through which a byte is locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// The name of its program, in at most 15 printable bytes.
    pub command: String,
}

impl Holder {
    /// Whether it is this process.
    pub fn is_this_process(&self) -> bool {
        self.pid == std::process::id()
    }
}

/// The processes that have locked the byte, by number. What cannot be looked at is left out, and so is what is not found
/// in half a second.
pub fn holders(byte: LockedByte) -> Vec<Holder> {
    let end = Instant::now() + PATIENCE;
    let mut pids: Vec<u32> = numbers(Path::new("/proc")).collect();
    pids.sort_unstable();
    pids.into_iter().take_while(|_| Instant::now() < end).filter(|pid| holds(*pid, byte, end)).map(holder).collect()
}

/// Whether this process has locked the byte itself, through another open file.
pub fn held_by_this_process(byte: LockedByte) -> bool {
    holds(std::process::id(), byte, Instant::now() + PATIENCE)
}

/// The entries of a folder of `/proc` that are numbers.
fn numbers(folder: &Path) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(folder).ok().into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn holds(pid: u32, byte: LockedByte, end: Instant) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    numbers(&process.join("fd")).take_while(|_| Instant::now() < end).any(|fd| {
        let same = fs::metadata(process.join(format!("fd/{fd}")))
            .is_ok_and(|info| info.dev() == byte.device && info.ino() == byte.inode);
        same && fs::read_to_string(process.join(format!("fdinfo/{fd}")))
            .is_ok_and(|text| text.lines().any(|line| covers(line, byte.offset)))
    })
}

/// Whether a line of `fdinfo` is that of a lock on the byte at `offset`, as in
/// `lock: 1: OFDLCK  ADVISORY  READ -1 fe:00:10019137 100 101` (a tab behind the colon); the last byte may be `EOF`.
fn covers(line: &str, offset: u64) -> bool {
    let Some(lock) = line.strip_prefix("lock:") else { return false };
    let mut words = lock.split_whitespace().rev();
    let (Some(last), Some(first)) = (words.next(), words.next()) else { return false };
    let last = if last == "EOF" { Some(u64::MAX) } else { last.parse().ok() };
    let kind = words.next_back().and(words.next_back());
    matches!(kind, Some("OFDLCK" | "POSIX"))
        && matches!((first.parse::<u64>(), last), (Ok(first), Some(last)) if (first..=last).contains(&offset))
}

fn holder(pid: u32) -> Holder {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(&name);
    // A process chooses its name, so it may hold anything.
    let command = name.trim_end_matches('\n').chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    Holder { pid, command }
}

#[cfg(test)]
#[path = "holders_tests.rs"]
mod tests;
