//! Snapshots against a model: writes by the reference, snapshots taken, applied and deleted by ours and the reference in
//! turn, on every kind of image. After each step every snapshot holds what it held when it was taken, the disk holds what
//! it should, and the reference's check finds neither errors nor leaks.

mod common;

use common::files::hash_file;
use common::kinds::{self, Kind, LOCKED, Open, SECRET};
use common::model;
use common::run::{Outcome, Tool, program_in};
use common::{Random, Report, Sandbox, for_all};

/// What one snapshot must hold.
struct Taken {
    id: u64,
    name: String,
    content: u64,
    size: u64,
}

struct Disk<'a> {
    kind: &'a Kind,
    sandbox: Sandbox,
    random: Random,
    snapshots: Vec<Taken>,
    content: u64,
    size: u64,
    log: Vec<String>,
}

impl<'a> Disk<'a> {
    fn new(kind: &'a Kind, seed: u64) -> Self {
        let sandbox = kind.sandbox();
        let mut model = Disk {
            kind,
            sandbox,
            random: Random::new(seed),
            snapshots: Vec::new(),
            content: 0,
            size: 0,
            log: vec![format!("seed {seed}")],
        };
        model.size = model.virtual_size();
        model.content = model.read("").expect("the image is readable to begin with");
        for id in model.present_ids() {
            let content = model.read(&id.to_string()).expect("its snapshots are readable to begin with");
            let name = format!("old-{id}");
            model.snapshots.push(Taken { id, name, content, size: model.size });
        }
        model
    }

    fn virtual_size(&self) -> u64 {
        let info = self.sandbox.reference(&format!("info --output=json {}", self.kind.operand()));
        let line =
            info.stdout.lines().rfind(|line| line.starts_with("    \"virtual-size\"")).expect("a size").to_owned();
        line.chars().filter(char::is_ascii_digit).collect::<String>().parse().expect("a number")
    }

    fn present_ids(&self) -> Vec<u64> {
        let list = self.sandbox.reference(&format!("snapshot -l {}", self.kind.operand())).stdout;
        list.lines().skip(2).filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
    }

    /// A hash of what the reference reads: of a snapshot, or of the disk.
    fn read(&self, snapshot: &str) -> Result<u64, String> {
        let choice = if snapshot.is_empty() { String::new() } else { format!("-l snapshot.id={snapshot}") };
        let _ = std::fs::remove_file(self.sandbox.file("read.raw"));
        let done = self.sandbox.reference(&format!("convert {choice} {} -O raw read.raw", self.kind.operand()));
        if !done.ok() {
            return Err(format!("reading {snapshot:?}: {done}"));
        }
        Ok(hash_file(&self.sandbox.file("read.raw")))
    }

    fn io(&mut self, commands: &[String]) -> Outcome {
        let mut args: Vec<String> = Vec::new();
        match self.kind.open {
            Open::Locked => args.extend(SECRET.split(' ').chain(["--image-opts", LOCKED]).map(String::from)),
            _ => args.extend(["-f", "qcow2", "disk"].map(String::from)),
        }
        for command in commands {
            args.extend(["-c".to_owned(), command.clone()]);
        }
        self.log.push(format!("qemu-io {commands:?}"));
        program_in(self.sandbox.path(), "qemu-io", &args)
    }

    fn write(&mut self) {
        let reach = self.size.min(9 << 20);
        let mut commands = Vec::new();
        for _ in 0..1 + self.random.below(6) {
            let offset = self.random.below(reach / 512) * 512;
            let len = ((1 + self.random.below(600)) * 512).min(reach - offset);
            let pattern = 1 + self.random.below(255);
            commands.push(match self.random.below(8) {
                0 => format!("write -z {offset} {len}"),
                1 => format!("write -z -u {offset} {len}"),
                2 => format!("discard {offset} {len}"),
                3 if reach >= 4 << 20 => format!("write -c -P {pattern} {} 2M", self.random.below(2) << 21),
                4 => format!("write -b -P {pattern} 0 {len}"),
                _ => format!("write -P {pattern} {offset} {len}"),
            });
        }
        // Some commands are refused by some kinds of images; what was done is what the reference reads afterwards.
        self.io(&commands);
        self.content = self.read("").expect("the disk is readable after a write");
    }

    /// Gives the disk another size; some kinds of images refuse that.
    fn resize(&mut self) {
        // The reference's `check -r`, which is needed below, forgets the snapshots of images with bitmaps.
        if self.kind.name.starts_with("bitmaps") {
            return;
        }
        let size = (1 << 20) + self.random.below(20 << 10) * 512;
        let line = format!("resize -q --shrink {} {size}", self.kind.operand());
        self.log.push(format!("reference {line}"));
        if self.sandbox.reference(&line).ok() {
            // The reference leaks clusters when it makes a disk smaller.
            self.sandbox.reference(&format!("check -q -r leaks {}", self.kind.operand()));
            self.size = size;
            self.content = self.read("").expect("the disk is readable after it was resized");
        }
    }

