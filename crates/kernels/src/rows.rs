//! Walking rows in parallel, and sums over them in a fixed order.

use crate::Isa;
use crate::simd::{self, Kernel, Simd};
use crate::threads;

/// Numbers below which an operation stays on the calling thread.
pub(crate) const SMALL: usize = 1 << 15;

/// Calls `f(row, numbers)` for every row of `data`, in parallel where that pays.
pub(crate) fn for_each_row(
    data: &mut [f32],
    columns: usize,
    f: impl Fn(usize, &mut [f32]) + Sync + Send,
) {
    assert!(columns > 0 && data.len().is_multiple_of(columns), "not whole rows of {columns}");
    if data.len() < SMALL || threads::count() == 1 {
        for (row, numbers) in data.chunks_mut(columns).enumerate() {
            f(row, numbers);
        }
    } else {
        let at_a_time = (SMALL / 4 / columns).max(1);
        threads::for_each(data.chunks_mut(columns * at_a_time).enumerate(), |(block, rows)| {
            for (row, numbers) in rows.chunks_mut(columns).enumerate() {
                f(block * at_a_time + row, numbers);
            }
        });
    }
}

/// `sums[j] += Σᵢ x[i, j]`, rows in ascending order: a bias's gradient.
///
/// # Panics
/// `x` is not whole rows of `sums.len()`.
pub fn sum_rows(isa: Isa, x: &[f32], sums: &mut [f32]) {
    let columns = sums.len();
    assert!(columns > 0 && x.len().is_multiple_of(columns), "not whole rows of {columns}");
    // Threads take columns, never rows: the order of each sum stays fixed.
    const STRIP: usize = 64;
    let strip = |(index, sums): (usize, &mut [f32])| {
        simd::run(isa, SumRows { x, columns, first: index * STRIP, sums });
    };
    if x.len() < SMALL {
        sums.chunks_mut(STRIP).enumerate().for_each(strip);
    } else {
        threads::for_each(sums.chunks_mut(STRIP).enumerate(), strip);
    }
}

struct SumRows<'a> {
    x: &'a [f32],
    columns: usize,
    first: usize,
    sums: &'a mut [f32],
}

impl Kernel for SumRows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for row in self.x.chunks_exact(self.columns) {
            for (sum, x) in self.sums.iter_mut().zip(&row[self.first..]) {
                *sum += x;
            }
        }
    }
}
