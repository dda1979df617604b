//! Freed buffers, kept for the next batch.

use kernels::Lines;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Memory that a pool can hold.
pub(crate) trait Buffer {
    fn new(capacity: usize) -> Self;
    fn capacity(&self) -> usize;
}

impl Buffer for Lines {
    fn new(capacity: usize) -> Self {
        Lines::new(capacity)
    }

    fn capacity(&self) -> usize {
        Lines::capacity(self)
    }
}

/// Freed buffers by capacity, a power of two. Batches vary in length, and each finds the buffers of
/// the others: after the longest one nothing is allocated any more. What lies beyond a buffer's
/// longest use is never touched and so takes no memory.
#[derive(Debug)]
pub(crate) struct Pool<T> {
    free: Mutex<BTreeMap<usize, Vec<T>>>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Pool { free: Mutex::default() }
    }
}

impl<T: Buffer> Pool<T> {
    /// A buffer with room for at least `size` numbers, of unspecified content.
    pub(crate) fn take(&self, size: usize) -> T {
        let capacity = size.next_power_of_two().max(64);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        for capacity in [capacity, 2 * capacity] {
            if let Some(buffer) = free.get_mut(&capacity).and_then(Vec::pop) {
                return buffer;
            }
        }
        // The next longer batch takes the place of a shorter one.
        free.get_mut(&(capacity / 2)).and_then(Vec::pop);
        T::new(capacity)
    }

    pub(crate) fn give_back(&self, buffer: T) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.entry(buffer.capacity()).or_default().push(buffer);
    }
}
