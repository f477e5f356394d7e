//! Images of random kinds whose content is known byte by byte, for the model of conversions.

use std::fs;

use super::kinds::SECRET;
use super::run::{Outcome, Tool, program_in};
use super::{Random, Sandbox};

pub const SECTOR: u64 = 512;

/// A snapshot and what it holds.
#[derive(Clone)]
pub struct Taken {
    pub name: String,
    pub content: Vec<u8>,
}

/// One image: how it is opened, and what it must hold.
#[derive(Clone)]
pub struct Image {
    pub file: String,
    pub qcow2: bool,
    pub locked: bool,
    /// Has an external data file.
    pub split: bool,
    pub refcount_bits: u64,
    /// The file it is based on, with its format.
    pub backing: Option<(String, &'static str)>,
    pub content: Vec<u8>,
    pub snapshots: Vec<Taken>,
}

impl Image {
    pub fn raw(file: impl Into<String>, content: Vec<u8>) -> Self {
        Image {
            file: file.into(),
            qcow2: false,
            locked: false,
            split: false,
            refcount_bits: 16,
            backing: None,
            content,
            snapshots: Vec::new(),
        }
    }

    pub fn size(&self) -> u64 {
        self.content.len() as u64
    }

    pub fn format(&self) -> &'static str {
        if self.qcow2 { "qcow2" } else { "raw" }
    }

    /// The image as one `--image-opts` string.
    pub fn opts(&self) -> String {
        let key = if self.locked { ",encrypt.key-secret=s" } else { "" };
        format!("driver={}{key},file.filename={}", self.format(), self.file)
    }

    /// A part of the image as one `--image-opts` string.
    pub fn part(&self, offset: u64, size: u64) -> String {
        let part = format!("driver=raw,offset={offset},size={size}");
        if !self.qcow2 {
            return format!("{part},file.driver=file,file.filename={}", self.file);
        }
        let key = if self.locked { ",file.encrypt.key-secret=s" } else { "" };
        format!("{part},file.driver=qcow2{key},file.file.driver=file,file.file.filename={}", self.file)
    }

    /// Whether snapshots can be taken, however often clusters are shared already.
    pub fn takes_snapshots(&self) -> bool {
        self.qcow2 && !self.split && self.refcount_bits >= 16
    }

    /// Lets `qemu-io` run commands on it.
    pub fn io(&self, sandbox: &Sandbox, commands: &[String]) -> Outcome {
        let mut args: Vec<String> = SECRET.split(' ').map(String::from).collect();
        args.extend(["-d", "unmap", "--image-opts"].map(String::from));
        args.push(self.opts());
        for command in commands {
            args.extend(["-c".to_owned(), command.clone()]);
        }
        program_in(sandbox.path(), "qemu-io", &args)
    }

    /// What a tool reads from it, or from one of its snapshots.
    pub fn read(&self, sandbox: &Sandbox, tool: Tool, snapshot: Option<&str>) -> Result<Vec<u8>, String> {
        let choice = snapshot.map(|name| format!("-l snapshot.name={name}")).unwrap_or_default();
        let line = format!("convert {SECRET} {choice} --image-opts {} -O raw read.tmp", self.opts());
        let done = sandbox.run(tool, &line);
        if !done.ok() {
            return Err(format!("reading {snapshot:?} by {}: {done}", tool.name()));
        }
        let path = sandbox.file("read.tmp");
        let bytes = fs::read(&path).expect("what was read");
        fs::remove_file(path).expect("a file just made");
        Ok(bytes)
    }

    /// Whether everything is there, as `tool` sees it, and the reference finds nothing wrong.
    pub fn verify(&self, sandbox: &Sandbox, tool: Tool) -> Result<(), String> {
        if self.qcow2 {
            let check = sandbox.reference(&format!("check {SECRET} --image-opts {}", self.opts()));
            if check.code != 0 {
                return Err(format!("check of {}: {check}", self.file));
            }
        }
        same(&format!("{} ({})", self.file, tool.name()), &self.read(sandbox, tool, None)?, &self.content)?;
        for taken in &self.snapshots {
            let found = self.read(sandbox, tool, Some(&taken.name))?;
            same(&format!("{}@{} ({})", self.file, taken.name, tool.name()), &found, &taken.content)?;
        }
        Ok(())
    }
}

