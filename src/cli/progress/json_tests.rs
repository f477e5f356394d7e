use std::sync::mpsc;

use super::*;
use crate::cli::progress::Display;
use crate::cli::progress::tests::Writes;

/// What is written when `steps` happen so many milliseconds after the start, with so many bytes done of 1000 MiB.
fn lines(steps: &[(u64, u64)], ending: Ending) -> Vec<Value> {
    let (sender, receiver) = mpsc::channel();
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let count = |mib: u64| Count { done: mib << 20, total: Some(1000 << 20) };
    let mut lines = JsonLines::new(Box::new(Writes(sender)), start);
    lines.phase("copy", Count::default(), start);
    for (ms, mib) in steps {
        lines.show(count(*mib), at(*ms));
    }
    let (ms, mib) = steps.last().copied().unwrap_or_default();
    lines.end(count(mib), ending, at(ms));
    drop(lines);
    let parse = |line: Vec<u8>| {
        assert_eq!(line.last(), Some(&b'\n'), "one line, one write");
        serde_json::from_slice(&line).unwrap()
    };
    receiver.into_iter().map(parse).collect()
}

#[test]
fn lines_say_how_fast_it_is_now_and_how_long_it_will_take() {
    let lines = lines(&[(1000, 100), (2000, 200), (6000, 200), (7000, 200)], Ending::Done);
    let told = |line: &Value| {
        let number = |name: &str| line[name].as_u64();
        let rate = number("bytes-per-second").map(|rate| rate >> 20);
        (line["phase"].as_str().unwrap().to_owned(), number("bytes-done").unwrap() >> 20, rate, number("seconds-left"))
    };
    let line = |phase: &str, done, rate, left| (phase.to_owned(), done, rate, left);
    let expected = [
        line("copy", 0, None, None),
        line("copy", 100, Some(100), Some(9)),
        line("copy", 200, Some(100), Some(8)),
        // Nothing happened for a while, but what did is not long ago.
        line("copy", 200, Some(20), Some(40)),
        line("copy", 200, Some(0), None),
        line("done", 200, Some(28), Some(0)),
    ];
    assert_eq!(lines.iter().map(told).collect::<Vec<_>>(), expected);
    assert!(lines.iter().skip(1).all(|line| line["bytes-total"] == 1000 << 20));
    assert_eq!(lines[5]["seconds"], 7.0);
}

#[test]
fn there_are_ten_lines_a_second_at_most() {
    let steps: Vec<_> = (1..=1000).map(|ms| (ms, ms)).collect();
    let lines = lines(&steps, Ending::Failed);
    // The first of the phase, ten, and the last.
    assert_eq!(lines.len(), 12);
    assert_eq!(lines[11]["phase"], "failed");
    assert_eq!(lines[11]["seconds-left"], Value::Null);
}

#[test]
fn the_last_line_tells_of_what_was_moved() {
    let (sender, receiver) = mpsc::channel();
    let progress =
        crate::cli::progress::Progress::on(Display::Json(JsonLines::new(Box::new(Writes(sender)), Instant::now())));
    progress.phase("scan");
    progress.phase("copy");
    progress.set_total(500);
    progress.advance(500);
    progress.reached(1000, 1000);
    progress.phase("verify");
    progress.reached(10, 1000);
    progress.finish(Ending::Done);
    drop(progress);
    let lines: Vec<Value> = receiver.into_iter().map(|line| serde_json::from_slice(&line).unwrap()).collect();
    let phases: Vec<_> = lines.iter().map(|line| line["phase"].as_str().unwrap()).collect();
    // All within a moment, so that no line but the first of each phase is due.
    assert_eq!(phases, ["scan", "copy", "verify", "done"]);
    assert_eq!((&lines[3]["bytes-done"], &lines[3]["bytes-total"]), (&json!(500), &json!(500)));
}
