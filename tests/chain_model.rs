//! Chains against a model: overlays created, written to, snapshotted, committed, rebased and resized at random, by ours
//! and the reference in turn. After each step every image of the chain shows what it should, and the reference's check
//! finds neither errors nor leaks.

mod common;

use std::fs;

use common::images::{Image, Recipe, SECTOR, Taken, random_disk};
use common::model::{self, Model};
use common::run::Tool;
use common::{Random, Report, Sandbox, for_all};

/// The longest chain.
const DEPTH: usize = 4;

struct Stack {
    sandbox: Sandbox,
    random: Random,
    /// Numbers of files and snapshots; none is used twice.
    count: u64,
    /// The images, the lowest first. Each lies on the one before it.
    images: Vec<Image>,
    /// How the images were created, by file name.
    recipes: Vec<(String, String)>,
    log: Vec<String>,
}

impl Stack {
    fn new(seed: u64) -> Self {
        let mut stack = Stack {
            sandbox: Sandbox::new(),
            random: Random::new(seed),
            count: 0,
            images: Vec::new(),
            recipes: Vec::new(),
            log: vec![format!("seed {seed}")],
        };
        let base = stack.lone();
        stack.images.push(base);
        stack
    }

    fn fresh(&mut self, prefix: &str) -> String {
        self.count += 1;
        format!("{prefix}{}", self.count)
    }

    fn top(&mut self) -> &mut Image {
        self.images.last_mut().expect("there is always one")
    }

    fn recipe_of(&self, file: &str) -> &str {
        self.recipes.iter().find(|(name, _)| name == file).map_or("", |(_, recipe)| recipe)
    }

    /// Runs a line that must succeed without a word.
    fn silently(&mut self, tool: Tool, line: &str) -> Result<(), String> {
        self.log.push(format!("{} {line}", tool.name()));
        let done = self.sandbox.run(tool, line);
        let quiet = done.stdout.is_empty() && done.stderr.is_empty();
        if done.ok() && quiet { Ok(()) } else { Err(format!("{} {line}: {done}", tool.name())) }
    }

    /// A random kind of image without encryption, which would need a key at every level.
    fn recipe(&mut self, name: &str, backed: bool) -> Recipe {
        loop {
            let recipe = Recipe::random(&mut self.random, name, backed);
            if !recipe.locked && !recipe.text().contains("lazy_refcounts") {
                return recipe;
            }
        }
    }

    /// An image of random content that lies on nothing.
    fn lone(&mut self) -> Image {
        let name = self.fresh("i");
        let sectors = 1 + self.random.below(4000);
        let content = random_disk(&mut self.random, sectors * SECTOR);
        fs::write(self.sandbox.file("new.raw"), &content).expect("content");
        let mut image = Image::raw(&name, content);
        if self.random.chance(3) {
            fs::rename(self.sandbox.file("new.raw"), self.sandbox.file(&name)).expect("a raw image");
            self.log.push(format!("{name} is raw and has {sectors} sectors"));
            return image;
        }
        let recipe = self.recipe(&name, false);
        let pack =
            if !recipe.split && !recipe.text().contains("preallocation") && self.random.chance(3) { "-c" } else { "" };
        let line = format!("convert {pack} -f raw -O qcow2 {} new.raw {name}", recipe.text());
        self.silently(Tool::Reference, &line).expect("an image");
        (image.qcow2, image.split, image.refcount_bits) = (true, recipe.split, recipe.refcount_bits);
        // The data file of such an image must not be anything but the whole disk.
        if recipe.text().contains("data_file_raw") {
            image.split = true;
        }
        self.recipes.push((name, recipe.text()));
        image
    }

    /// A new image on top.
    fn create(&mut self) -> Result<(), String> {
        let name = self.fresh("i");
        let recipe = self.recipe(&name, true);
        let below = self.top().clone();
        let size = match self.random.below(4) {
            0 => (1 + self.random.below(4000)) * SECTOR,
            _ => below.size(),
        };
        let tool = self.random.tool();
        let (file, format) = (&below.file, below.format());
        let line = format!("create -q -f qcow2 {} -b {file} -F {format} {name} {size}", recipe.text());
        self.silently(tool, &line)?;
        let mut content = below.content.clone();
        content.resize(size as usize, 0);
        self.recipes.push((name.clone(), recipe.text()));
        self.images.push(Image {
            qcow2: true,
            split: recipe.split,
            refcount_bits: recipe.refcount_bits,
            backing: Some((below.file.clone(), format)),
            ..Image::raw(name, content)
        });
        Ok(())
    }

