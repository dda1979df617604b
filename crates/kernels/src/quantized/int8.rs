//! Row-wise 8-bit integers, as LLM.int8() stores weights (Dettmers et al. 2022): `w ≈ q·m/127`
//! where m is the largest magnitude of the row.

use crate::Isa;
use crate::simd::{self, Kernel, Simd};
use std::ops::Range;

/// A weight [out, in] in 8 bits a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8Matrix {
    codes: Vec<i8>,
    /// The largest magnitude of each row.
    absmax: Vec<f32>,
    columns: usize,
}

impl Int8Matrix {
    /// Quantises a dense weight, rounding to nearest even.
    ///
    /// # Panics
    /// `weight` is not whole rows of `columns` numbers.
    pub fn quantize(weight: &[f32], columns: usize) -> Self {
        assert!(columns > 0 && weight.len().is_multiple_of(columns), "not whole rows");
        let mut absmax = Vec::with_capacity(weight.len() / columns);
        let mut codes = Vec::with_capacity(weight.len());
        for row in weight.chunks_exact(columns) {
            let largest = row.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            absmax.push(largest);
            codes.extend(row.iter().map(|x| (x * scale).round_ties_even() as i8));
        }
        Int8Matrix { codes, absmax, columns }
    }

    pub(super) fn rows(&self) -> usize {
        self.absmax.len()
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn bytes(&self) -> usize {
        self.codes.len() + size_of::<f32>() * self.absmax.len()
    }

    pub(super) fn dequantize(
        &self,
        isa: Isa,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [f32],
    ) {
        simd::run(isa, Dequantize { matrix: self, rows, columns, out });
    }
}

struct Dequantize<'a> {
    matrix: &'a Int8Matrix,
    rows: Range<usize>,
    columns: Range<usize>,
    out: &'a mut [f32],
}

impl Kernel for Dequantize<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Int8Matrix { codes, absmax, columns } = self.matrix;
        for (row, out) in self.rows.zip(self.out.chunks_exact_mut(self.columns.len())) {
            let codes = &codes[row * columns..][self.columns.clone()];
            let scale = absmax[row] / 127.0;
            let whole = out.len() / S::LANES * S::LANES;
            for i in (0..whole).step_by(S::LANES) {
                // SAFETY: LANES codes and numbers from `i` on lie in slices of equal length;
                // `simd::run` chose `S`.
                unsafe {
                    let x = S::from_i8(codes.as_ptr().add(i));
                    S::store(out.as_mut_ptr().add(i), S::mul(x, S::splat(scale)));
                }
            }
            for (x, &code) in out.iter_mut().zip(codes).skip(whole) {
                *x = f32::from(code) * scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_at_most_half_a_step_of_the_row() {
        let columns = 37;
        let weight: Vec<f32> =
            (0..5 * columns).map(|i| ((i * 29) % 83) as f32 * 0.013 - 0.5).collect();
        let matrix = Int8Matrix::quantize(&weight, columns);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for (row, numbers) in weight.chunks(columns).enumerate() {
                let mut out = vec![0.0; columns - 3];
                matrix.dequantize(isa, row..row + 1, 3..columns, &mut out);
                for (x, y) in numbers[3..].iter().zip(out) {
                    assert!((x - y).abs() <= matrix.absmax[row] / 253.0, "{isa} {x} {y}");
                }
            }
        }
        assert_eq!(Int8Matrix::quantize(&[0.0; 4], 2).codes, [0; 4]);
    }
}
