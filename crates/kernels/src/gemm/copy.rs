//! A block of A's rows in tiles.

use super::Matrix;
#[cfg(target_arch = "x86_64")]
use super::amx;
use super::bf16::round;
#[cfg(target_arch = "x86_64")]
use super::bf16::{eight_pairs, neighbours};
use super::layout::{Layout, ROWS};
use crate::simd::{self, Kernel, Simd};
use crate::{Isa, Lines, Precision};
use std::ops::Range;

/// Copies rows `first..first + count` of A, columns `steps`, into `copy` as tiles of [`ROWS`] rows,
/// unit by unit; rows up to the next whole tile are zeroed. Matrix tiles have a copy of their own kind.
pub(super) fn copy_rows(
    isa: Isa,
    a: Matrix<'_>,
    layout: Layout,
    first: usize,
    count: usize,
    steps: Range<usize>,
    copy: &mut Lines,
) {
    #[cfg(target_arch = "x86_64")]
    if layout.has_tiles() {
        // SAFETY: only a processor that has AVX-512 bf16 has matrix tiles.
        return unsafe { amx::copy_rows(a, layout, first, count, steps, copy) };
    }
    let units = layout.units(&steps);
    let copy = copy.take(count.next_multiple_of(ROWS) * units);
    for (index, tile) in copy.chunks_exact_mut(ROWS * units).enumerate() {
        let first = first + index * ROWS;
        let valid = (a.rows - first).min(count - index * ROWS).min(ROWS);
        if a.column_stride == 1 {
            let rows: [&[f32]; ROWS] = std::array::from_fn(|i| {
                let start = (first + i.min(valid - 1)) * a.row_stride + steps.start;
                &a.data[start..][..steps.len()]
            });
            copy_tile(isa, layout, rows, ROWS * a.row_stride, tile);
            if valid < ROWS {
                tile.chunks_exact_mut(ROWS).for_each(|unit| unit[valid..].fill(0.0));
            }
        } else {
            // Rows are neighbours in memory.
            assert_eq!(a.row_stride, 1, "one stride of a matrix is 1");
            let columns = &a.data[first + steps.start * a.column_stride..];
            copy_columns(layout, columns, a.column_stride, valid, steps.len(), tile);
        }
        if layout.precision == Precision::Bf16 && layout.pair == 1 {
            tile.iter_mut().for_each(round);
        }
    }
}

/// One tile whose steps are `steps` columns, `stride` apart, of `valid` rows.
fn copy_columns(
    layout: Layout,
    columns: &[f32],
    stride: usize,
    valid: usize,
    steps: usize,
    tile: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if layout.pair == 2 {
        // SAFETY: pairs are packed only for a processor that has AVX-512 bf16.
        return unsafe { copy_column_pairs(columns, stride, valid, steps, tile) };
    }
    debug_assert_eq!((layout.pair, tile.len()), (1, steps * ROWS));
    for (unit, column) in tile.chunks_exact_mut(ROWS).zip(columns.chunks(stride)) {
        unit[..valid].copy_from_slice(&column[..valid]);
        unit[valid..].fill(0.0);
    }
}

/// As [`copy_columns`], rounded to bf16 and paired.
///
/// # Safety
/// The processor has AVX-512 bf16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn copy_column_pairs(
    columns: &[f32],
    stride: usize,
    valid: usize,
    steps: usize,
    tile: &mut [f32],
) {
    assert!(columns.len() >= (steps - 1) * stride + valid && valid <= ROWS);
    assert_eq!(tile.len(), steps.div_ceil(2) * ROWS);
    for (index, unit) in tile.chunks_exact_mut(ROWS).enumerate() {
        let low = columns.as_ptr().wrapping_add(2 * index * stride);
        let odd = 2 * index + 1 == steps;
        let high = if odd { std::ptr::null() } else { low.wrapping_add(stride) };
        // SAFETY: `valid` numbers of each column lie inside the slice; the caller vouches for the
        // instruction set.
        unsafe { eight_pairs(low, high, valid, unit.as_mut_ptr()) };
    }
}

/// One tile of dense rows.
fn copy_tile(isa: Isa, layout: Layout, rows: [&[f32]; ROWS], next: usize, tile: &mut [f32]) {
    let steps = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == steps));
    assert_eq!(tile.len(), layout.units(&(0..steps)) * ROWS);
    #[cfg(target_arch = "x86_64")]
    if layout.pair == 2 {
        // SAFETY: pairs are packed only for a processor that has AVX-512 bf16.
        unsafe { copy_pairs(rows, next, tile) };
        return;
    }
    debug_assert_eq!(layout.pair, 1);
    simd::run(isa, CopyTile { rows, next, tile });
}

struct CopyTile<'a> {
    rows: [&'a [f32]; ROWS],
    next: usize,
    tile: &'a mut [f32],
}

impl Kernel for CopyTile<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let CopyTile { rows, next, tile } = self;
        let steps = rows[0].len();
        let whole = steps / S::LANES * S::LANES;
        for step in (0..whole).step_by(S::LANES) {
            // SAFETY: LANES numbers of each row and LANES groups of the tile lie inside the
            // slices; `simd::run` chose `S`.
            unsafe {
                let mut vectors = [S::splat(0.0); ROWS];
                for (vector, row) in vectors.iter_mut().zip(rows) {
                    S::prefetch(row.as_ptr().wrapping_add(step + next));
                    *vector = S::load(row.as_ptr().add(step));
                }
                S::store_transposed(vectors, tile.as_mut_ptr().add(step * ROWS), ROWS);
            }
        }
        for (step, unit) in tile.chunks_exact_mut(ROWS).enumerate().skip(whole) {
            for (x, row) in unit.iter_mut().zip(rows) {
                *x = row[step];
            }
        }
    }
}

/// One tile of dense rows, rounded to bf16 and paired.
///
/// # Safety
/// The processor has AVX-512 bf16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn copy_pairs(rows: [&[f32]; ROWS], next: usize, tile: &mut [f32]) {
    use crate::simd::Avx512;
    use std::arch::x86_64::*;
    const STEPS: usize = 32;
    let steps = rows[0].len();
    for step in (0..steps).step_by(STEPS) {
        let count = (steps - step).min(STEPS);
        let units = count.div_ceil(2);
        // SAFETY: `count` numbers of each row and its groups of the tile lie inside the slices, or
        // all 16 groups in the spare tile; the caller vouches for the instruction set.
        unsafe {
            let mut vectors = [_mm512_setzero_ps(); ROWS];
            for (vector, row) in vectors.iter_mut().zip(rows) {
                let row = row.as_ptr().add(step);
                Avx512::prefetch(row.wrapping_add(next));
                Avx512::prefetch(row.wrapping_add(next + 16));
                *vector = neighbours(row, count);
            }
            let tile = tile.as_mut_ptr().add(step / 2 * ROWS);
            if count == STEPS {
                Avx512::store_transposed(vectors, tile, ROWS);
            } else {
                let mut spare = [0.0; STEPS / 2 * ROWS];
                Avx512::store_transposed(vectors, spare.as_mut_ptr(), ROWS);
                std::ptr::copy_nonoverlapping(spare.as_ptr(), tile, units * ROWS);
            }
        }
    }
}
