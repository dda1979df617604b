//! Freed buffers, kept for the next batch.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Memory that a pool can hold.
pub(crate) trait Buffer {
    fn new(capacity: usize) -> Self;
    fn capacity(&self) -> usize;
}

/// Numbers that begin at a cache line: a vector then lies in one line, not in two.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    data: Vec<f32>,
    start: usize,
}

const CACHE_LINE: usize = 64;

impl Numbers {
    /// The first `count` numbers.
    pub(crate) fn first(&self, count: usize) -> &[f32] {
        &self.data[self.start..][..count]
    }

    /// The first `count` numbers.
    pub(crate) fn first_mut(&mut self, count: usize) -> &mut [f32] {
        &mut self.data[self.start..][..count]
    }
}

impl Buffer for Numbers {
    /// The system gives zeros without touching them.
    fn new(capacity: usize) -> Self {
        let spare = CACHE_LINE / size_of::<f32>();
        let data = vec![0.0; capacity + spare];
        let start = data.as_ptr().align_offset(CACHE_LINE).min(spare);
        Numbers { data, start }
    }

    fn capacity(&self) -> usize {
        self.data.len() - CACHE_LINE / size_of::<f32>()
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
