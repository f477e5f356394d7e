use std::sync::mpsc;

use super::*;

/// Keeps every single write.
pub(super) struct Writes(pub mpsc::Sender<Vec<u8>>);

impl Write for Writes {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.send(buf.to_vec()).unwrap();
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is written when `total` bytes are done in steps of `step`.
fn written(total: u64, step: u64, success: bool) -> Vec<String> {
    let (sender, receiver) = mpsc::channel();
    let progress = Progress::on(Display::Lines { out: Box::new(Writes(sender)), shown: 0.0 });
    progress.set_total(total);
    let mut left = total;
    while left > 0 {
        progress.advance(step.min(left));
        left -= step.min(left);
    }
    if success {
        progress.finish(Ending::Done);
    }
    drop(progress);
    receiver.into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
}

fn line(percent: &str) -> String {
    format!("    ({percent}/100%)\r")
}

#[test]
fn lines_are_the_references() {
    // 64 MiB in steps of 2 MiB, as the reference shows it.
    let lines = written(64 << 20, 2 << 20, true);
    assert_eq!(lines[..4], [line("0.00"), line("3.12"), line("6.25"), line("9.38")]);
    assert_eq!(lines[lines.len() - 3..], [line("100.00"), line("100.00"), "\n".to_owned()]);
    assert_eq!(lines.len(), 1 + 32 + 2);
    // 300 MiB: a step is less than a hundredth.
    let lines = written(300 << 20, 2 << 20, true);
    assert_eq!(lines[..3], [line("0.00"), line("1.33"), line("2.67")]);
    assert_eq!(lines.len(), 1 + 75 + 2);
    // Nothing to do.
    assert_eq!(written(0, 1, true), [line("0.00"), line("100.00"), "\n".to_owned()]);
}

#[test]
fn failed_work_ends_its_line() {
    let (sender, receiver) = mpsc::channel();
    let progress = Progress::on(Display::Lines { out: Box::new(Writes(sender)), shown: 0.0 });
    progress.set_total(100);
    progress.advance(50);
    drop(progress);
    let lines: Vec<_> = receiver.into_iter().map(|line| String::from_utf8(line).unwrap()).collect();
    assert_eq!(lines, [line("0.00"), line("50.00"), "\n".to_owned()]);
}

#[test]
fn threads_may_share_it() {
    let (sender, receiver) = mpsc::channel();
    let progress = Progress::on(Display::Lines { out: Box::new(Writes(sender)), shown: 0.0 });
    progress.set_total(4000);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1000).for_each(|_| progress.advance(1)));
        }
    });
    progress.finish(Ending::Done);
    drop(progress);
    let lines = receiver.into_iter().count();
    assert!((80..=105).contains(&lines), "{lines}");
}
