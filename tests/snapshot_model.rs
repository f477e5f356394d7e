//! Snapshots against a model: writes by the reference, snapshots taken, applied and deleted by ours and the reference in
//! turn, on every kind of image. After each step every snapshot holds what it held when it was taken, the disk holds what
//! it should, and the reference's check finds neither errors nor leaks. What `--details` and `--diff` say agrees with the
//! tables as the test reads them, with the content, and with what deleting gives back.

mod common;

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use common::files::hash_file;
use common::kinds::{self, Kind, LOCKED, Open, SECRET};
use common::model;
use common::run::{Outcome, Tool, program_in};
use common::tables::{Image, State, Taken as Space};
use common::{Random, Report, Sandbox, for_all};
use serde_json::Value;

/// What a disk holds.
#[derive(Clone, Default, PartialEq, Eq)]
struct Content {
    hash: u64,
    /// Its beginning, which has all that is written.
    head: Arc<Vec<u8>>,
}

/// How much of a disk that is.
const HEAD: u64 = 12 << 20;

impl Content {
    fn of(raw: &Path) -> Content {
        let mut head = Vec::new();
        File::open(raw).and_then(|file| file.take(HEAD).read_to_end(&mut head)).expect("what the reference wrote");
        Content { hash: hash_file(raw), head: Arc::new(head) }
    }
}

/// What one snapshot must hold.
struct Taken {
    id: u64,
    name: String,
    content: Content,
    size: u64,
}

