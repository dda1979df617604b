//! Sums and scalings of whole buffers.

use crate::Isa;
use crate::rows::for_each_row;
use crate::simd::{self, Kernel, Simd};
use crate::threads;

/// Σ x², summed in f64 over fixed chunks in ascending order.
pub fn sum_of_squares(isa: Isa, x: &[f32]) -> f64 {
    const CHUNK: usize = 4096;
    let mut sums = vec![0.0; x.len().div_ceil(CHUNK)];
    threads::for_each(sums.iter_mut().zip(x.chunks(CHUNK)), |(sum, x)| {
        *sum = f64::from(simd::run(isa, SumOfSquares { x }));
    });
    sums.iter().sum()
}

struct SumOfSquares<'a> {
    x: &'a [f32],
}

impl Kernel for SumOfSquares<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        // SAFETY: whole vectors and the rest lie inside the slice.
        unsafe {
            let mut sum = S::splat(0.0);
            let mut i = 0;
            while i < self.x.len() {
                let n = (self.x.len() - i).min(S::LANES);
                let v = S::load_first(self.x.as_ptr().add(i), n);
                sum = S::fma(v, v, sum);
                i += n;
            }
            S::sum(sum)
        }
    }
}

/// `y += x`.
///
/// # Panics
/// Lengths differ.
pub fn add(y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len());
    const CHUNK: usize = 8192;
    threads::for_each(y.chunks_mut(CHUNK).zip(x.chunks(CHUNK)), |(y, x)| {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
    });
}

/// `y[i] += bias` for every row.
///
/// # Panics
/// `y` is not whole rows of `bias.len()`.
pub fn add_bias(y: &mut [f32], bias: &[f32]) {
    for_each_row(y, bias.len(), |_, y| {
        for (y, b) in y.iter_mut().zip(bias) {
            *y += b;
        }
    });
}

/// `y ← by·y`.
pub fn scale(y: &mut [f32], by: f32) {
    threads::for_each(y.chunks_mut(4096), |y| y.iter_mut().for_each(|y| *y *= by));
}
