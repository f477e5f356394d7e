//! System calls that do less than they were asked for. The kernel may read, write or copy fewer bytes than the caller wants
//! (signals, full or failing disks, pipes), and seldom does. Here a tracer makes it: it lowers the counts of calls on the
//! files of the sandbox and on pipes before the kernel sees them.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod common;

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::looks::{CHANGES, IMAGES, differences, look};
use common::run::{Tool, ours_path};
use common::{Random, Sandbox, for_all};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Runs a shell script and lowers counts of what our program does in it.
struct Shortener {
    folder: PathBuf,
    program: PathBuf,
    random: Random,
    /// Who is inside a system call.
    inside: HashSet<Pid>,
    lowered: usize,
}

/// How a script ended.
struct Ended {
    code: i32,
    stderr: String,
    lowered: usize,
}

impl Shortener {
    /// Runs `script` in a sandbox, with `qemu-img` for our program.
    fn run(sandbox: &Sandbox, script: &str) -> Ended {
        let folder = sandbox.path().canonicalize().expect("the sandbox");
        let program = ours_path().canonicalize().expect("our program");
        // Nothing is to happen before the tracer is there.
        let prepared =
            format!("read go; exec </dev/null 2>stderr; qemu-img() {{ '{}' \"$@\"; }}; {script}", program.display());
        let mut command = Command::new("bash");
        command.args(["-c", &prepared]).current_dir(&folder).env("LC_ALL", "C").stdin(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process number"));
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(pid, options).expect("tracing is allowed");
        ptrace::interrupt(pid).expect("it can be stopped");
        child.stdin.take().expect("its input").write_all(b"\n").expect("the word to go");
        let mut tracer = Shortener { folder, program, random: Random::new(7), inside: HashSet::new(), lowered: 0 };
        let code = tracer.follow(pid);
        // The tracer has waited for it already.
        let _ = child.wait();
        let stderr = std::fs::read_to_string(sandbox.file("stderr")).unwrap_or_default();
        Ended { code, stderr, lowered: tracer.lowered }
    }

    /// Until the first process ends. The others are its children and threads; only those of this thread are waited for, as
    /// other tests run beside this one.
    fn follow(&mut self, first: Pid) -> i32 {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            let (pid, signal) = match waitpid(None, Some(flags)).expect("there is somebody") {
                WaitStatus::Exited(pid, code) if pid == first => return code,
                WaitStatus::Signaled(pid, signal, _) if pid == first => return 128 + signal as i32,
                WaitStatus::PtraceSyscall(pid) => {
                    if self.inside.insert(pid) {
                        self.lower(pid);
                    } else {
                        self.inside.remove(&pid);
                    }
                    (pid, None)
                }
                WaitStatus::PtraceEvent(pid, ..) => (pid, None),
                WaitStatus::Stopped(pid, signal) => (pid, Some(signal).filter(|signal| *signal != Signal::SIGTRAP)),
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                    self.inside.remove(&pid);
                    continue;
                }
                _ => continue,
            };
            // It may have been killed meanwhile.
            let _ = ptrace::syscall(pid, signal);
        }
    }

    /// Lowers the count of the call that this thread is about to make, two times out of three.
    fn lower(&mut self, pid: Pid) {
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        let call = registers.orig_rax as i64;
        let (file, count) = match call {
            libc::SYS_read | libc::SYS_write | libc::SYS_pread64 | libc::SYS_pwrite64 => {
                (registers.rdi, &mut registers.rdx)
            }
            libc::SYS_copy_file_range => (registers.rdi, &mut registers.r8),
            _ => return,
        };
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let leads_to = |name: String| std::fs::read_link(folder.join(name)).unwrap_or_default();
        if *count < 2 || self.random.below(3) == 0 || leads_to("exe".into()) != self.program {
            return;
        }
        let target = leads_to(format!("fd/{file}"));
        if !target.starts_with(&self.folder) && !is_pipe(&target) {
            return;
        }
        // Around the page cache the kernel does whole blocks or nothing.
        let unit = if is_direct(&folder.join(format!("fdinfo/{file}"))) { 4096 } else { 1 };
        let less = (1 + self.random.below(*count - 1)) / unit * unit;
        if less > 0 {
            *count = less;
            ptrace::setregs(pid, registers).expect("its registers");
            self.lowered += 1;
        }
    }
}

