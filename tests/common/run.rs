//! Starting our program or the reference, with a time limit and a plain environment.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Which of the two programs runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Ours,
    Reference,
}

pub const BOTH: [Tool; 2] = [Tool::Ours, Tool::Reference];

impl Tool {
    pub fn path(self) -> PathBuf {
        match self {
            Tool::Ours => ours_path(),
            Tool::Reference => reference_path(),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Tool::Ours => "ours",
            Tool::Reference => "reference",
        }
    }
}

/// Our binary; `QEMU_IMG_OURS` names another one (the reference itself, to test the tests).
pub fn ours_path() -> PathBuf {
    match std::env::var_os("QEMU_IMG_OURS") {
        Some(path) => path.into(),
        None => env!("CARGO_BIN_EXE_qemu-img").into(),
    }
}

/// The reference; `QEMU_IMG_REFERENCE` names another one than Debian's.
pub fn reference_path() -> PathBuf {
    std::env::var_os("QEMU_IMG_REFERENCE").map_or_else(|| "/usr/bin/qemu-img".into(), PathBuf::from)
}

/// What a finished program left: its output and how it ended.
/// Two are equal if they differ in nothing but our advice.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    /// The exit code; 124 when it ran into the time limit, 128 and above for a signal.
    pub code: i32,
}

impl Outcome {
    pub fn ok(&self) -> bool {
        self.code == 0
    }

    /// The outcome of a step that a test depends on; anything but success is a failure of the test.
    #[track_caller]
    pub fn expect_ok(self, what: &str) -> Outcome {
        assert!(self.code == 0, "{what} failed:\n{self}");
        self
    }
}

impl PartialEq for Outcome {
    fn eq(&self, other: &Outcome) -> bool {
        let parts = |outcome: &Outcome| (outcome.code, outcome.stdout.clone(), without_advice(&outcome.stderr));
        parts(self) == parts(other)
    }
}

/// Ours says below its messages what to do next, where that is known. Without those lines the messages are the
/// reference's, which never has a line that begins like this.
pub fn without_advice(stderr: &str) -> String {
    stderr.split_inclusive('\n').filter(|line| !line.starts_with("Hint: ")).collect()
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {}\nstdout: {}\nstderr: {}", self.code, self.stdout.trim_end(), self.stderr.trim_end())
    }
}

/// Runs one of the tools with `args` in `dir`.
pub fn run_in<S: AsRef<OsStr>>(dir: &Path, tool: Tool, args: &[S]) -> Outcome {
    use std::os::unix::process::CommandExt;
    // Its own name is part of some messages, and where it was found is not.
    let mut command = Command::new(tool.path());
    command.arg0("qemu-img").args(args).env("PATH", path_with(tool));
    finish(command, dir, Some(TIME_LIMIT))
}

/// How long a tool may take.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// The exit code of a tool that took longer, as `timeout` has it.
pub const TIMEOUT: i32 = 124;

/// A `PATH` that finds the tool as `qemu-img`: its own name is part of some messages.
fn path_with(tool: Tool) -> String {
    format!("{}:{}", bin_folder(tool).display(), std::env::var("PATH").unwrap_or_default())
}

/// Runs any program in `dir`: standard input closed, C locale, UTC, no HOME, ended after a minute.
pub fn program_in<S: AsRef<OsStr>>(dir: &Path, program: impl AsRef<OsStr>, args: &[S]) -> Outcome {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=5").arg("60").arg(program).args(args);
    finish(command, dir, None)
}

/// Runs a shell script in `dir` with the tool first on its `PATH` under the name `qemu-img`.
pub fn script_in(dir: &Path, tool: Tool, script: &str) -> Outcome {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "300", "bash", "-c", script]).env("PATH", path_with(tool));
    finish(command, dir, None)
}

/// A folder that holds only `qemu-img`, a link to the tool; made once per process, safe among several.
fn bin_folder(tool: Tool) -> &'static Path {
    static FOLDERS: [OnceLock<PathBuf>; 2] = [OnceLock::new(), OnceLock::new()];
    FOLDERS[tool as usize].get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bin-{}", tool.name()));
        let (link, target) = (folder.join("qemu-img"), tool.path());
        if std::fs::read_link(&link).ok().as_deref() != Some(&*target) {
            std::fs::create_dir_all(&folder).expect("folder for the link");
            let fresh = folder.join(format!("new-{}", std::process::id()));
            let _ = std::fs::remove_file(&fresh);
            std::os::unix::fs::symlink(target, &fresh).expect("link to the tool");
            std::fs::rename(fresh, link).expect("link to the tool");
        }
        folder
    })
}

fn finish(mut command: Command, dir: &Path, limit: Option<Duration>) -> Outcome {
    let path = command
        .get_envs()
        .find(|(key, _)| *key == "PATH")
        .and_then(|(_, value)| value.map(ToOwned::to_owned))
        .or_else(|| std::env::var_os("PATH"))
        .unwrap_or_default();
    let child = command
        .current_dir(dir)
        .env_clear()
        .env("PATH", path)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let watched = limit.map(|limit| Watched::start(child.id(), limit));
    let out = child.wait_with_output().unwrap_or_else(|error| panic!("cannot wait for {command:?}: {error}"));
    use std::os::unix::process::ExitStatusExt;
    let code = match watched.is_some_and(Watched::end) {
        true => TIMEOUT,
        false => out.status.code().unwrap_or_else(|| 128 + out.status.signal().unwrap_or(0)),
    };
    Outcome {
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        code,
    }
}

/// A process that is killed when it takes too long. One thread watches over all of them: a `timeout` in front of each of
/// the many thousands costs more than a third of the time that they need themselves.
struct Watched(u64);

/// A number of its own, since those of processes are used again; the process; when it ends; whether it has been killed.
type Watches = Vec<(u64, u32, Instant, bool)>;

static WATCHES: Mutex<Watches> = Mutex::new(Vec::new());

impl Watched {
    fn start(process: u32, limit: Duration) -> Self {
        static THREAD: OnceLock<()> = OnceLock::new();
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        THREAD.get_or_init(|| {
            std::thread::spawn(|| {
                loop {
                    std::thread::sleep(Duration::from_millis(500));
                    let now = Instant::now();
                    let mut watches = WATCHES.lock().expect("the watches");
                    for (_, process, end, killed) in watches.iter_mut().filter(|(_, _, end, _)| *end <= now) {
                        *killed = true;
                        *end = now + Duration::from_secs(5);
                        let process = nix::unistd::Pid::from_raw(i32::try_from(*process).expect("a process"));
                        let _ = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL);
                    }
                }
            });
        });
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        WATCHES.lock().expect("the watches").push((number, process, Instant::now() + limit, false));
        Watched(number)
    }

    /// The process has ended; says whether it had to be killed.
    fn end(self) -> bool {
        let mut watches = WATCHES.lock().expect("the watches");
        let at = watches.iter().position(|(number, ..)| *number == self.0).expect("it is watched");
        watches.swap_remove(at).3
    }
}