    /// Random writes to the top.
    fn write(&mut self) {
        let mut commands = Vec::new();
        let mut learn = false;
        let mut content = self.top().content.clone();
        let size = content.len() as u64;
        for _ in 0..1 + self.random.below(5) {
            let at = self.random.below(size / SECTOR) * SECTOR;
            let len = (SECTOR << self.random.below(10)).min(size - at);
            let pattern = 1 + self.random.below(255) as u8;
            let (text, byte) = match self.random.below(8) {
                0 => (format!("write -z {at} {len}"), Some(0)),
                1 => (format!("write -z -u {at} {len}"), Some(0)),
                2 => (format!("write -P 0 {at} {len}"), Some(0)),
                3 => (format!("discard {at} {len}"), None),
                _ => (format!("write -P {pattern} {at} {len}"), Some(pattern)),
            };
            match byte {
                Some(byte) => content[at as usize..(at + len) as usize].fill(byte),
                None => learn = true,
            }
            commands.push(text);
        }
        let image = self.top().clone();
        self.log.push(format!("qemu-io {} {commands:?}", image.file));
        image.io(&self.sandbox, &commands).expect_ok("writing");
        if learn {
            content = image.read(&self.sandbox, Tool::Reference, None).expect("the disk is readable");
        }
        self.top().content = content;
    }

    fn snapshot(&mut self) -> Result<(), String> {
        let (tool, name) = (self.random.tool(), self.fresh("s"));
        let image = self.top().clone();
        let count = image.snapshots.len() as u64;
        let at = self.random.below(count) as usize;
        match self.random.below(4) {
            2 if count > 0 => {
                let taken = image.snapshots[at].clone();
                self.silently(tool, &format!("snapshot -a {} {}", taken.name, image.file))?;
                self.top().content = taken.content;
            }
            3 if count > 0 => {
                let taken = self.top().snapshots.remove(at);
                self.silently(tool, &format!("snapshot -d {} {}", taken.name, image.file))?;
            }
            _ => {
                self.silently(tool, &format!("snapshot -c {name} {}", image.file))?;
                self.top().snapshots.push(Taken { name, content: image.content });
            }
        }
        Ok(())
    }

    /// What lies below has changed, and so has what snapshots show where they have nothing of their own.
    fn learn_snapshots(&mut self) {
        let mut image = self.top().clone();
        for taken in &mut image.snapshots {
            let read = image_read(&self.sandbox, &image.file, &taken.name);
            taken.content = read.expect("snapshots stay readable");
        }
        self.top().snapshots = image.snapshots;
    }

    /// Writes the top, or the top and what it lies on, into an image below.
    fn commit(&mut self) -> Result<(), String> {
        let count = self.images.len();
        if count < 2 {
            return self.create();
        }
        let top = self.top().clone();
        let base = self.random.below(count as u64 - 1) as usize;
        let whole = self.random.chance(3);
        let base = if whole { base } else { count - 2 };
        // Nobody can make such an image longer, or its data file would not be the disk any more.
        let old =
            self.recipe_of(&self.images[base].file).contains("compat=0.10") && !self.images[base].snapshots.is_empty();
        let grows = self.images[base].size() < top.size();
        if grows && (old || !self.images[base].snapshots.is_empty()) {
            return Ok(());
        }
        let flags = match (whole, self.random.below(4)) {
            (true, _) => format!("-b {}", self.images[base].file),
            (_, 0) => "-d".to_owned(),
            _ => String::new(),
        };
        let tool = self.random.tool();
        self.silently(tool, &format!("commit -q -f qcow2 {flags} {}", top.file))?;
        let content = &mut self.images[base].content;
        if content.len() < top.content.len() {
            content.resize(top.content.len(), 0);
        }
        content[..top.content.len()].copy_from_slice(&top.content);
        if whole {
            // The images in between show a mixture now, and nobody knows which.
            self.images.truncate(base + 1);
        } else {
            self.learn_snapshots();
        }
        Ok(())
    }

