//! Damaged images: where the reference refuses one on opening, ours does so with the same words.

mod common;

use common::damage::{self, Damage};
use common::files::Sandbox;
use common::run::Tool;
use common::{Report, for_all, oracle, require_wording};

fn check(image: &[u8], damage: &Damage, report: &mut Report) {
    let sandbox = Sandbox::new();
    damage.write(image, &sandbox.file("disk"));
    // Version 1 is another format, which is recognised but not supported yet (docs/compatibility.md).
    if damage.name == "version 0x1" {
        return;
    }
    let mut differences = Vec::new();
    for line in ["info -f qcow2 disk", "snapshot -l disk"] {
        let ours = sandbox.run(Tool::Ours, line);
        let reference = sandbox.run(Tool::Reference, line);
        differences.extend(oracle::differences(line, &ours, &reference, &str::to_owned));
    }
    report.note(&damage.name, differences);
}

#[test]
fn damaged_images_are_refused_with_the_same_words() {
    require_wording();
    let image = std::fs::read(damage::victim().folder().join("disk")).expect("image");
    for_all("damaged images, wording", &damage::all(&image), |damage, report| check(&image, damage, report));
}
