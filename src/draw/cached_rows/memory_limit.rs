//! A bound on the total memory of the batches in work.

use parking_lot::{Condvar, Mutex};

/// The most bytes of rows in memory. It leaves room for one last group, because offsets into the bytes have 32 bits.
pub(crate) const MAX_BYTES_IN_MEMORY: usize = 3 << 30;

/// Memory that several threads share.
#[derive(Debug)]
pub(crate) struct MemoryLimit {
    pub(crate) limit: usize,
    pub(crate) taken: Mutex<usize>,
    given_back: Condvar,
}

impl MemoryLimit {
    pub(crate) fn new(limit: usize) -> MemoryLimit {
        MemoryLimit { limit, taken: Mutex::new(0), given_back: Condvar::new() }
    }

    /// Takes `bytes`, and waits until they are free; `None` if `bytes` is more than the limit.
    pub(crate) fn take(&self, bytes: usize) -> Option<TakenMemory<'_>> {
        if bytes > self.limit {
            return None;
        }
        let mut taken = self.taken.lock();
        self.given_back.wait_while(&mut taken, |taken| *taken + bytes > self.limit);
        *taken += bytes;
        Some(TakenMemory { of: self, bytes })
    }
}

/// A part of the memory, in use until this is dropped.
pub(crate) struct TakenMemory<'a> {
    of: &'a MemoryLimit,
    bytes: usize,
}

impl Drop for TakenMemory<'_> {
    fn drop(&mut self) {
        *self.of.taken.lock() -= self.bytes;
        self.of.given_back.notify_all();
    }
}
