//! Conversions against a model: a disk of known content goes from image to image, converted by ours and the reference
//! in turn with random options, written to and snapshotted in between. After each step the disk and every snapshot
//! hold what they should, and the reference's check finds neither errors nor leaks.

mod common;

use std::fs;

use common::files::names;
use common::images::{Image, Recipe, SECTOR, Taken, random_disk};
use common::kinds::SECRET;
use common::model::{self, Model};
use common::run::{Outcome, Tool};
use common::{Random, Report, Sandbox, for_all};

struct Journey {
    sandbox: Sandbox,
    random: Random,
    /// Numbers of files and snapshots; none is used twice.
    count: u64,
    disk: Image,
    log: Vec<String>,
}

/// A conversion about to be done: what the command line says, and what must come out.
struct Plan {
    /// Options and operands of the sources.
    sources: String,
    target: String,
    options: Vec<String>,
    result: Image,
}

impl Journey {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let size = (1 + random.below(6000)) * SECTOR;
        let sandbox = Sandbox::new();
        let mut content = random_disk(&mut random, size);
        // The file may end within a sector: the rest of that reads as zeros.
        let cut = if random.below(3) == 0 { random.below(SECTOR) } else { 0 };
        content[(size - cut) as usize..].fill(0);
        fs::write(sandbox.file("i0"), &content[..(size - cut) as usize]).expect("the first image");
        let log = vec![format!("seed {seed}; i0 is raw and has {} bytes", size - cut)];
        Journey { sandbox, random, count: 0, disk: Image::raw("i0", content), log }
    }

    fn fresh(&mut self, prefix: &str) -> String {
        self.count += 1;
        format!("{prefix}{}", self.count)
    }

    /// Runs a line that must succeed without a word.
    fn silently(&mut self, tool: Tool, line: &str) -> Result<(), String> {
        self.log.push(format!("{} {line}", tool.name()));
        let done = self.sandbox.run(tool, line);
        let quiet = done.stdout.is_empty() && done.stderr.is_empty();
        if done.ok() && quiet { Ok(()) } else { Err(format!("{} {line}: {done}", tool.name())) }
    }

    /// Random writes by `qemu-io`, to the image and to the model.
    fn write(&mut self, image: &mut Image) {
        let mut commands = Vec::new();
        let mut learn = false;
        for _ in 0..1 + self.random.below(5) {
            let sectors = image.size() / SECTOR;
            let at = self.random.below(sectors) * SECTOR;
            let len = (SECTOR << self.random.below(10)).min(image.size() - at);
            let pattern = 1 + self.random.below(255) as u8;
            let (text, byte) = match self.random.below(7) {
                0 => (format!("write -z {at} {len}"), 0),
                1 => (format!("write -z -u {at} {len}"), 0),
                2 => {
                    learn = true;
                    (format!("discard {at} {len}"), image.content[at as usize])
                }
                _ => (format!("write -P {pattern} {at} {len}"), pattern),
            };
            if !text.starts_with("discard") {
                image.content[at as usize..(at + len) as usize].fill(byte);
            }
            commands.push(text);
        }
        self.log.push(format!("qemu-io {} {commands:?}", image.opts()));
        image.io(&self.sandbox, &commands).expect_ok("writing");
        // What a discarded range reads as depends on the kind of image.
        if learn {
            image.content = image.read(&self.sandbox, Tool::Reference, None).expect("the disk is readable");
        }
    }

    fn snapshot(&mut self) -> Result<(), String> {
        let tool = self.random.tool();
        let operand = format!("{SECRET} --image-opts {}", self.disk.opts());
        let count = self.disk.snapshots.len() as u64;
        let at = self.random.below(count) as usize;
        match self.random.below(4) {
            2 if count > 0 => {
                let taken = self.disk.snapshots[at].clone();
                self.silently(tool, &format!("snapshot -a {} {operand}", taken.name))?;
                self.disk.content = taken.content;
            }
            3 if count > 0 => {
                let taken = self.disk.snapshots.remove(at);
                self.silently(tool, &format!("snapshot -d {} {operand}", taken.name))?;
            }
            _ => {
                let name = self.fresh("s");
                self.silently(tool, &format!("snapshot -c {name} {operand}"))?;
                self.disk.snapshots.push(Taken { name, content: self.disk.content.clone() });
            }
        }
        Ok(())
    }

    /// Which sources are read, and the content they have together.
    fn choose_sources(&mut self) -> (String, Vec<u8>) {
        let disk = self.disk.clone();
        let plain = if disk.locked || self.random.chance(2) {
            format!("--image-opts {}", disk.opts())
        } else {
            format!("-f {} {}", disk.format(), disk.file)
        };
        match self.random.below(6) {
            0 if !disk.snapshots.is_empty() => {
                let taken = &disk.snapshots[self.random.below(disk.snapshots.len() as u64) as usize];
                let name =
                    if self.random.chance(2) { taken.name.clone() } else { format!("snapshot.name={}", taken.name) };
                (format!("-l {name} {plain}"), taken.content.clone())
            }
            1 if disk.size() > 4 * SECTOR => {
                let offset = self.random.below(disk.size() / SECTOR - 1) * SECTOR;
                let size = (1 + self.random.below((disk.size() - offset) / SECTOR)) * SECTOR;
                let content = disk.content[offset as usize..(offset + size) as usize].to_vec();
                (format!("--image-opts {}", disk.part(offset, size)), content)
            }
            2 if disk.size() < 4 << 20 => {
                let name = self.fresh("extra");
                let sectors = 1 + self.random.below(1500);
                let extra = random_disk(&mut self.random, sectors * SECTOR);
                fs::write(self.sandbox.file(&name), &extra).expect("another source");
                let other = format!("driver=raw,file.filename={name}");
                let (mut content, mut both) = (disk.content.clone(), format!("{} {other}", disk.opts()));
                if self.random.chance(2) {
                    both = format!("{other} {}", disk.opts());
                    content = [extra, content].concat();
                } else {
                    content.extend(extra);
                }
                (format!("--image-opts {both}"), content)
            }
            _ => (plain, disk.content),
        }
    }

    /// A file to base the target on. What the disk has from its own backing file is not copied, so then it is that.
    fn choose_backing(&mut self, content: &[u8]) -> (String, &'static str) {
        if let Some(backing) = self.disk.backing.clone() {
            return backing;
        }
        let name = self.fresh("b");
        let mut base = content.to_vec();
        match self.random.below(3) {
            0 => base.truncate((base.len() / 2).next_multiple_of(512)),
            1 => base.resize(base.len() + (70 << 10), 0x77),
            _ => {}
        }
        let part = base.len() / 3;
        base[part..2 * part].fill(0x5b);
        fs::write(self.sandbox.file(&name), &base).expect("a backing file");
        let format = self.random.one_of(&["raw", "qcow2"]);
        if format == "qcow2" {
            let line = format!("convert -f raw -O qcow2 {name} {name}.qcow2");
            self.log.push(format!("reference {line}"));
            self.sandbox.reference(&line).expect_ok("a backing file");
            return (format!("{name}.qcow2"), format);
        }
        (name, format)
    }

    /// Into a file that does not exist yet.
    fn plan_new(&mut self) -> Plan {
        let (sources, content) = self.choose_sources();
        let name = self.fresh("i");
        let mut result = Image::raw(&name, content);
        let mut options = Vec::new();
        if self.random.chance(3) {
            options.push("-O raw".to_owned());
            if self.random.chance(2) {
                options.push(format!("-o preallocation={}", self.random.one_of(&["off", "falloc", "full"])));
            }
        } else {
            result.qcow2 = true;
            options.push("-O qcow2".to_owned());
            let whole = !sources.contains("offset=") && !sources.contains("extra");
            let backed = whole && (self.disk.backing.is_some() && self.random.chance(2) || self.random.chance(4));
            let recipe = Recipe::random(&mut self.random, &name, backed);
            options.push(recipe.text());
            (result.locked, result.split, result.refcount_bits) = (recipe.locked, recipe.split, recipe.refcount_bits);
            if backed {
                let (file, format) = self.choose_backing(&result.content.clone());
                options.push(format!("-B {file} -F {format}"));
                result.backing = Some((file, format));
            } else if !result.split && self.random.chance(3) {
                options.push("-c".to_owned());
            }
        }
        Plan { sources, target: name, options, result }
    }

    /// An image of `size` bytes made by the reference, with content and perhaps a snapshot.
    fn existing(&mut self, size: u64) -> Image {
        let name = self.fresh("i");
        let mut image = Image::raw(&name, vec![0; size as usize]);
        let mut recipe = String::new();
        if !self.random.chance(3) {
            let kind = Recipe::random(&mut self.random, &name, false);
            (image.qcow2, image.locked, image.split) = (true, kind.locked, kind.split);
            image.refcount_bits = kind.refcount_bits;
            recipe = kind.text();
        }
        let line = format!("create -q {SECRET} -f {} {recipe} {name} {size}", image.format());
        self.log.push(format!("reference {line}"));
        self.sandbox.reference(&line).expect_ok("creating a target");
        if image.locked && (line.contains("preallocation") || line.contains("data_file_raw")) {
            // Its zeros were never encrypted, so they are no zeros.
            image.content = image.read(&self.sandbox, Tool::Reference, None).expect("the target is readable");
        }
        if self.random.chance(4) {
            return image;
        }
        self.write(&mut image);
        if image.takes_snapshots() && self.random.chance(2) {
            let taken = Taken { name: self.fresh("s"), content: image.content.clone() };
            let line = format!("snapshot -c {} {SECRET} --image-opts {}", taken.name, image.opts());
            self.log.push(format!("reference {line}"));
            self.sandbox.reference(&line).expect_ok("a snapshot in the target");
            image.snapshots.push(taken);
            self.write(&mut image);
        }
        image
    }

    /// Onto an image that is there already: as large as the sources or larger, or a part of a raw file.
    fn plan_onto(&mut self) -> Plan {
        let (sources, content) = self.choose_sources();
        let size = content.len() as u64;
        let more = if self.random.chance(2) { 0 } else { self.random.below(300) * SECTOR };
        let mut result = self.existing(size + more);
        let mut options = vec!["-n".to_owned()];
        let mut target = result.file.clone();
        let mut at = 0;
        if !result.qcow2 && self.random.chance(2) {
            at = self.random.below(more / SECTOR + 1) * SECTOR;
            options.push("--target-image-opts".into());
            target = result.part(at, size + more - at);
        } else if result.locked || self.random.chance(2) {
            options.push("--target-image-opts".into());
            target = result.opts();
        } else {
            options.push(format!("-O {}", result.format()));
        }
        let untouched = result.snapshots.is_empty() && result.content.iter().all(|byte| *byte == 0);
        if untouched && self.random.chance(2) {
            options.push("--target-is-zero".into());
        } else if untouched && more == 0 && result.qcow2 && !result.split && self.random.chance(3) {
            options.push("-c".into());
        }
        result.content[at as usize..(at + size) as usize].copy_from_slice(&content);
        Plan { sources, target, options, result }
    }

    /// Options that change how the copy is done, never what comes out.
    fn manner(&mut self, options: &mut Vec<String>) {
        let offload = self.random.chance(8);
        let choices: [(u64, &[&str]); 8] = [
            (3, &["-S 0", "-S 512", "-S 4k", "-S 64k", "-S 1M"]),
            (3, &["-m 1", "-m 2", "-m 16"]),
            (3, &["-W"]),
            (4, &["-t none", "-t writeback", "-t unsafe", "-t directsync", "-t writethrough"]),
            (4, &["-T none", "-T writeback", "-T unsafe", "-T directsync"]),
            (8, &["-r 300M"]),
            (6, &["-U"]),
            (6, &["-p", "-q"]),
        ];
        for (one_in, values) in choices {
            if self.random.chance(one_in) {
                options.push(self.random.one_of(values).to_owned());
            }
        }
        if offload && !options.iter().any(|option| option.starts_with("-S") || option == "-c") {
            options.push("-C".into());
        }
    }

    fn convert(&mut self) -> Result<(), String> {
        let mut plan = if self.random.chance(3) { self.plan_onto() } else { self.plan_new() };
        self.manner(&mut plan.options);
        let tool = self.random.tool();
        let verify = if tool == Tool::Ours && self.random.chance(4) { "--verify " } else { "" };
        let line = format!("convert {verify}{SECRET} {} {} {}", plan.options.join(" "), plan.sources, plan.target);
        self.log.push(format!("{} {line}", tool.name()));
        let before = self.keep(&plan.result.file);
        let done = self.sandbox.run(tool, &line);
        if !done.ok() {
            return self.refused_by_both(tool, &line, &plan.result.file, &before, &done);
        }
        // Who read the target back is said, and how far it is if asked for; nothing else.
        let quiet = done.stdout.is_empty() || plan.options.iter().any(|option| option == "-p");
        let says_reader =
            !verify.is_empty() && done.stdout.starts_with("Verified: ") && done.stdout.lines().count() == 1;
        if !done.stderr.is_empty() || !(quiet || says_reader) {
            return Err(format!("it says something: {done}"));
        }
        self.disk = plan.result;
        self.clean_up();
        Ok(())
    }

    /// The files of an image, to be put back.
    fn keep(&self, image: &str) -> Vec<(String, Vec<u8>)> {
        let files = [image.to_owned(), format!("{image}.data")];
        files.into_iter().filter_map(|name| Some((name.clone(), fs::read(self.sandbox.file(&name)).ok()?))).collect()
    }

    /// What one tool refuses the other must refuse in the same words; the disk stays the one it is.
    fn refused_by_both(
        &mut self,
        tool: Tool,
        line: &str,
        image: &str,
        before: &[(String, Vec<u8>)],
        done: &Outcome,
    ) -> Result<(), String> {
        let other = if tool == Tool::Ours { Tool::Reference } else { Tool::Ours };
        for name in [image.to_owned(), format!("{image}.data")] {
            let _ = fs::remove_file(self.sandbox.file(&name));
        }
        for (name, bytes) in before {
            fs::write(self.sandbox.file(name), bytes).expect("a file that was there before");
        }
        let again = self.sandbox.run(other, &line.replace("--verify ", ""));
        self.clean_up();
        self.log.push(format!("  refused: {}", done.stderr.trim_end()));
        if (again.code, told(&again)) != (done.code, told(done)) {
            let (first, second) = (tool.name(), other.name());
            return Err(format!("one refuses, or in other words:\n{first}: {done}\n{second}: {again}"));
        }
        Ok(())
    }

    /// Removes what is no longer needed.
    fn clean_up(&self) {
        let mut needed = vec![self.disk.file.clone(), format!("{}.data", self.disk.file)];
        needed.extend(self.disk.backing.iter().map(|(file, _)| file.clone()));
        for name in names(self.sandbox.path()) {
            if !needed.contains(&name) {
                fs::remove_file(self.sandbox.file(&name)).expect("a file that is there");
            }
        }
    }
}

