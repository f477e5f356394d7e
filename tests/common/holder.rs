//! Programs that hold an image open.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Sandbox;
use super::files::words;
use super::run::Tool;

/// How long a holder may take to get ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program that holds an image until it is dropped.
pub struct Holder {
    child: Child,
    /// Where its socket is, if it has one.
    _sockets: tempfile::TempDir,
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Holder {
    /// `line` starts with `qemu-io`, which is asked to read once, or `qemu-nbd`, whose socket shows that it is ready.
    pub fn start(sandbox: &Sandbox, line: &str) -> Holder {
        // The path of a socket must be absolute and short.
        let sockets = tempfile::tempdir().expect("a folder for sockets");
        let socket = sockets.path().join("s");
        let line = line.replace("SOCKET", &socket.to_string_lossy());
        let mut words = line.split(' ');
        let program = words.next().expect("a program");
        let mut command = Command::new(program);
        command.args(words);
        let mut holder = Holder { child: spawn(command, sandbox.path()), _sockets: sockets };
        let mut before = 0;
        if program == "qemu-io" {
            let ask = holder.child.stdin.as_mut().expect("a pipe").write_all(b"read 0 512\n");
            ask.expect("the holder listens");
            let mut lines = BufReader::new(holder.child.stdout.take().expect("a pipe")).lines();
            let ready = lines.any(|line| line.is_ok_and(|line| line.contains("read 512/512")));
            assert!(ready, "{line} cannot open the image");
        } else {
            // It listens before it opens the image.
            wait_until(&line, || socket.exists() && holder.has_settled(&[], &mut before));
        }
        holder
    }

    /// A command of one of the tools that takes long; it is ready when it has locked `files` and opens nothing more.
    pub fn start_tool(sandbox: &Sandbox, tool: Tool, line: &str, files: &[&str]) -> Holder {
        let sockets = tempfile::tempdir().expect("a folder for sockets");
        let mut command = Command::new(tool.path());
        command.args(words(line));
        let mut holder = Holder { child: spawn(command, sandbox.path()), _sockets: sockets };
        let files: Vec<_> = files.iter().map(|file| sandbox.file(file)).collect();
        let mut before = 0;
        wait_until(line, || {
            assert!(holder.is_there(), "{} {line} has ended", tool.name());
            holder.has_settled(&files, &mut before)
        });
        holder
    }

    /// Whether it has locked the files, and as many bytes of whatever files as a moment ago.
    fn has_settled(&self, files: &[PathBuf], before: &mut usize) -> bool {
        let locks = locks(self.pid());
        let has = |file: &PathBuf| std::fs::metadata(file).is_ok_and(|info| locks.contains(&info.ino()));
        let settled = !locks.is_empty() && files.iter().all(has) && locks.len() == *before;
        *before = locks.len();
        std::thread::sleep(Duration::from_millis(50));
        settled
    }

    /// The ranges of bytes of a file that it has locked, as the system writes them.
    pub fn locked(&self, file: &Path) -> Vec<String> {
        let inode = format!(":{}", std::fs::metadata(file).expect("the file").ino());
        let mut ranges: Vec<_> = lock_lines(self.pid())
            .iter()
            .filter_map(|line| line.split_once(&inode).map(|(_, range)| range.trim().to_owned()))
            .collect();
        ranges.sort_unstable();
        ranges
    }

    /// Whether it still runs.
    pub fn is_there(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The number of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

fn spawn(mut command: Command, dir: &Path) -> Child {
    command.current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("the holder starts")
}

fn wait_until(line: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < end, "{line} does not get ready");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The inode number of each range of a file that a process has locked.
fn locks(pid: u32) -> Vec<u64> {
    let inode = |line: &String| line.split_whitespace().find_map(|word| word.rsplit_once(':')?.1.parse().ok());
    lock_lines(pid).iter().filter_map(inode).collect()
}

/// The locks of a process. A line says `lock: 1: OFDLCK  ADVISORY  READ -1 fe:00:10019137 100 101`.
fn lock_lines(pid: u32) -> Vec<String> {
    let infos = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let texts: Vec<_> = infos.filter_map(|info| std::fs::read_to_string(info.path()).ok()).collect();
    let lines = texts.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("lock:"));
    lines.map(str::to_owned).collect()
}