struct Disk<'a> {
    kind: &'a Kind,
    sandbox: Sandbox,
    random: Random,
    snapshots: Vec<Taken>,
    content: Content,
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
            content: Content::default(),
            size: 0,
            log: vec![format!("seed {seed}")],
        };
        model.size = model.virtual_size();
        model.content = model.read("").expect("the image is readable to begin with");
        for (id, state) in model.present_ids().into_iter().zip(model.image().snapshots()) {
            model.read(&id.to_string()).expect("its snapshots are readable to begin with");
            let name = format!("old-{id}");
            // The reference reads snapshots as if they had the size that the disk has now.
            let (size, raw) = (state.size.unwrap_or(model.size), model.sandbox.file("read.raw"));
            File::options().write(true).open(&raw).and_then(|file| file.set_len(size)).expect("a disk of that size");
            let content = Content::of(&raw);
            model.snapshots.push(Taken { id, name, content, size });
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

    /// What the reference reads: of a snapshot, or of the disk.
    fn read(&self, snapshot: &str) -> Result<Content, String> {
        let choice = if snapshot.is_empty() { String::new() } else { format!("-l snapshot.id={snapshot}") };
        let _ = std::fs::remove_file(self.sandbox.file("read.raw"));
        let done = self.sandbox.reference(&format!("convert {choice} {} -O raw read.raw", self.kind.operand()));
        if !done.ok() {
            return Err(format!("reading {snapshot:?}: {done}"));
        }
        Ok(Content::of(&self.sandbox.file("read.raw")))
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
            self.mend_leaks();
            self.size = size;
            self.content = self.read("").expect("the disk is readable after it was resized");
        }
    }

    /// The reference leaks clusters when it makes a disk smaller.
    fn mend_leaks(&self) {
        self.sandbox.reference(&format!("check -q -r leaks {}", self.kind.operand()));
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
        if self.narrow() && done.stderr.contains(": Invalid argument\nHint: The refcount of the cluster at ") {
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
        self.snapshots.extend(done.then_some(Taken { id, name, content: self.content.clone(), size: self.size }));
        Ok(())
    }

    fn apply(&mut self) -> Result<(), String> {
        if self.snapshots.is_empty() {
            return self.create();
        }
        let at = self.random.below(self.snapshots.len() as u64) as usize;
        if self.snapshot(&format!("-a {}", self.snapshots[at].id))? {
            let by_reference = self.log.last().is_some_and(|line| line.starts_with(Tool::Reference.name()));
            if self.snapshots[at].size < self.size && by_reference {
                self.mend_leaks();
            }
            (self.content, self.size) = (self.snapshots[at].content.clone(), self.snapshots[at].size);
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
        let before = self.image();
        self.snapshot(&format!("-d {name}"))?;
        self.snapshots.remove(at);
        // The snapshot table may get shorter, too.
        let after = self.image();
        let used = |image: &Image| image.used() - image.bookkeeping();
        let freed = (used(&before) - used(&after)) * before.cluster();
        let exclusive = before.taken()[at].exclusive;
        if freed != exclusive {
            return Err(format!("deleting {name} gave back {freed} bytes, not {exclusive}"));
        }
        Ok(())
    }

    fn image(&self) -> Image {
        Image::read(&self.sandbox.file("disk"))
    }

    /// The output of one of our own options, as JSON.
    fn ours(&self, options: &str) -> Result<Vec<Value>, String> {
        let line = format!("snapshot {options} --output=json {}", self.kind.operand());
        let done = self.sandbox.run(Tool::Ours, &line);
        let value = serde_json::from_str(&done.stdout).ok().filter(|_| done.ok() && done.stderr.is_empty());
        value.ok_or_else(|| format!("{line}: {done}"))
    }

    fn verify_details(&self, image: &Image) -> Result<(), String> {
        let said = self.ours("-l --details")?;
        let number = |value: &Value, key: &str| value[key].as_u64().unwrap_or(u64::MAX);
        let space = |value: &Value| Space {
            referenced: number(value, "referenced-size"),
            exclusive: number(value, "exclusive-size"),
            shared: number(value, "shared-size"),
            compressed: number(value, "compressed-size"),
            compressed_clusters: number(value, "compressed-clusters"),
        };
        let (said_space, wanted): (Vec<_>, _) = (said.iter().map(space).collect(), image.taken());
        if said_space != wanted {
            return Err(format!("--details: {said_space:?}, not {wanted:?}"));
        }
        let sizes: Vec<_> = said.iter().map(|value| number(value, "virtual-size")).collect();
        let wanted: Vec<_> = self.snapshots.iter().map(|taken| taken.size).collect();
        if sizes != wanted {
            return Err(format!("--details: sizes {sizes:?}, not {wanted:?}"));
        }
        Ok(())
    }

    /// Compares a snapshot with another one, or with the present state.
    fn verify_diff(&mut self, image: &Image) -> Result<(), String> {
        let count = self.snapshots.len() as u64;
        if count == 0 {
            return Ok(());
        }
        let from = &self.snapshots[self.random.below(count) as usize];
        let to = self.snapshots.get(self.random.below(count + 1) as usize);
        let (to_id, to_content, to_size) = match to {
            Some(to) => (to.id.to_string(), &to.content, to.size),
            None => (String::new(), &self.content, self.size),
        };
        let options = format!("--diff {} {to_id}", from.id);
        let rows = self.ours(&options)?;
        let state = |id: &str| image.snapshots().into_iter().find(|state| state.id == id).unwrap_or(image.present());
        let states = [state(&from.id.to_string()), state(&to_id)];
        check_diff(&rows, [(&from.content, from.size), (to_content, to_size)], image, &states)
            .map_err(|text| format!("{options}: {text}"))
    }

    fn verify(&mut self) -> Result<(), String> {
        let image = self.image();
        match self.random.below(2) {
            0 => self.verify_details(&image)?,
            _ => self.verify_diff(&image)?,
        }
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

/// Checks ranges against the contents of the two disks and their sizes, and that nothing is in them for which both have the
/// same entry.
fn check_diff(rows: &[Value], disks: [(&Content, u64); 2], image: &Image, states: &[State; 2]) -> Result<(), String> {
    let [(from, from_size), (to, to_size)] = disks;
    let (common, end) = (from_size.min(to_size), from_size.max(to_size));
    let clip = |at: u64| at.min(common).min(HEAD) as usize;
    let same = |range: Range<u64>| {
        let both = clip(range.start)..clip(range.end);
        match range.is_empty() || (range.end <= common && from.head[both.clone()] == to.head[both]) {
            true => Ok(()),
            false => Err(format!("{range:#x?} differs and is not there")),
        }
    };
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap_or(u64::MAX);
    let mut at = 0;
    for row in rows {
        let range = number(row, "start")..number(row, "start").saturating_add(number(row, "length"));
        if range.start < at || range.is_empty() || range.end > end {
            return Err(format!("{row} is out of order"));
        }
        same(at..range.start)?;
        for guest in (range.start..range.end.min(common)).step_by(512) {
            let [from, to] = states.each_ref().map(|state| image.entry(state, guest));
            if from == to {
                return Err(format!("{row}: at {guest:#x} both have {from:#x?}"));
            }
        }
        at = range.end;
    }
    same(at..end)
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
