//! What the model tests share: seeds and lengths from the environment, and sequences of random steps that are told
//! in full when one goes wrong.

use super::Report;

/// `SEED`, 1 if not set, mixed with the name of a case, so that cases differ.
pub fn seed_for(name: &str) -> u64 {
    name.bytes().fold(number("SEED", 1), |mixed, byte| mixed.wrapping_mul(31).wrapping_add(u64::from(byte)))
}

/// `STEPS`, or the number for every day.
pub fn steps(everyday: u64) -> u64 {
    number("STEPS", everyday)
}

fn number(variable: &str, or: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

/// Something that goes from state to state and checks itself after every step.
pub trait Model {
    /// One random step. An error says how the state differs from what it should be.
    fn step(&mut self) -> Result<(), String>;

    /// What was done so far.
    fn log(&self) -> &[String];
}

/// Takes steps until one goes wrong or all are done, and notes the result.
pub fn play(model: &mut impl Model, name: &str, everyday: u64, report: &mut Report) {
    let differences = (0..steps(everyday)).find_map(|_| model.step().err());
    let told = differences.map(|text| format!("{text}\nafter\n  {}", model.log().join("\n  ")));
    report.note(name, told.into_iter().collect());
}
