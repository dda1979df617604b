//! Memory for numbers that begins at a cache line: a vector then lies in one line, not in two.

/// Numbers, the first of them where a cache line begins.
#[derive(Debug, Default)]
pub struct Lines {
    data: Vec<f32>,
    start: usize,
}

/// Numbers in a cache line.
const LINE: usize = 64 / size_of::<f32>();

impl Lines {
    /// Room for `capacity` numbers: zeros, which the system gives without touching them.
    pub fn new(capacity: usize) -> Lines {
        let data = vec![0.0; capacity + LINE];
        let start = data.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Lines { data, start }
    }

    /// How many numbers there is room for.
    pub fn capacity(&self) -> usize {
        self.data.len().saturating_sub(LINE)
    }

    /// The first `count` numbers.
    ///
    /// # Panics
    /// There is no room for them.
    pub fn first(&self, count: usize) -> &[f32] {
        &self.data[self.start..][..count]
    }

    /// The first `count` numbers.
    ///
    /// # Panics
    /// There is no room for them.
    pub fn first_mut(&mut self, count: usize) -> &mut [f32] {
        &mut self.data[self.start..][..count]
    }

    /// The first `count` numbers, which hold anything; room is made for them.
    pub(crate) fn take(&mut self, count: usize) -> &mut [f32] {
        if self.capacity() < count {
            // Never both at a time.
            drop(std::mem::take(self));
            *self = Lines::new(count);
        }
        self.first_mut(count)
    }

    /// From number `index` on.
    pub(crate) fn at(&self, index: usize) -> *const f32 {
        self.data[self.start + index..].as_ptr()
    }

    /// Bytes of memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.data[..])
    }
}
