//! Streams: what can only be read or written from front to back (pipes, FIFOs, sockets, standard input and output).

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::zeros;
use crate::error::{Context, Error, Result};
use crate::units::{SECTOR, align_up};

/// A disk that arrives as a stream of bytes. Its length is known at its end.
#[derive(Debug)]
pub struct InputStream {
    name: String,
    state: Mutex<Input>,
}

#[derive(Debug)]
struct Input {
    file: File,
    /// Bytes of disk that were read; in the end, rounded up to whole sectors.
    position: u64,
    ended: bool,
}

/// A part of the disk that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPart {
    /// Guest offset.
    pub start: u64,
    /// Length in bytes, whole sectors; 0 at the end.
    pub len: usize,
}

impl InputStream {
    /// The stream that `file` gives from where it stands; messages call it `name`.
    pub fn new(file: File, name: impl Into<String>) -> Self {
        InputStream { name: name.into(), state: Mutex::new(Input { file, position: 0, ended: false }) }
    }

    fn state(&self) -> MutexGuard<'_, Input> {
        // A panic elsewhere changes nothing about what was read.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills `buf`, whole sectors, with what follows. Only the end of the stream makes a part shorter than that; its last
    /// sector is completed with zeros. A stream without any byte is an error: nobody has a disk like that, but programs that
    /// fail before their first byte are common.
    pub fn read(&self, buf: &mut [u8]) -> Result<StreamPart> {
        let mut state = self.state();
        let start = state.position;
        let mut len = 0;
        while len < buf.len() && !state.ended {
            match state.file.read(&mut buf[len..]) {
                Ok(0) => state.ended = true,
                Ok(count) => len += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(|| format!("Could not read from {}", self.name)),
            }
        }
        if state.ended && start == 0 && len == 0 {
            return Err(Error::invalid(format!("Could not read from {}: there is nothing to read", self.name)));
        }
        // At most the length of the buffer.
        let whole = align_up(len as u64, SECTOR).unwrap_or(u64::MAX).min(buf.len() as u64) as usize;
        buf[len..whole].fill(0);
        state.position = start.checked_add(whole as u64).ok_or_else(|| Error::os(libc::EFBIG))?;
        Ok(StreamPart { start, len: whole })
    }

    /// The length of the disk in bytes, as far as it has been read.
    pub fn position(&self) -> u64 {
        self.state().position
    }
}

/// Where an image goes that is written as a stream of bytes.
#[derive(Debug)]
pub struct OutputStream {
    name: String,
    file: File,
}

impl OutputStream {
    /// The stream into `file`; messages call it `name`.
    pub fn new(file: File, name: impl Into<String>) -> Self {
        OutputStream { name: name.into(), file }
    }

    /// Writes all of `bytes`. A reader that has gone away is an error.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        (&self.file).write_all(bytes).context(|| format!("Could not write to {}", self.name))
    }

    /// Writes so many zeros.
    pub fn write_zeros(&self, len: u64) -> Result<()> {
        let mut left = len;
        while left > 0 {
            // Never more than there are.
            let now = left.min(zeros().len() as u64) as usize;
            self.write(&zeros()[..now])?;
            left -= now as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
