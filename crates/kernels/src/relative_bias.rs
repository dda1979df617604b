//! A bias of attention scores by relative position (Raffel et al. 2019): one number per head and
//! bucket of the distance key − query. Along a row of scores the distance rises by one, so that a
//! row takes its biases from a run of a head's biases by distance.
//!
//! Backward sums the scores' slopes by distance, then by bucket, for one head of one sequence; these
//! partial sums are added in the order of the sequences, whoever computed them.

use crate::simd::{Kernel, Simd};
use std::ops::Range;

/// Biases of an attention's scores.
#[derive(Clone, Copy, Debug)]
pub struct RelativeBias<'a> {
    /// One number per bucket and head [buckets, heads].
    pub table: &'a [f32],
    /// The bucket of each distance −(L − 1), …, L − 1 where L is the most keys that a sequence may
    /// have [2L − 1].
    pub buckets: &'a [u32],
}

/// Where the gradient of a table goes.
#[derive(Debug)]
pub struct RelativeBiasGradient<'a> {
    /// Is added to [buckets, heads].
    pub table: &'a mut [f32],
    /// Scratch of [`partial_sums`](RelativeBiasGradient::partial_sums) numbers.
    pub partial: &'a mut [f32],
}

impl RelativeBiasGradient<'_> {
    /// How many numbers the scratch has.
    pub fn partial_sums(sequences: usize, buckets: usize, heads: usize) -> usize {
        sequences * heads * buckets
    }

    /// Adds the partial sums [sequences, heads, buckets] to the table.
    pub(crate) fn reduce(self, heads: usize) {
        let RelativeBiasGradient { table, partial } = self;
        let buckets = table.len() / heads;
        for sums in partial.chunks_exact(heads * buckets) {
            for (head, sums) in sums.chunks_exact(buckets).enumerate() {
                for (bucket, sum) in sums.iter().enumerate() {
                    table[bucket * heads + head] += sum;
                }
            }
        }
    }
}

impl<'a> RelativeBias<'a> {
    /// # Panics
    /// The table is not whole rows, a bucket is not in it, or a sequence has more keys than there
    /// are distances for, or more queries than keys.
    pub(crate) fn check(&self, heads: usize, cu_q: &[u32], cu_kv: &[u32]) {
        assert!(self.table.len().is_multiple_of(heads), "table is not whole rows of {heads}");
        let rows = self.table.len() / heads;
        assert!(self.buckets.iter().all(|&b| (b as usize) < rows), "a bucket beyond {rows}");
        for (q, kv) in cu_q.windows(2).zip(cu_kv.windows(2)) {
            let (queries, keys) = (q[1] - q[0], (kv[1] - kv[0]) as usize);
            assert!(queries as usize <= keys, "{queries} queries of {keys} keys");
            assert!(2 * keys <= self.buckets.len() + 1, "{keys} keys have no bucket");
        }
    }

    /// Buckets of the distances 1 − n, …, n − 1 among n keys.
    fn among(&self, n: usize) -> &'a [u32] {
        let zero = self.buckets.len() / 2;
        &self.buckets[zero + 1 - n..zero + n]
    }

    /// One head's biases by distance among n keys [2n − 1].
    pub(crate) fn by_distance(&self, heads: usize, head: usize, n: usize, biases: &mut Vec<f32>) {
        biases.clear();
        biases.extend(self.among(n).iter().map(|&b| self.table[b as usize * heads + head]));
    }

    /// Adds sums by distance [2n − 1] to sums by bucket.
    pub(crate) fn by_bucket(&self, n: usize, by_distance: &[f32], by_bucket: &mut [f32]) {
        for (&bucket, slope) in self.among(n).iter().zip(by_distance) {
            by_bucket[bucket as usize] += slope;
        }
    }
}

/// The biases of query `query`'s row among `n` keys within those by distance.
fn row(query: usize, n: usize) -> Range<usize> {
    n - 1 - query..2 * n - 1 - query
}

/// `scores += biases` for rows of queries `first`, `first + 1`, … of a sequence.
pub(crate) struct AddBias<'a> {
    pub(crate) by_distance: &'a [f32],
    pub(crate) first: usize,
    pub(crate) columns: usize,
    pub(crate) scores: &'a mut [f32],
}

impl Kernel for AddBias<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (i, scores) in self.scores.chunks_exact_mut(self.columns).enumerate() {
            let biases = &self.by_distance[row(self.first + i, self.columns)];
            scores.iter_mut().zip(biases).for_each(|(score, bias)| *score += bias);
        }
    }
}

/// `by_distance += slopes` for rows of queries `first`, `first + 1`, … of a sequence.
pub(crate) struct SumSlopes<'a> {
    pub(crate) by_distance: &'a mut [f32],
    pub(crate) first: usize,
    pub(crate) columns: usize,
    pub(crate) slopes: &'a [f32],
}

impl Kernel for SumSlopes<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (i, slopes) in self.slopes.chunks_exact(self.columns).enumerate() {
            let sums = &mut self.by_distance[row(self.first + i, self.columns)];
            sums.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope);
        }
    }
}
