//! `info` on every image kind, against the reference, byte for byte.

mod common;

use common::kinds::{self, Kind, Open};
use common::{Report, for_all, oracle, require_wording, taken};

/// Command lines after `info`; `@` stands for the image's own operand.
const PLAIN: &[&str] = &[
    "@",
    "disk",
    "--output=json @",
    "--output json disk",
    "--output=human disk",
    "-U @",
    "--force-share --output=json disk",
    "--backing-chain disk",
    "--backing-chain --output=json @",
    "-f raw disk",
    "-f raw --output=json disk",
    "--output=json -U --backing-chain disk",
    "-t none @",
    "-f qcow2 disk",
    "./disk",
    "--output=json file:disk",
    "--output=json 'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"disk\"}}'",
    "--output=json 'json:{\"file\":{\"driver\":\"file\",\"filename\":\"disk\"}}'",
    "--image-opts file.filename=disk",
    "-U --image-opts file.filename=disk,force-share=off",
    "-U --image-opts file.filename=disk,force-share=on",
    "--image-opts driver=raw,offset=8E,file.filename=disk",
    "--image-opts --output=json driver=qcow2,file.filename=disk",
];

fn check(kind: &Kind, report: &mut Report) {
    let lines: Vec<_> = PLAIN
        .iter()
        .filter(|line| !(line.starts_with("-t") && kind.open == Open::Locked))
        .filter(|line| taken(&kind.name, line))
        .map(|line| format!("info {}", line.replace('@', &kind.operand())))
        .collect();
    for (line, differences) in oracle::read_only(&kind.folder(), &lines) {
        report.note(&format!("{}: {line}", kind.name), differences);
    }
}

#[test]
fn info_is_the_same_on_every_kind() {
    require_wording();
    for_all("info", &kinds::all(), check);
}
