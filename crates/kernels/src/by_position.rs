//! Scores and their slopes meet products with relative positions: every row of scores gathers its numbers
//! by position, and backward adds its slopes up by position.

use crate::attention::BLOCK;
use crate::simd::{Kernel, Simd};
use std::ops::Range;

/// The positions that one sequence meets.
#[derive(Clone, Copy)]
pub(crate) struct Among<'a> {
    /// Of distances 1 − n, …, n − 1.
    pub(crate) of_distance: &'a [u32],
    /// n.
    pub(crate) keys: usize,
}

impl<'a> Among<'a> {
    /// The positions between any of these queries and any of these keys, counted from the sequence's
    /// start.
    pub(crate) fn between(&self, queries: &Range<usize>, keys: &Range<usize>) -> Range<usize> {
        let first = keys.start + self.keys - queries.end;
        let last = keys.end + self.keys - 2 - queries.start;
        self.of_distance[first] as usize..self.of_distance[last] as usize + 1
    }

    pub(crate) fn all(&self) -> Range<usize> {
        self.between(&(0..self.keys), &(0..self.keys))
    }

    /// The position of each key for this query.
    pub(crate) fn row(&self, query: usize) -> &'a [u32] {
        &self.of_distance[self.keys - 1 - query..2 * self.keys - 1 - query]
    }

    /// Whether every distance has a position of its own.
    pub(crate) fn are_distances(&self) -> bool {
        self.all().len() == self.of_distance.len()
    }

    /// Keys in blocks.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let keys = self.keys;
        (0..keys).step_by(BLOCK).map(move |first| first..(first + BLOCK).min(keys))
    }
}

/// Scores of queries `first`, `first + 1`, … take their products with positions.
pub(crate) struct AddByQuery<'a> {
    pub(crate) among: Among<'a>,
    pub(crate) first: usize,
    /// [queries, positions]
    pub(crate) by_query: &'a [f32],
    pub(crate) window: &'a Range<usize>,
    pub(crate) scores: &'a mut [f32],
}

impl Kernel for AddByQuery<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let AddByQuery { among, first, by_query, window, scores } = self;
        let exact = among.are_distances();
        let rows = scores.chunks_exact_mut(among.keys).zip(by_query.chunks_exact(window.len()));
        for (i, (scores, products)) in rows.enumerate() {
            let positions = among.row(first + i);
            if exact {
                let products = &products[positions[0] as usize - window.start..];
                scores.iter_mut().zip(products).for_each(|(score, x)| *score += x);
            } else {
                for (score, &position) in scores.iter_mut().zip(positions) {
                    *score += products[position as usize - window.start];
                }
            }
        }
    }
}

/// Scores of queries `first`, `first + 1`, … take the products of their keys with positions.
pub(crate) struct AddByKey<'a> {
    pub(crate) among: Among<'a>,
    pub(crate) first: usize,
    /// [keys, positions], rows `stride` apart.
    pub(crate) by_key: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) window: &'a Range<usize>,
    pub(crate) scores: &'a mut [f32],
}

impl Kernel for AddByKey<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (i, scores) in self.scores.chunks_exact_mut(self.among.keys).enumerate() {
            let positions = self.among.row(self.first + i);
            let products = self.by_key.chunks_exact(self.stride);
            for ((score, &position), products) in scores.iter_mut().zip(positions).zip(products) {
                *score += products[position as usize - self.window.start];
            }
        }
    }
}

/// Slopes of scores of queries `first`, `first + 1`, … are added up by query and position.
pub(crate) struct SumByQuery<'a> {
    pub(crate) among: Among<'a>,
    pub(crate) first: usize,
    /// [queries, positions]
    pub(crate) by_query: &'a mut [f32],
    pub(crate) met: &'a Range<usize>,
    pub(crate) slopes: &'a [f32],
}

impl Kernel for SumByQuery<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let exact = self.among.are_distances();
        let rows = self.slopes.chunks_exact(self.among.keys);
        let rows = rows.zip(self.by_query.chunks_exact_mut(self.met.len()));
        for (i, (slopes, sums)) in rows.enumerate() {
            let positions = self.among.row(self.first + i);
            if exact {
                sums[positions[0] as usize - self.met.start..][..slopes.len()]
                    .copy_from_slice(slopes);
            } else {
                for (slope, &position) in slopes.iter().zip(positions) {
                    sums[position as usize - self.met.start] += slope;
                }
            }
        }
    }
}

/// Slopes of scores of queries `first`, `first + 1`, … are added to sums by key and position.
pub(crate) struct SumByKey<'a> {
    pub(crate) among: Among<'a>,
    pub(crate) first: usize,
    /// [keys, positions], rows `stride` apart.
    pub(crate) by_key: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) window: &'a Range<usize>,
    pub(crate) slopes: &'a [f32],
}

impl Kernel for SumByKey<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (i, slopes) in self.slopes.chunks_exact(self.among.keys).enumerate() {
            let positions = self.among.row(self.first + i);
            let sums = self.by_key.chunks_exact_mut(self.stride);
            for ((slope, &position), sums) in slopes.iter().zip(positions).zip(sums) {
                sums[position as usize - self.window.start] += slope;
            }
        }
    }
}