    /// Puts the top onto nothing, an image further below, or a new one.
    fn rebase(&mut self) -> Result<(), String> {
        let count = self.images.len();
        let top = self.top().clone();
        if !top.qcow2 || self.recipe_of(&top.file).contains("data_file_raw") {
            return self.create();
        }
        let recipe = self.recipe_of(&top.file).to_owned();
        let mut below = Vec::new();
        let onto = match self.random.below(4) {
            0 => "-b ''".to_owned(),
            1 | 2 if count > 2 => {
                below = self.images[..1 + self.random.below(count as u64 - 2) as usize].to_vec();
                format!("-b {} -F {}", below[below.len() - 1].file, below[below.len() - 1].format())
            }
            _ => {
                let new = self.lone();
                let onto = format!("-b {} -F {}", new.file, new.format());
                below.push(new);
                onto
            }
        };
        let mut tool = self.random.tool();
        // The reference loses zeros there, see docs/compatibility.md.
        if recipe.contains("compat=0.10") && top.backing.is_none() {
            tool = Tool::Ours;
        }
        let pack = tool == Tool::Ours && !top.split && self.random.chance(4);
        let flags = if pack { "-c" } else { "" };
        self.silently(tool, &format!("rebase -f qcow2 {flags} {onto} {}", top.file))?;
        let backing = below.last().map(|image| (image.file.clone(), image.format()));
        below.push(Image { backing, ..top });
        self.images = below;
        self.learn_snapshots();
        Ok(())
    }

    fn resize(&mut self) -> Result<(), String> {
        let image = self.top().clone();
        if !image.snapshots.is_empty() {
            return Ok(());
        }
        let more = self.random.below(2000) * SECTOR;
        let line = format!("resize -q -f {} {} +{more}", image.format(), image.file);
        if more > 0 {
            let tool = self.random.tool();
            if let Err(refusal) = self.silently(tool, &line) {
                // Version 2 has no zero clusters, and so cannot hide what a longer backing file has there: for neither tool.
                let known = "qemu-img: Failed to zero out new clusters: Operation not supported";
                let other = if tool == Tool::Ours { Tool::Reference } else { Tool::Ours };
                let second = self.sandbox.run(other, &line);
                let alike = refusal.contains(known) && second.stderr.trim_end() == known;
                return if alike { Ok(()) } else { Err(format!("{refusal}\n{}: {second}", other.name())) };
            }
            let size = (image.size() + more) as usize;
            self.top().content.resize(size, 0);
        }
        Ok(())
    }

    fn verify(&mut self) -> Result<(), String> {
        for at in 0..self.images.len() {
            let tool = if self.random.chance(2) { Tool::Ours } else { Tool::Reference };
            self.images[at].verify(&self.sandbox, tool)?;
        }
        Ok(())
    }
}

fn image_read(sandbox: &Sandbox, file: &str, snapshot: &str) -> Result<Vec<u8>, String> {
    let image = Image { qcow2: true, ..Image::raw(file, Vec::new()) };
    image.read(sandbox, Tool::Reference, Some(snapshot))
}

impl Model for Stack {
    fn log(&self) -> &[String] {
        &self.log
    }

    fn step(&mut self) -> Result<(), String> {
        let snapshots = self.top().takes_snapshots();
        match self.random.below(12) {
            0..=2 => self.write(),
            3 if self.images.len() < DEPTH => self.create()?,
            4..=6 => self.commit()?,
            7..=9 => self.rebase()?,
            10 if snapshots => self.snapshot()?,
            11 => self.resize()?,
            _ if self.images.len() < DEPTH => self.create()?,
            _ => self.write(),
        }
        self.verify()
    }
}

fn play(number: &u64, report: &mut Report) {
    let name = format!("chain {number}");
    model::play(&mut Stack::new(model::seed_for(&name)), &name, 16, report);
}

#[test]
fn chains_keep_their_content() {
    let only = std::env::var("ONLY").unwrap_or_default();
    let chains: Vec<u64> = (0..12).filter(|number| only.is_empty() || only == number.to_string()).collect();
    for_all("chain model", &chains, play);
}