/// The first difference between two contents, if there is one.
fn same(what: &str, found: &[u8], wanted: &[u8]) -> Result<(), String> {
    if found.len() != wanted.len() {
        return Err(format!("{what} has {} bytes instead of {}", found.len(), wanted.len()));
    }
    match found.iter().zip(wanted).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(at) => {
            let count = found.iter().zip(wanted).filter(|(a, b)| a != b).count();
            let (is, should) = (found[at], wanted[at]);
            Err(format!("{what}: {count} bytes differ, first at {at}: {is:#x} instead of {should:#x}"))
        }
    }
}

/// A disk of `size` bytes: noise, text, single sectors, and zeros.
pub fn random_disk(random: &mut Random, size: u64) -> Vec<u8> {
    let mut disk = vec![0; size as usize];
    for _ in 0..random.below(12) {
        let at = random.below(size / SECTOR + 1) * SECTOR;
        let len = [SECTOR, 4096, 20_000, 70_000, 300_000][random.below(5) as usize].min(size - at) as usize;
        let part = &mut disk[at as usize..at as usize + len];
        match random.below(3) {
            0 => random.fill(part),
            1 => part.iter_mut().zip(b"some text that compresses; ".iter().cycle()).for_each(|(to, byte)| *to = *byte),
            _ => part.fill(1 + random.below(255) as u8),
        }
    }
    disk
}

/// The creation options of a random kind of qcow2, and what they mean for the model.
pub struct Recipe {
    pub options: Vec<String>,
    pub locked: bool,
    pub split: bool,
    pub refcount_bits: u64,
}

impl Recipe {
    /// `name` is the image's name; `backed` images are spared what cannot be combined with a backing file.
    pub fn random(random: &mut Random, name: &str, backed: bool) -> Recipe {
        let mut recipe = Recipe { options: Vec::new(), locked: false, split: false, refcount_bits: 16 };
        let mut add = |option: String| recipe.options.push(option);
        let extended = random.below(5) == 0;
        let sizes: &[&str] = if extended { &["16k", "32k", "64k", "2M"] } else { &["512", "1k", "4k", "64k", "2M"] };
        if extended || random.below(2) == 0 {
            add(format!("cluster_size={}", sizes[random.below(sizes.len() as u64) as usize]));
        }
        let old = !extended && random.below(6) == 0;
        if old {
            add("compat=0.10".into());
        } else {
            if extended {
                add("extended_l2=on".into());
            }
            if random.below(4) == 0 {
                recipe.refcount_bits = 1 << random.below(7);
                add(format!("refcount_bits={}", recipe.refcount_bits));
            }
            if random.below(3) == 0 {
                add("compression_type=zstd".into());
            }
            if random.below(6) == 0 {
                add("lazy_refcounts=on".into());
            }
            recipe.split = random.below(7) == 0;
            if recipe.split {
                add(format!("data_file={name}.data"));
                if !backed && random.below(2) == 0 {
                    add("data_file_raw=on".into());
                }
            }
        }
        match random.below(8) {
            0 => add("encrypt.format=aes,encrypt.key-secret=s".into()),
            1 => add("encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10".into()),
            _ => {}
        }
        if !backed && random.below(4) == 0 {
            add(format!("preallocation={}", ["metadata", "falloc", "full"][random.below(3) as usize]));
        }
        recipe.locked = recipe.options.iter().any(|option| option.starts_with("encrypt."));
        recipe
    }

    pub fn text(&self) -> String {
        if self.options.is_empty() { String::new() } else { format!("-o {}", self.options.join(",")) }
    }
}
