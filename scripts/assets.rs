//! Writes the manual pages and the shell completions into a folder: `assets FOLDER`. They are made from the table of
//! commands that the program itself uses, so that they cannot fall behind. `scripts/install` runs this.

use std::fs;
use std::path::Path;

use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use qemu_img::cli::help::definition;

const PROGRAM: &str = "qemu-img";

fn main() -> std::io::Result<()> {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: assets FOLDER");
        std::process::exit(1);
    };
    write(Path::new(&folder))
}

/// Writes everything into the folder.
pub fn write(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut definition(), PROGRAM, folder)?;
    }
    let program = definition();
    manual(program.clone(), PROGRAM.to_owned(), folder)?;
    for command in program.get_subcommands() {
        manual(command.clone(), format!("{PROGRAM}-{}", command.get_name()), folder)?;
    }
    Ok(())
}

/// One manual page, of the first section.
fn manual(command: clap::Command, name: String, folder: &Path) -> std::io::Result<()> {
    let mut page = Vec::new();
    Man::new(command.display_name(name.clone()).version(env!("CARGO_PKG_VERSION")))
        .title(name.to_uppercase())
        .source(format!("qemu-img-rs {}", env!("CARGO_PKG_VERSION")))
        .manual("Disk images")
        .render(&mut page)?;
    fs::write(folder.join(format!("{name}.1")), page)
}
