//! Prints the licences of all crates that are linked into the program, each text once:
//! `cargo metadata --format-version 1 --filter-platform TARGET | licences [NAME=FILE]...`, where the operands add
//! what is linked in besides crates. `scripts/release` runs this.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;

fn main() -> io::Result<()> {
    let metadata: Value = serde_json::from_reader(io::stdin())?;
    let mut notices = Notices::default();
    for package in linked(&metadata) {
        notices.add_crate(package)?;
    }
    for extra in std::env::args().skip(1) {
        let (name, file) = extra.split_once('=').ok_or_else(|| io::Error::other(format!("{extra}: not NAME=FILE")))?;
        notices.add(name, "", &[PathBuf::from(file)])?;
    }
    print!("{}", notices.text());
    Ok(())
}

/// The packages whose code ends up in the program: what it needs besides building, testing and procedural macros, the
/// program itself left out.
pub fn linked(metadata: &Value) -> Vec<&Value> {
    let by_id = |list: &'static str, of: &'static str| {
        let items = metadata.pointer(list).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(move |item| Some((item[of].as_str()?, item))).collect::<BTreeMap<_, _>>()
    };
    let (packages, nodes) = (by_id("/packages", "id"), by_id("/resolve/nodes", "id"));
    let is_macro = |package: &Value| package["targets"].to_string().contains("\"proc-macro\"");
    let root = metadata.pointer("/resolve/root").and_then(Value::as_str);
    let (mut found, mut open) = (BTreeSet::new(), Vec::from_iter(root));
    while let Some(id) = open.pop() {
        let needed = nodes.get(id).and_then(|node| node["deps"].as_array()).into_iter().flatten();
        let normal =
            |dep: &&Value| dep["dep_kinds"].as_array().is_some_and(|all| all.iter().any(|k| k["kind"].is_null()));
        for id in needed.filter(normal).filter_map(|dep| dep["pkg"].as_str()) {
            if packages.get(id).is_some_and(|package| !is_macro(package)) && found.insert(id) {
                open.push(id);
            }
        }
    }
    packages.iter().filter(|(id, _)| found.contains(*id)).map(|(_, package)| *package).collect()
}

/// Licence texts, and what they hold for.
#[derive(Default)]
pub struct Notices {
    /// In the order they were added: text, and under which names of files it is whose.
    texts: Vec<(String, Vec<String>)>,
    /// What is linked, with the licences it names.
    list: String,
}

impl Notices {
    /// Adds a package of `cargo metadata`. One without any text of a licence is an error.
    pub fn add_crate(&mut self, package: &Value) -> io::Result<()> {
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        let name = format!("{} {}", text("name"), text("version"));
        let manifest = PathBuf::from(text("manifest_path"));
        let mut files = Vec::new();
        if let Some(folder) = manifest.parent() {
            licence_files(folder, &mut files)?;
            for entry in fs::read_dir(folder)?.flatten().filter(|entry| entry.path().is_dir()) {
                licence_files(&entry.path(), &mut files)?;
            }
        }
        if files.is_empty() {
            return Err(io::Error::other(format!("{name} ({}) comes without its licence", text("license"))));
        }
        self.add(&name, &text("license"), &files)
    }

    /// Adds something by name, the licence it names and the files that hold its texts.
    pub fn add(&mut self, name: &str, licence: &str, files: &[PathBuf]) -> io::Result<()> {
        let _ = writeln!(self.list, "{name:<40} {licence}");
        for file in files {
            let bytes = fs::read(file).map_err(|error| io::Error::other(format!("{}: {error}", file.display())))?;
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            match self.texts.iter_mut().find(|(known, _)| words(known) == words(&text)) {
                Some((_, whose)) => whose.push(name.to_owned()),
                None => self.texts.push((text, vec![name.to_owned()])),
            }
        }
        Ok(())
    }

    /// All of it.
    pub fn text(&self) -> String {
        let mut all = format!("What is linked into this program, and the licences it comes under:\n\n{}", self.list);
        for (text, whose) in &self.texts {
            let _ = write!(all, "\n{}\n{}\n\n{text}\n", "=".repeat(80), whose.join(", "));
        }
        all
    }
}

/// The files of a folder that hold licences, in order. Where there is a LICENSE, COPYING is another one to choose, or says
/// which there are.
fn licence_files(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut names: Vec<String> = fs::read_dir(folder)?
        .flatten()
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let starts = |name: &String, with: &[&str]| with.iter().any(|with| name.to_uppercase().starts_with(with));
    let has_licence = names.iter().any(|name| starts(name, &["LICENSE", "LICENCE"]));
    let copying: &[&str] = if has_licence { &[] } else { &["COPYING"] };
    names.retain(|name| {
        starts(name, &["LICENSE", "LICENCE", "UNLICENSE", "NOTICE", "COPYRIGHT"]) || starts(name, copying)
    });
    files.extend(names.into_iter().map(|name| folder.join(name)));
    Ok(())
}
