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
