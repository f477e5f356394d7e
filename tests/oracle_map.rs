//! `map` on every image kind, byte for byte.

mod common;

use common::kinds::{self, Kind};
use common::{Report, for_all, oracle, require_wording, taken};

/// `@` stands for the options and the operand that name the image.
const LINES: &[&str] = &[
    "@",
    "--output=json @",
    "--output=human -U @",
    "--output=json -s 1M -l 1M @",
    "--start-offset=65000 --max-length=1000 @",
    "--output=json --start-offset=64k --max-length=0 @",
    "--output=json --start-offset=1T @",
    "--output=json --start-offset=9437184 @",
    "--output=json -f raw disk",
    "disk",
    "--output json disk",
    "--output=json --image-opts driver=qcow2,file.filename=disk,backing=",
];

fn check(kind: &Kind, report: &mut Report) {
    let lines = LINES.iter().filter(|line| taken(&kind.name, line));
    let lines: Vec<_> = lines.map(|line| format!("map {}", line.replace('@', &kind.operand()))).collect();
    for (line, differences) in oracle::read_only(&kind.folder(), &lines) {
        report.note(&format!("{}: {line}", kind.name), differences);
    }
}

#[test]
fn map_is_the_same_on_every_kind() {
    require_wording();
    for_all("map", &kinds::all(), check);
}
