//! Every recipe of the matrix makes an image that the reference opens, or refuses, as the table says.

mod common;

use common::kinds::{self, Kind, Open};
use common::{Report, for_all};

fn opens_as_told(kind: &Kind, report: &mut Report) {
    let sandbox = kind.sandbox();
    let operand = match kind.open {
        Open::Locked => kind.operand(),
        _ => kind.operand().replace("-f", "-T none -f"),
    };
    let copy = sandbox.reference(&format!("convert {operand} -O qcow2 copy"));
    let expected = i32::from(kind.open == Open::Broken);
    let differences = if copy.code == expected { Vec::new() } else { vec![copy.to_string()] };
    report.note(&kind.name, differences);
}

#[test]
fn every_recipe_makes_its_image() {
    for_all("image kinds", &kinds::all(), opens_as_told);
}
