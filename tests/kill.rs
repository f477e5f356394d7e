//! `kill -9` at random moments while our program changes an image: afterwards the image is what it was or what it was to
//! become, with every snapshot, and the reference's check finds nothing worse than leaks.
//!
//! `KILLS=400 cargo test --test kill` for more of them; the seed of a failure is printed, `SEED=N` repeats it.

mod common;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::files::words;
use common::looks::{CHANGES, IMAGES, differences, look};
use common::run::{Tool, ours_path};
use common::{Random, Report, Sandbox, collect};

/// How many processes are killed, all in all.
const KILLS: u64 = 30;

/// Runs a command and kills it after a while; whether it was still there then.
fn kill_after(sandbox: &Sandbox, line: &str, delay: Duration) -> bool {
    let mut command = Command::new(ours_path());
    command.args(words(line)).current_dir(sandbox.path()).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("our program starts");
    std::thread::sleep(delay);
    let alive = child.try_wait().expect("a child can be waited for").is_none();
    let _ = child.kill();
    child.wait().expect("a child can be waited for");
    alive
}

#[test]
fn killed_at_any_moment_an_image_is_what_it_was_or_what_it_was_to_become() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (kills, seed) = (number("KILLS").unwrap_or(KILLS), number("SEED").unwrap_or(1));
    let images = Sandbox::new();
    images.script(Tool::Reference, IMAGES).expect_ok("preparing the images");
    let each = kills.div_ceil(CHANGES.len() as u64);
    let met = AtomicU64::new(0);
    let mut report = Report::new("killed");
    report.absorb(collect(&CHANGES, |change, report| {
        let mut random = Random::new(seed.wrapping_mul(1009).wrapping_add(change.line.len() as u64));
        let before = look(images.path(), change).expect("readable");
        // Twice, as the machine may be busy with something else.
        let mut time = Duration::MAX;
        let mut finished = Sandbox::new();
        for _ in 0..2 {
            finished = Sandbox::copy_of(images.path());
            let start = Instant::now();
            finished.run(Tool::Ours, change.line).expect_ok(change.line);
            time = time.min(start.elapsed());
        }
        let after = look(finished.path(), change).expect("readable");
        for _ in 0..each {
            let sandbox = Sandbox::copy_of(images.path());
            let delay = time.mul_f64(random.below(1000) as f64 / 1000.0);
            if kill_after(&sandbox, change.line, delay) {
                met.fetch_add(1, Ordering::Relaxed);
            }
            let differences = differences(sandbox.path(), change, &[&before, &after]);
            report.note(&format!("{} killed after {delay:?}, seed {seed}", change.line), differences);
        }
    }));
    let met = met.into_inner();
    println!("{met} of {} were killed at work", each * CHANGES.len() as u64);
    report.finish();
    assert!(met > 0, "at least one was killed at work");
}
