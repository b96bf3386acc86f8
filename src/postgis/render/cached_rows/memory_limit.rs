//! A bound on the total memory of the batches in work.

use std::sync::{Condvar, Mutex, PoisonError};

/// Memory that several threads share.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    pub(super) limit: usize,
    pub(super) taken: Mutex<usize>,
    given_back: Condvar,
}

impl MemoryLimit {
    pub(super) fn new(limit: usize) -> MemoryLimit {
        MemoryLimit { limit, taken: Mutex::new(0), given_back: Condvar::new() }
    }

    /// Takes `bytes`, and waits until they are free; `None` if `bytes` is more than the limit.
    pub(super) fn take(&self, bytes: usize) -> Option<TakenMemory<'_>> {
        if bytes > self.limit {
            return None;
        }
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = self
            .given_back
            .wait_while(taken, |taken| *taken + bytes > self.limit)
            .unwrap_or_else(PoisonError::into_inner);
        *taken += bytes;
        Some(TakenMemory { of: self, bytes })
    }
}

/// A part of the memory, in use until this is dropped.
pub(super) struct TakenMemory<'a> {
    of: &'a MemoryLimit,
    bytes: usize,
}

impl Drop for TakenMemory<'_> {
    fn drop(&mut self) {
        *self.of.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.of.given_back.notify_all();
    }
}
