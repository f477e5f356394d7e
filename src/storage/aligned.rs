//! Memory for direct I/O.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The alignment that satisfies every common device and file system.
pub const PAGE: usize = 4096;

/// Zeros, for writing them out.
#[repr(C, align(4096))]
struct Zeros([u8; 1 << 20]);

static ZEROS: Zeros = Zeros([0; 1 << 20]);

/// A mebibyte of zeros, aligned to [`PAGE`].
pub fn zeros() -> &'static [u8] {
    &ZEROS.0
}

/// Bytes whose first one lies on a multiple of an alignment. New ones are zero.
#[derive(Debug)]
pub struct AlignedBuf {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// `len` zero bytes aligned to [`PAGE`].
    pub fn new(len: usize) -> Self {
        Self::with_align(len, PAGE)
    }

    /// `len` zero bytes aligned to `align`, a power of two.
    pub fn with_align(len: usize, align: usize) -> Self {
        assert!(align.is_power_of_two(), "an alignment is a power of two");
        // Over-allocated rather than allocated with a layout, which would need `unsafe`. The memory never moves, as the
        // vector is never grown.
        let bytes = vec![0; len + align];
        let start = bytes.as_ptr().align_offset(align);
        assert!(start <= align, "align_offset works on real addresses");
        AlignedBuf { bytes, start, len }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// Keeps buffers of one size for the next user, because fresh memory costs a page fault for each page.
#[derive(Debug)]
pub struct BufferPool {
    free: Mutex<Vec<AlignedBuf>>,
    len: usize,
    align: usize,
    keep: usize,
}

impl BufferPool {
    /// A pool of buffers of `len` bytes aligned to `align`; at most `keep` unused ones are kept.
    pub fn new(len: usize, align: usize, keep: usize) -> Self {
        BufferPool { free: Mutex::new(Vec::new()), len, align, keep }
    }

    fn free(&self) -> MutexGuard<'_, Vec<AlignedBuf>> {
        // A panic elsewhere leaves a list of buffers a list of buffers.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer. What it holds is left over from earlier use.
    pub fn take(&self) -> PooledBuf<'_> {
        let buf = self.free().pop().unwrap_or_else(|| AlignedBuf::with_align(self.len, self.align));
        PooledBuf { buf: Some(buf), pool: self }
    }
}

/// A buffer that goes back to its pool when dropped.
#[derive(Debug)]
pub struct PooledBuf<'a> {
    buf: Option<AlignedBuf>,
    pool: &'a BufferPool,
}

impl Deref for PooledBuf<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buf.as_deref().unwrap_or_default()
    }
}

impl DerefMut for PooledBuf<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buf.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for PooledBuf<'_> {
    fn drop(&mut self) {
        let mut free = self.pool.free();
        if let Some(buf) = self.buf.take()
            && free.len() < self.pool.keep
        {
            free.push(buf);
        }
    }
}
