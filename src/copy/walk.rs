//! Going through a source from front to back, by several threads that each take the next window.

use std::sync::{Mutex, PoisonError};

use super::intake::Intake;
use super::plan::{ItemKind, Task, WINDOW};
use crate::error::{Error, Result};
use crate::storage::AlignedBuf;

/// What is done with each task.
pub(super) trait Visitor: Sync {
    /// Does it. What the task has to read is in `window`, which starts with the task and is at least as long as
    /// [`WINDOW`] where tasks are loaded; the rest of it is left over from earlier ones.
    fn visit(&self, task: &Task, window: &mut AlignedBuf) -> Result<()>;

    /// Nobody shall wait for a task that will not come.
    fn stop(&self);

    /// Whether [`Visitor::stop`] was called.
    fn is_stopped(&self) -> bool;
}

/// Calls `visitor` for all tasks of `intake`; `load` says whether what they have to read is read. The error is that of the
/// earliest task that failed.
pub(super) fn run(intake: &Intake<'_>, load: bool, workers: usize, visitor: &dyn Visitor) -> Result<()> {
    let walk = Walk { intake, load, visitor, failure: Mutex::new(None) };
    std::thread::scope(|scope| {
        // The first worker is this thread; should there be no more, it does everything.
        for _ in 1..workers {
            let _ = std::thread::Builder::new().spawn_scoped(scope, || walk.work());
        }
        walk.work();
    });
    match walk.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

struct Walk<'a, 'b> {
    intake: &'a Intake<'b>,
    load: bool,
    visitor: &'a dyn Visitor,
    failure: Mutex<Option<(u64, Error)>>,
}

impl Walk<'_, '_> {
    fn work(&self) {
        // A panic must not leave the others waiting.
        let guard = StopOnPanic(self.visitor);
        let mut task = Task::default();
        if let Err(error) = self.work_through(&mut task) {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            if failure.as_ref().is_none_or(|(index, _)| task.index < *index) {
                *failure = Some((task.index, error));
            }
            drop(failure);
            self.visitor.stop();
        }
        std::mem::forget(guard);
    }

    fn work_through(&self, task: &mut Task) -> Result<()> {
        // A window is 2 MiB.
        let mut window = AlignedBuf::new(if self.load { WINDOW as usize } else { 0 });
        while !self.visitor.is_stopped() && self.intake.next(task, &mut window, |_, _| false)? {
            self.intake.throttle(task, || self.visitor.is_stopped())?;
            let data = task.items.iter().filter(|item| self.load && matches!(item.kind, ItemKind::Data { .. }));
            for item in data {
                let from = (item.guest - task.start()) as usize;
                self.intake.read(item, &mut window[from..from + item.len as usize])?;
            }
            self.visitor.visit(task, &mut window)?;
        }
        Ok(())
    }
}

struct StopOnPanic<'a>(&'a dyn Visitor);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}