/// The messages, each once and without numbers: where writers that do not wait for each other meet an error is chance.
fn told(outcome: &Outcome) -> std::collections::BTreeSet<String> {
    let without = |line: &str| line.chars().filter(|c| !c.is_ascii_digit()).collect();
    outcome.stderr.lines().map(without).collect()
}

impl Model for Journey {
    fn log(&self) -> &[String] {
        &self.log
    }

    fn step(&mut self) -> Result<(), String> {
        match self.random.below(8) {
            0..=1 => {
                let mut disk = self.disk.clone();
                self.write(&mut disk);
                self.disk = disk;
            }
            2..=3 if self.disk.takes_snapshots() => self.snapshot()?,
            _ => self.convert()?,
        }
        self.disk.verify(&self.sandbox, Tool::Reference)?;
        if self.random.chance(2) {
            self.disk.verify(&self.sandbox, Tool::Ours)?;
        }
        Ok(())
    }
}

fn travel(number: &u64, report: &mut Report) {
    let name = format!("journey {number}");
    model::play(&mut Journey::new(model::seed_for(&name)), &name, 20, report);
}

#[test]
fn a_disk_keeps_its_content_through_conversions() {
    common::files::stay_on_disk();
    let only = std::env::var("ONLY").unwrap_or_default();
    let journeys: Vec<u64> = (0..16).filter(|number| only.is_empty() || only == number.to_string()).collect();
    for_all("convert model", &journeys, travel);
}
