//! Manual pages and shell completions: complete, and of a form that man and bash take.

#[path = "../scripts/assets.rs"]
#[allow(dead_code, reason = "its main is the script's")]
mod assets;
mod common;

use common::Sandbox;
use common::run::program_in;
use qemu_img::cli::help::definition;

#[test]
fn every_command_and_option_is_in_the_manual_and_in_the_completions() {
    let sandbox = Sandbox::new();
    assets::write(sandbox.path()).expect("assets");
    let read =
        |name: &str| std::fs::read_to_string(sandbox.file(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let completions = [read("qemu-img.bash"), read("qemu-img.fish"), read("_qemu-img")];
    let overview = read("qemu-img.1");
    for command in definition().get_subcommands() {
        let name = command.get_name();
        assert!(overview.contains(&format!("qemu\\-img\\-{name}(1)")), "{name} in the overview");
        let page = read(&format!("qemu-img-{name}.1"));
        for long in command.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(page.contains(&format!("\\-\\-{}", long.replace('-', "\\-"))), "{name} --{long} in the manual");
            assert!(completions.iter().all(|file| file.contains(long)), "{name} --{long} in the completions");
        }
    }
}

#[test]
fn bash_takes_the_completions() {
    let sandbox = Sandbox::new();
    assets::write(sandbox.path()).expect("assets");
    let script = r#"source ./qemu-img.bash
        function=$(complete -p qemu-img | sed 's/.* -F \([^ ]*\).*/\1/')
        COMP_WORDS=(qemu-img convert --target-i) COMP_CWORD=2
        "$function" qemu-img --target-i convert; echo "${COMPREPLY[*]}""#;
    let outcome = program_in(sandbox.path(), "bash", &["-c", script]).expect_ok("completions");
    assert_eq!(outcome.stdout.trim(), "--target-image-opts --target-is-zero");
}

/// Every option, ours and the reference's, has its place on the page: in the row of its command, in the section of that
/// command, or among those of all commands.
#[test]
fn the_compatibility_page_names_every_option() {
    let page = include_str!("../docs/compatibility.md");
    let section = |title: &str| {
        let (_, rest) = page.split_once(&format!("\n## {title}\n")).unwrap_or_default();
        rest.split("\n## ").next().unwrap_or_default()
    };
    for command in definition().get_subcommands() {
        let name = command.get_name();
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}"))).unwrap_or_default();
        let own = format!("{row}\n{}", section(name));
        let mut options = own_options(command);
        options.extend(options_of_the_reference(name));
        for option in options {
            let named = option.iter().any(|option| names(&own, option) || names(section("All commands"), option));
            assert!(named, "{name}: {option:?} is not on the page");
        }
    }
}

/// Whether a text names an option, and not only one that begins or ends like it.
fn names(text: &str, option: &str) -> bool {
    let part = |byte: u8| byte == b'-' || byte.is_ascii_alphanumeric();
    let whole = |at: usize| {
        let (before, after) = (text[..at].bytes().next_back(), text[at + option.len()..].bytes().next());
        !before.is_some_and(part) && !after.is_some_and(part)
    };
    text.match_indices(option).any(|(at, _)| whole(at))
}

/// The options of a command, each by all its names.
fn own_options(command: &clap::Command) -> Vec<Vec<String>> {
    let names = |arg: &clap::Arg| {
        let long = arg.get_long().map(|long| format!("--{long}"));
        arg.get_short().map(|short| format!("-{short}")).into_iter().chain(long).collect::<Vec<_>>()
    };
    command.get_arguments().map(names).filter(|names| !names.is_empty()).collect()
}

/// The same, as the reference's help lists them: one to a line, by two names or one, with a comma in between.
fn options_of_the_reference(command: &str) -> Vec<Vec<String>> {
    let help = Sandbox::new().reference(&format!("{command} --help")).stdout;
    let lines = help.lines().map(str::trim).filter(|line| line.starts_with('-'));
    let names = |line: &str| -> Vec<String> {
        let words = line.split([' ', ',', '\t']).filter(|word| !word.is_empty());
        words.take_while(|word| word.starts_with('-')).map(str::to_owned).collect()
    };
    lines.map(names).collect()
}
