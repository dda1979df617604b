//! A's copy in tiles: of each strip, step after step along K, the upper tile and the lower one.

use super::{HALF, ROWS, UNITS};
use crate::Lines;
use crate::gemm::Matrix;
use crate::gemm::bf16::{neighbours, pairs};
use crate::gemm::layout::Layout;
use crate::simd::{Avx512, Simd};
use std::arch::x86_64::*;
use std::ops::Range;

/// As [`copy_rows`](crate::gemm::copy::copy_rows), into pairs of tiles; rows up to a multiple of [`ROWS`] hold
/// anything.
///
/// # Safety
/// The processor has AVX-512 bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
pub(in crate::gemm) unsafe fn copy_rows(
    a: Matrix<'_>,
    layout: Layout,
    first: usize,
    count: usize,
    steps: Range<usize>,
    copy: &mut Lines,
) {
    let units = layout.units(&steps);
    let copy = copy.take(count.next_multiple_of(ROWS) * units);
    for (index, tile) in copy.chunks_exact_mut(HALF * UNITS).enumerate() {
        let (pair, half) = (index / 2, index % 2);
        let along_k = units / UNITS;
        let (block, step) = (pair / along_k, steps.start + pair % along_k * 2 * UNITS);
        let from = block * ROWS + half * HALF;
        let valid = count.saturating_sub(from).min(HALF);
        let (from, numbers) = (first + from, (steps.end - step).min(2 * UNITS));
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            if a.column_stride == 1 {
                copy_tile(a, from, valid, step..step + numbers, tile);
            } else if valid > 0 {
                // Rows are neighbours in memory.
                assert_eq!(a.row_stride, 1, "one stride of a matrix is 1");
                copy_columns(a, from, valid, step..step + numbers, tile);
            }
        }
    }
}

/// One tile of `valid` dense rows.
///
/// # Safety
/// The processor has AVX-512 bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn copy_tile(
    a: Matrix<'_>,
    first: usize,
    valid: usize,
    steps: Range<usize>,
    tile: &mut [f32],
) {
    for (i, units) in tile.chunks_exact_mut(UNITS).enumerate().take(valid) {
        let row = &a.data[(first + i) * a.row_stride + steps.start..][..steps.len()];
        // SAFETY: as many numbers as there are steps are read, UNITS written; the caller vouches for the
        // instruction set.
        unsafe {
            // What this row's next tile but one is made from.
            Avx512::prefetch(row.as_ptr().wrapping_add(4 * UNITS));
            Avx512::prefetch(row.as_ptr().wrapping_add(5 * UNITS));
            Avx512::store(units.as_mut_ptr(), neighbours(row.as_ptr(), steps.len()));
        }
    }
}

/// One tile of `valid` rows that are neighbours in memory.
///
/// # Safety
/// The processor has AVX-512 bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn copy_columns(
    a: Matrix<'_>,
    first: usize,
    valid: usize,
    steps: Range<usize>,
    tile: &mut [f32],
) {
    assert!(tile.len() == HALF * UNITS && valid <= HALF);
    let column = |step: usize| match step < steps.end {
        true => a.data[step * a.column_stride + first..][..valid].as_ptr(),
        false => std::ptr::null(),
    };
    for half in [0, UNITS / 2] {
        // SAFETY: `column` checks `valid` numbers; eight units of each of the tile's rows are written;
        // the caller vouches for the instruction set.
        unsafe {
            let mut vectors = [_mm512_setzero_ps(); 8];
            for (unit, vector) in vectors.iter_mut().enumerate() {
                let step = steps.start + 2 * (half + unit);
                if step < steps.end {
                    *vector = pairs(column(step), column(step + 1), valid);
                }
            }
            Avx512::store_transposed(vectors, tile.as_mut_ptr().add(half), UNITS);
        }
    }
}
