//! Memory that is used for a moment, again and again.
//!
//! Not every allocator keeps what is freed: musl's gives a buffer of some pages back to the system at once, and the next
//! one costs a page fault for every 4 KiB. Where that happens for each cluster, it takes as long as the work itself.

use std::cell::Cell;

/// The longest piece that a thread keeps, in bytes.
const KEPT_MAX: usize = 4 << 20;

thread_local! {
    static KEPT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends `len` bytes to `body`. What is in them is arbitrary: `body` has to fill what it reads. Within `body` others may
/// borrow, too; they get other bytes.
pub fn with<T>(len: usize, body: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut bytes = KEPT.take();
    if bytes.len() < len {
        bytes.resize(len, 0);
    }
    let result = body(&mut bytes[..len]);
    if bytes.len() <= KEPT_MAX {
        KEPT.set(bytes);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_memory_comes_back_and_nobody_shares_it() {
        let first = with(70_000, |bytes| {
            bytes.fill(1);
            let inner = with(70_000, |inner| {
                assert!(inner.iter().all(|byte| *byte == 0), "that of the outer one");
                inner.fill(2);
                inner.as_ptr()
            });
            assert!(bytes.iter().all(|byte| *byte == 1) && bytes.as_ptr() != inner);
            bytes.as_ptr()
        });
        assert_eq!(with(1_000, |bytes| (bytes.len(), bytes.as_ptr())), (1_000, first));
        with(KEPT_MAX + 1, |_| ());
        assert_eq!(with(5, |bytes| bytes.to_vec()), [0; 5], "what is too long is not kept");
    }
}