    /// Runs `snapshot` with one of the tools; says whether it was done or, for a good reason, refused.
    fn snapshot(&mut self, option: &str) -> Result<bool, String> {
        let tool = if self.random.below(3) == 0 && !self.narrow() { Tool::Reference } else { Tool::Ours };
        let line = format!("snapshot {option} {}", self.kind.operand());
        self.log.push(format!("{} {line}", tool.name()));
        let done = self.sandbox.run(tool, &line);
        if done.ok() && done.stdout.is_empty() && done.stderr.is_empty() {
            return Ok(true);
        }
        // What cannot work changes nothing. The reference leaks clusters where a refcount has no room, so it is not asked.
        if self.narrow() && done.stderr.contains(": Invalid argument\nThe refcount of the cluster at ") {
            return Ok(false);
        }
        if self.kind.name.starts_with("bitmaps") && done.stderr.ends_with(": Device has active dirty bitmaps\n") {
            return Ok(false);
        }
        Err(done.to_string())
    }

    /// Whether refcounts are so narrow that some snapshots cannot be taken or applied.
    fn narrow(&self) -> bool {
        matches!(&*self.kind.name, "refcount-1" | "refcount-2" | "snapshots-no-room" | "snapshots-full-refcount")
    }

    fn create(&mut self) -> Result<(), String> {
        let id = self.snapshots.iter().map(|taken| taken.id).max().unwrap_or(0) + 1;
        let name = format!("name-{}", self.random.below(1000));
        let done = self.snapshot(&format!("-c {name}"))?;
        self.snapshots.extend(done.then_some(Taken { id, name, content: self.content, size: self.size }));
        Ok(())
    }

    fn apply(&mut self) -> Result<(), String> {
        if self.snapshots.is_empty() {
            return self.create();
        }
        let at = self.random.below(self.snapshots.len() as u64) as usize;
        if self.snapshot(&format!("-a {}", self.snapshots[at].id))? {
            (self.content, self.size) = (self.snapshots[at].content, self.snapshots[at].size);
        }
        Ok(())
    }

    fn delete(&mut self) -> Result<(), String> {
        if self.snapshots.len() < 2 {
            return self.create();
        }
        let at = self.random.below(self.snapshots.len() as u64) as usize;
        let name = self.snapshots[at].name.clone();
        if name.starts_with("old-") {
            return Ok(());
        }
        let at = self.snapshots.iter().position(|taken| taken.name == name).expect("it is there");
        self.snapshot(&format!("-d {name}"))?;
        self.snapshots.remove(at);
        Ok(())
    }

    fn verify(&self) -> Result<(), String> {
        let check = self.sandbox.reference(&format!("check {}", self.kind.operand()));
        if !check.ok() {
            return Err(format!("check: {check}"));
        }
        if self.virtual_size() != self.size {
            return Err(format!("the disk should have {} bytes, has {}", self.size, self.virtual_size()));
        }
        if self.read("")? != self.content {
            return Err("the disk does not hold what it should".into());
        }
        // The reference reads snapshots as if they had the size that the disk has now.
        for taken in self.snapshots.iter().filter(|taken| taken.size == self.size) {
            if self.read(&taken.id.to_string())? != taken.content {
                return Err(format!("snapshot {} ({}) does not hold what it should", taken.id, taken.name));
            }
        }
        let ids: Vec<_> = self.snapshots.iter().map(|taken| taken.id).collect();
        if self.present_ids() != ids {
            return Err(format!("the list should be {ids:?}, is {:?}", self.present_ids()));
        }
        Ok(())
    }
}

impl model::Model for Disk<'_> {
    fn log(&self) -> &[String] {
        &self.log
    }

    fn step(&mut self) -> Result<(), String> {
        match self.random.below(10) {
            0..=2 => self.write(),
            9 => self.resize(),
            3..=5 => self.create()?,
            6 => self.apply()?,
            _ => self.delete()?,
        }
        self.verify()
    }
}

/// Kinds on which snapshots work in the reference, too.
fn takes_snapshots(kind: &Kind) -> bool {
    kind.open != Open::Raw
        && kind.open != Open::Broken
        && !kind.name.starts_with("data-file")
        && kind.name != "corrupt"
        // The reference throws such bitmaps away without giving up their clusters.
        && kind.name != "bitmaps-stale"
}

fn play(kind: &Kind, report: &mut Report) {
    model::play(&mut Disk::new(kind, model::seed_for(&kind.name)), &kind.name, 10, report);
}

#[test]
fn every_snapshot_keeps_its_content() {
    let kinds: Vec<_> = kinds::all().into_iter().filter(takes_snapshots).collect();
    for_all("snapshot model", &kinds, play);
}
