//! Reading a finished target back and comparing it with the source.
//!
//! An error in our own tables must not hide from our own reader, so the target is read by an independent implementation,
//! the crate qcow2-rs, where it knows the kind of image. That crate panics or hangs on what it does not expect; it therefore
//! runs on a thread of its own, gets at the image through our [`Storage`] and cannot write, and if it gives up, our own
//! reader does the comparison.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use qcow2_rs::dev::{Qcow2Dev, Qcow2DevParams};
use qcow2_rs::error::Qcow2Result;
use qcow2_rs::helpers::Qcow2IoBuf;
use qcow2_rs::ops::Qcow2IoOps;
use qcow2_rs::utils::qcow2_alloc_dev;

use super::scan::{is_equal, is_zero};
use super::source::{Source, Status};
use super::{Monitor, Phase, plan::WINDOW};
use crate::error::{Context, Error, Kind, Result};
use crate::image::{Chain, ExtentKind};
use crate::storage::{AlignedBuf, Storage};

/// How long the second reader may take for one window.
const PATIENCE: Duration = Duration::from_secs(60);
/// Holes longer than this on both sides are taken from the tables instead of being read, in bytes.
const LONG_HOLE: u64 = 64 << 20;

/// Who read the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The independent implementation.
    Independent,
    /// Our own, as the independent one does not know this kind of image.
    Own,
    /// Our own, after the independent one gave up.
    OwnInstead,
}

/// Compares the whole of `source` with `target`. Fails where they differ. `target` should be freshly opened: tables that
/// the copy left in memory say nothing about those in the file.
pub fn verify(source: &Source<'_>, target: &Chain, monitor: &dyn Monitor) -> Result<Reader> {
    let known = is_known_to_second_reader(target)?;
    if known {
        let mut second = SecondReader::start(Arc::clone(target.top().layer.storage()), source.size());
        let mut read = |guest: u64, buf: &mut [u8]| Ok(second.read(guest, buf));
        if compare(source, target, monitor, Reader::Independent, &mut read)? {
            return Ok(Reader::Independent);
        }
    }
    let reader = if known { Reader::OwnInstead } else { Reader::Own };
    compare(source, target, monitor, reader, &mut |guest, buf| target.read(guest, buf).map(|()| true))?;
    Ok(reader)
}

/// Plain and zlib-compressed images of their own, with clusters that are not tiny.
fn is_known_to_second_reader(target: &Chain) -> Result<bool> {
    let layer = &target.top().layer;
    if layer.format() != "qcow2" || target.nodes().len() > 1 || !Arc::ptr_eq(layer.storage(), layer.data_storage()) {
        return Ok(false);
    }
    let info = layer.info()?;
    let special = info.format_specific.as_ref().is_some_and(|data| {
        data.get("extended-l2").is_some_and(|value| value == true)
            || data.get("compression-type").is_some_and(|value| value != "zlib")
            || data.get("data-file").is_some()
    });
    Ok(!info.encrypted && !special && layer.limits().cluster >= 4096)
}

/// Reads both window by window. `false` when the reader of the target gave up.
fn compare(
    source: &Source<'_>,
    target: &Chain,
    monitor: &dyn Monitor,
    reader: Reader,
    read: &mut dyn FnMut(u64, &mut [u8]) -> Result<bool>,
) -> Result<bool> {
    let mut wanted = AlignedBuf::new(WINDOW as usize);
    let mut found = AlignedBuf::new(WINDOW as usize);
    let mut at = 0;
    monitor.phase(Phase::Verify);
    while at < source.size() {
        if let Some(signal) = monitor.interrupted() {
            return Err(Error::new(Kind::Interrupted(signal)));
        }
        if let Some(len) = common_hole(source, target, at)? {
            at += len;
            continue;
        }
        let len = WINDOW.min(source.size() - at) as usize;
        monitor.reached(at, source.size());
        let (wanted, found) = (&mut wanted[..len], &mut found[..len]);
        source.read_across(at, wanted).context(|| format!("error while reading at byte {at}"))?;
        if !read(at, found).context(|| format!("error while reading the target at byte {at}"))? {
            return Ok(false);
        }
        if !is_equal(wanted, found) {
            return Err(difference(at, wanted, found, target, reader));
        }
        at += len as u64;
    }
    Ok(true)
}

/// Says where the first difference in a window is and who read it; of what the independent implementation read, also
/// whether our own reader sees it: then the data is wrong, otherwise the two disagree about the image.
fn difference(at: u64, wanted: &[u8], found: &[u8], target: &Chain, reader: Reader) -> Error {
    let first = wanted.iter().zip(found).position(|(a, b)| a != b).unwrap_or(0);
    let block = first & !4095;
    let zeros = if is_zero(&found[block..found.len().min(block + 4096)]) { " (zeros instead of data)" } else { "" };
    let by = match reader {
        Reader::Own | Reader::OwnInstead => "read by this program",
        Reader::Independent => {
            let mut own = vec![0; found.len()];
            match target.read(at, &mut own) {
                Ok(()) if own == wanted => "read by qcow2-rs; read by this program it is equal",
                _ => "read by qcow2-rs and by this program",
            }
        }
    };
    let byte = at + first as u64;
    Error::corrupt(format!("Verification failed: the target differs from the source at byte {byte}{zeros}, {by}"))
}

