//! Signals: being asked to end, and being asked how far the work is.
//!
//! A long run calls [`watch`]. From then on a signal that asks it to end only sets a flag ([`requested`]), which the
//! workers look at between two pieces of work, so that they stop at a clean point and everything unfinished is removed
//! on the way out. Who gets no answer within [`GRACE`], or asks twice, does not wait any longer: the clean-up is done
//! right away and the process ends. In both cases it ends by the signal itself ([`die_of`]), which is what shells look at.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::error::Result;

/// How long work in progress may take to notice that it shall end.
const GRACE: Duration = Duration::from_secs(1);

/// The stacks of the threads here, which do next to nothing.
const STACK: usize = 128 << 10;

/// The signal that asks this run to end; 0 for none.
static REQUESTED: AtomicI32 = AtomicI32::new(0);

/// Whom SIGUSR1 asks.
static REPORT: Mutex<Option<Box<dyn Fn() + Send>>> = Mutex::new(None);

/// The signal that asks this run to end, if one has come.
pub fn requested() -> Option<i32> {
    match REQUESTED.load(Ordering::Relaxed) {
        0 => None,
        signal => Some(signal),
    }
}

/// Starts watching: SIGINT, SIGTERM and SIGHUP ask the run to end, except those that this process was started to ignore
/// (`nohup`); SIGUSR1 calls `report`. `clean_up` is what must be done before the process ends without further ado.
///
/// Starts one thread, the first time; later calls only replace `report`.
pub fn watch(report: impl Fn() + Send + 'static, clean_up: fn()) -> Result<()> {
    let mut current = REPORT.lock().unwrap_or_else(|poison| poison.into_inner());
    let first = current.is_none();
    *current = Some(Box::new(report));
    drop(current);
    if !first {
        return Ok(());
    }
    let ending = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_ignored(*signal));
    let signals = Signals::new(ending.chain([SIGUSR1]))?;
    thread::Builder::new().name("signals".to_owned()).stack_size(STACK).spawn(move || serve(signals, clean_up))?;
    Ok(())
}

fn serve(mut signals: Signals, clean_up: fn()) {
    for signal in signals.forever() {
        if signal == SIGUSR1 {
            if let Some(report) = &*REPORT.lock().unwrap_or_else(|poison| poison.into_inner()) {
                report();
            }
            continue;
        }
        let end = move || {
            clean_up();
            die_of(signal);
        };
        if requested().is_some() {
            end();
        }
        REQUESTED.store(signal, Ordering::Relaxed);
        let patience = move || {
            thread::sleep(GRACE);
            end();
        };
        if thread::Builder::new().name("patience".to_owned()).stack_size(STACK).spawn(patience).is_err() {
            end();
        }
    }
}

/// Ends the process by the default action of a signal, so that whoever waits for it sees that signal.
pub fn die_of(signal: i32) -> ! {
    // Does not come back for the signals above; what a shell would report is the next best thing if it does.
    let _ = signal_hook::low_level::emulate_default_handler(signal);
    std::process::exit(128 + signal)
}

/// A write beyond the limit of file sizes (`ulimit -f`) shall fail with EFBIG, which is reported and cleaned up after,
/// instead of killing the process on the spot.
pub fn ignore_file_size_signal() {
    // SAFETY: ignoring a signal installs no handler; nothing else in this process sets its action.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Whether this process was started with a signal ignored.
fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with a null pointer for the new action nothing is changed; the old one is written to memory that is large
    // enough, and was valid before as all zeros.
    let action = unsafe {
        if libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) != 0 {
            return false;
        }
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}
