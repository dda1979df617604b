//! The mean of each sequence's rows in a packed batch.

use crate::simd::{self, Kernel, Simd};
use crate::{Isa, threads};
use std::ops::Range;

/// Columns that one task takes.
const STRIP: usize = 64;

/// `y[b]` is the mean of rows `cu_seqlens[b]..cu_seqlens[b + 1]` of `x` [T, `columns`], summed in
/// ascending order.
///
/// # Panics
/// Lengths do not fit, or a sequence is empty.
pub fn mean_rows(isa: Isa, x: &[f32], cu_seqlens: &[u32], y: &mut [f32], columns: usize) {
    check(x, cu_seqlens, y, columns);
    let rows = |b: usize| cu_seqlens[b] as usize..cu_seqlens[b + 1] as usize;
    let strips = y.chunks_mut(columns).enumerate().flat_map(|(sequence, y)| {
        y.chunks_mut(STRIP).enumerate().map(move |(strip, y)| (sequence, strip * STRIP, y))
    });
    threads::for_each(strips, |(sequence, first, y)| {
        simd::run(isa, Mean { x, rows: rows(sequence), columns, first, y });
    });
}

fn check(x: &[f32], cu_seqlens: &[u32], y: &[f32], columns: usize) {
    assert!(cu_seqlens.is_sorted_by(|a, b| a < b), "a sequence is empty");
    assert_eq!(y.len(), (cu_seqlens.len() - 1) * columns, "one row per sequence");
    let rows = cu_seqlens[cu_seqlens.len() - 1] as usize;
    assert!(cu_seqlens[0] == 0 && x.len() == rows * columns, "{rows} rows of {columns}");
}

struct Mean<'a> {
    x: &'a [f32],
    rows: Range<usize>,
    columns: usize,
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for Mean<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Mean { x, rows, columns, first, y } = self;
        let count = rows.len() as f32;
        y.fill(0.0);
        for row in rows {
            for (sum, x) in y.iter_mut().zip(&x[row * columns + first..]) {
                *sum += x;
            }
        }
        y.iter_mut().for_each(|sum| *sum /= count);
    }
}

/// The gradient of `x` from that of the means: every row of a sequence receives its share.
///
/// # Panics
/// As [`mean_rows`].
pub fn mean_rows_backward(dy: &[f32], cu_seqlens: &[u32], dx: &mut [f32], columns: usize) {
    check(dx, cu_seqlens, dy, columns);
    for (bounds, dy) in cu_seqlens.windows(2).zip(dy.chunks(columns)) {
        let rows = bounds[0] as usize..bounds[1] as usize;
        let count = rows.len() as f32;
        for dx in dx[rows.start * columns..rows.end * columns].chunks_mut(columns) {
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy / count);
        }
    }
}