/// The length of a long run of whole windows at `at` that are holes in the tables of both.
fn common_hole(source: &Source<'_>, target: &Chain, at: u64) -> Result<Option<u64>> {
    let left = source.size() - at;
    if left <= LONG_HOLE {
        return Ok(None);
    }
    let from = source.map(at, left)?;
    if from.status != Status::Zero || from.len < LONG_HOLE {
        return Ok(None);
    }
    let to = target.map(at, from.len)?;
    let zero = matches!(to.extent.kind, ExtentKind::Zero { .. } | ExtentKind::Unallocated);
    Ok((zero && to.extent.len >= LONG_HOLE).then(|| to.extent.len - to.extent.len % WINDOW))
}

/// The independent implementation on its thread.
struct SecondReader {
    ask: SyncSender<(u64, usize)>,
    answer: Receiver<Vec<u8>>,
}

impl SecondReader {
    fn start(storage: Arc<dyn Storage>, size: u64) -> SecondReader {
        let (ask, requests) = sync_channel::<(u64, usize)>(1);
        let (results, answer) = sync_channel::<Vec<u8>>(1);
        let work = move || {
            // A panic is an answer, too: the channel closes, and our own reader takes over.
            let quiet = std::panic::AssertUnwindSafe(|| serve(storage, size, &requests, &results));
            let _ = std::panic::catch_unwind(quiet);
        };
        // Should there be no thread, the channel is closed at once.
        let _ = std::thread::Builder::new().name(SECOND_READER.to_owned()).spawn(work);
        SecondReader { ask, answer }
    }

    /// Reads a window; `false` when the reader has given up.
    fn read(&mut self, guest: u64, buf: &mut [u8]) -> bool {
        if self.ask.send((guest, buf.len())).is_err() {
            return false;
        }
        match self.answer.recv_timeout(PATIENCE) {
            Ok(bytes) if bytes.len() == buf.len() => {
                buf.copy_from_slice(&bytes);
                true
            }
            Ok(_) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => false,
        }
    }
}

/// The name of the second reader's thread: its panics are no news for the user.
pub const SECOND_READER: &str = "second-reader";

/// Answers requests until they end, or the reader fails.
fn serve(
    storage: Arc<dyn Storage>,
    size: u64,
    requests: &Receiver<(u64, usize)>,
    results: &SyncSender<Vec<u8>>,
) -> Option<()> {
    let params = Qcow2DevParams::new(9, None, None, true, false);
    let (dev, backing) = block_on(qcow2_alloc_dev(Path::new("target"), ReadOnly(storage), &params)).ok()?;
    if backing.is_some() || dev.info.virtual_size() < size {
        return None;
    }
    block_on(dev.qcow2_prep_io()).ok()?;
    while let Ok((guest, len)) = requests.recv() {
        results.send(read_window(&dev, guest, len)?).ok()?;
    }
    Some(())
}

fn read_window(dev: &Qcow2Dev<ReadOnly>, guest: u64, len: usize) -> Option<Vec<u8>> {
    // It wants aligned memory, and whole sectors.
    let mut buf = Qcow2IoBuf::<u8>::new(len.next_multiple_of(512));
    let mut done = 0;
    while done < len {
        let count = block_on(dev.read_at(&mut buf[done..], guest + done as u64)).ok()?;
        if count == 0 {
            return None;
        }
        done += count;
    }
    Some(buf[..len].to_vec())
}

/// Runs a future that never really waits: everything below it reads synchronously.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = TaskContext::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
        std::thread::yield_now();
    }
}

/// Our storage as the second reader sees it.
struct ReadOnly(Arc<dyn Storage>);

impl Qcow2IoOps for ReadOnly {
    async fn read_to(&self, offset: u64, buf: &mut [u8]) -> Qcow2Result<usize> {
        match self.0.read_at(buf, offset) {
            Ok(()) => Ok(buf.len()),
            Err(error) => Err(error.to_string().into()),
        }
    }

    async fn write_from(&self, _offset: u64, _buf: &[u8]) -> Qcow2Result<()> {
        Err("read only".into())
    }

    async fn fallocate(&self, _offset: u64, _len: usize, _flags: u32) -> Qcow2Result<()> {
        Err("read only".into())
    }

    async fn fsync(&self, _offset: u64, _len: usize, _flags: u32) -> Qcow2Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
