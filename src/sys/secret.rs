//! What a process asks of the system while it holds secrets: no core dumps, and that memory is wiped before it is given
//! back.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::prctl;

use crate::error::Result;

/// Whether memory is wiped.
static WIPING: AtomicBool = AtomicBool::new(false);

/// To be called before the first secret is read. From then on the process leaves no core dump and cannot be traced by
/// other processes of its user, and [`Wiping`] wipes.
///
/// A limit on the size of core files (`RLIMIT_CORE`) would not do: the kernel ignores it where dumps go into a program.
/// Leaving single pages out (`MADV_DONTDUMP`) would miss whatever registers, the stack and libraries have of a key.
pub fn guard() -> Result<()> {
    prctl::set_dumpable(false)?;
    WIPING.store(true, Ordering::Relaxed);
    Ok(())
}

/// Whether [`guard`] was called.
pub fn is_guarded() -> bool {
    WIPING.load(Ordering::Relaxed)
}

/// An allocator that overwrites memory before it gives it back to `A`, once [`guard`] was called. Types that hold secrets
/// wipe them themselves; this is for the copies that libraries and growing vectors leave behind.
#[derive(Debug)]
pub struct Wiping<A = System>(A);

impl Wiping {
    /// One on top of the system's allocator.
    pub const fn new() -> Self {
        Wiping(System)
    }
}

impl Default for Wiping {
    fn default() -> Self {
        Wiping::new()
    }
}

// SAFETY: memory comes from `A` and goes back to it unchanged in place and layout. Between, only bytes of blocks are
// written that their owners have given up.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Wiping<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that `A` asks for.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that `A` asks for.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_guarded() {
            // SAFETY: the caller owns `layout.size()` bytes at `block`, and gives them up.
            unsafe { block.write_bytes(0, layout.size()) };
            // Or the compiler would find that nobody reads these zeros.
            std::hint::black_box(block);
        }
        // SAFETY: the caller's promises are those that `A` asks for.
        unsafe { self.0.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !is_guarded() {
            // SAFETY: the caller's promises are those that `A` asks for.
            return unsafe { self.0.realloc(block, layout, new_size) };
        }
        // Moved by hand, as `A` would leave the old bytes behind.
        // SAFETY: `new_size` rounded up to the alignment is promised to fit, which is what makes a layout valid.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: `new_size` is promised not to be zero.
        let new = unsafe { self.0.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both blocks have that many bytes, and a block just allocated overlaps no other.
            unsafe { new.copy_from_nonoverlapping(block, layout.size().min(new_size)) };
            // SAFETY: the old block has this layout, and is given up.
            unsafe { self.dealloc(block, layout) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what it was given back last, and remembers what was in it.
    struct Watching;

    static LEFT: std::sync::Mutex<Vec<u8>> = std::sync::Mutex::new(Vec::new());

    // SAFETY: memory comes from the system's allocator and goes back to it.
    unsafe impl GlobalAlloc for Watching {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's promises are those that the system's allocator asks for.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the tests below write all bytes of a block.
            *LEFT.lock().unwrap() = unsafe { std::slice::from_raw_parts(block, layout.size()) }.to_vec();
            // SAFETY: the caller's promises are those that the system's allocator asks for.
            unsafe { System.dealloc(block, layout) }
        }
    }

    fn dumpable() -> bool {
        prctl::get_dumpable().expect("prctl")
    }

    #[test]
    fn guarded_memory_is_wiped_and_not_dumped() {
        let (layout, allocator) = (Layout::new::<[u8; 8]>(), Wiping(Watching));
        let filled = || {
            // SAFETY: the layout is not empty, and the block has its eight bytes.
            unsafe {
                let block = allocator.alloc(layout);
                block.write_bytes(0x5a, 8);
                block
            }
        };
        // Other tests of this process may have called `guard` already.
        if !is_guarded() {
            // SAFETY: allocated above with this layout.
            unsafe { allocator.dealloc(filled(), layout) };
        }
        guard().expect("prctl");
        assert!(is_guarded() && !dumpable());
        // SAFETY: allocated above with this layout.
        unsafe { allocator.dealloc(filled(), layout) };
        assert_eq!(*LEFT.lock().unwrap(), [0; 8]);
        for new_size in [4, 8, 4096] {
            LEFT.lock().unwrap().clear();
            // SAFETY: allocated above with this layout; only bytes that were in both blocks are read.
            unsafe {
                let block = allocator.realloc(filled(), layout, new_size);
                let kept = std::slice::from_raw_parts(block, new_size.min(8)).to_vec();
                assert!(kept.iter().all(|byte| *byte == 0x5a));
                System.dealloc(block, Layout::from_size_align(new_size, 1).unwrap());
            }
            assert_eq!(*LEFT.lock().unwrap(), [0; 8], "what is left after growing to {new_size}");
        }
    }
}