fn is_pipe(target: &Path) -> bool {
    target.to_string_lossy().starts_with("pipe:[")
}

fn is_direct(info: &Path) -> bool {
    let text = std::fs::read_to_string(info).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|text| i32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0);
    flags & libc::O_DIRECT != 0
}

fn images() -> Sandbox {
    let images = Sandbox::new();
    images.script(Tool::Reference, IMAGES).expect_ok("preparing the images");
    images
}

/// What is wrong with how a script ended that was hindered at least so often.
fn bad_end(ended: &Ended, least: usize) -> Vec<String> {
    let good = ended.code == 0 && ended.stderr.is_empty() && ended.lowered >= least;
    let text = || format!("exit {}, {} calls shortened: {}", ended.code, ended.lowered, ended.stderr);
    (!good).then(text).into_iter().collect()
}

#[test]
fn short_counts_change_no_change() {
    let images = images();
    for_all("changes with short counts", &CHANGES, |change, report| {
        let finished = Sandbox::copy_of(images.path());
        finished.run(Tool::Ours, change.line).expect_ok(change.line);
        let after = look(finished.path(), change).expect("readable");
        let sandbox = Sandbox::copy_of(images.path());
        let ended = Shortener::run(&sandbox, &format!("qemu-img {}", change.line));
        let mut found = if change.image == "broken" { Vec::new() } else { bad_end(&ended, 5) };
        found.extend(differences(sandbox.path(), change, &[&after]));
        report.note(change.line, found);
    });
}

/// Scripts that make `out`, and what that holds then.
const TARGETS: [(&str, &str); 11] = [
    ("qemu-img convert -f raw -O raw noise out", "noise"),
    ("qemu-img convert -f raw -O raw -t none -T none noise out", "noise"),
    ("qemu-img convert -f raw -O qcow2 noise out", "noise"),
    ("qemu-img convert -c -W -m 4 -f raw -O qcow2 noise out", "noise"),
    ("qemu-img convert -C -f raw -O raw noise out", "noise"),
    ("qemu-img convert -f qcow2 -O raw disk out", "disk"),
    ("qemu-img convert -f qcow2 -O qcow2 -l one disk out && qemu-img convert -f qcow2 -O raw -l one disk one", "one"),
    ("qemu-img dd -f raw -O qcow2 bs=64k if=noise of=out", "noise"),
    ("cat noise | qemu-img convert -f raw -O qcow2 - out", "noise"),
    ("qemu-img convert -f raw -O qcow2 noise - | cat > out", "noise"),
    ("qemu-img convert -f qcow2 -O raw disk - | cat > out", "disk"),
];

#[test]
fn short_counts_change_no_target() {
    let images = images();
    for_all("targets with short counts", &TARGETS, |(script, holds), report| {
        let sandbox = Sandbox::copy_of(images.path());
        let ended = Shortener::run(&sandbox, &format!("set -o pipefail; {script}"));
        let mut found = bad_end(&ended, 3);
        let verdict = sandbox.run(Tool::Reference, &format!("compare {holds} out"));
        found.extend((!verdict.ok()).then(|| verdict.to_string()));
        report.note(script, found);
    });
}

/// What a command says does not depend on it either.
#[test]
fn short_counts_change_no_answer() {
    let images = images();
    let lines =
        ["compare -f raw -F qcow2 noise base", "check disk", "info --output=json disk", "map disk", "digest disk"];
    for_all("answers with short counts", &lines, |line, report| {
        let sandbox = Sandbox::copy_of(images.path());
        let wanted = sandbox.run(Tool::Ours, line);
        let ended = Shortener::run(&sandbox, &format!("qemu-img {line} > answer"));
        let mut found = bad_end(&ended, 3);
        let answer = std::fs::read_to_string(sandbox.file("answer")).unwrap_or_default();
        found.extend((answer != wanted.stdout).then(|| format!("{answer}\ninstead of\n{}", wanted.stdout)));
        report.note(line, found);
    });
}
