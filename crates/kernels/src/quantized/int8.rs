//! Row-wise 8-bit integers, as LLM.int8() stores weights (Dettmers et al. 2022): `w ≈ q·m/127`
//! where m is the largest magnitude of the row. They are kept in the panels that the product of
//! integers reads (see `gemm/int8.rs`); the backward product dequantises the same numbers.

use crate::Isa;
use crate::gemm::Layout;
use crate::simd::{self, Kernel, Simd};
use std::ops::Range;

/// Codes in a unit: neighbours of a row that are multiplied and summed together.
pub(crate) const QUAD: usize = 4;

/// A weight [out, in] in 8 bits a number, for one instruction set.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8Matrix {
    /// As B = Wᵀ: panels of columns of B, which are rows here; a panel holds, quad after quad along
    /// K, those of all its columns side by side. Zeros fill up quads and vectors.
    codes: Vec<Line>,
    /// m/127 of each row; zeros fill up the last vector.
    scales: Vec<f32>,
    /// −128 times the sum of each row's codes, which undoes what an offset of the other factor adds.
    offsets: Vec<i32>,
    layout: Layout,
}

/// Codes of a cache line.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
struct Line([i8; 64]);

impl Int8Matrix {
    /// Most numbers of a row: sums of as many products fit 32 bits.
    pub const MOST_COLUMNS: usize = 1 << 17;

    /// Quantises a dense weight of `columns` numbers a row, rounding to nearest even.
    ///
    /// # Panics
    /// `weight` is not whole rows of `columns` numbers, or `columns` is more than
    /// [`MOST_COLUMNS`](Self::MOST_COLUMNS).
    pub fn quantize(isa: Isa, weight: &[f32], columns: usize) -> Self {
        assert!(columns > 0 && weight.len().is_multiple_of(columns), "not whole rows");
        assert!(columns <= Self::MOST_COLUMNS, "rows of {columns} numbers");
        let layout = Layout::of_quads(isa, columns, weight.len() / columns);
        let padded = layout.columns.next_multiple_of(layout.lanes);
        let mut matrix = Int8Matrix {
            codes: vec![Line([0; 64]); layout.size().div_ceil(64 / QUAD)],
            scales: vec![0.0; padded],
            offsets: vec![0; padded],
            layout,
        };
        for (row, numbers) in weight.chunks_exact(columns).enumerate() {
            let largest = numbers.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            let mut sum = 0;
            let (start, width) = matrix.place(row);
            for (quad, numbers) in numbers.chunks(QUAD).enumerate() {
                let at = (start + quad * width) * QUAD;
                for (x, place) in numbers.iter().zip(&mut matrix.codes[at / 64].0[at % 64..]) {
                    *place = (x * scale).round_ties_even() as i8;
                    sum += i32::from(*place);
                }
            }
            matrix.scales[row] = largest / 127.0;
            matrix.offsets[row] = sum.wrapping_mul(-128);
        }
        matrix
    }

    pub(super) fn rows(&self) -> usize {
        let Layout { columns: of_transposed, .. } = self.layout;
        of_transposed
    }

    pub(super) fn columns(&self) -> usize {
        let Layout { rows: of_transposed, .. } = self.layout;
        of_transposed
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.codes[..])
            + size_of_val(&self.scales[..])
            + size_of_val(&self.offsets[..])
    }

    /// Of Wᵀ.
    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// The quads of a panel.
    pub(crate) fn panel(&self, panel: usize) -> *const f32 {
        let start = self.layout.panel_start(0, panel);
        assert!(start < self.codes.len() * (64 / QUAD), "no panel {panel}");
        self.codes.as_ptr().cast::<f32>().wrapping_add(start)
    }

    pub(crate) fn scales(&self) -> &[f32] {
        &self.scales
    }

    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only x86-64 multiplies unsigned by signed bytes")
    )]
    pub(crate) fn offsets(&self) -> &[i32] {
        &self.offsets
    }

    /// Where a row's first quad is, and how far its quads are apart.
    fn place(&self, row: usize) -> (usize, usize) {
        let (panel, lane, width) = self.layout.place(row);
        (self.layout.panel_start(0, panel) + lane, width)
    }

    fn code(&self, row: usize, column: usize) -> i8 {
        let (start, width) = self.place(row);
        let at = (start + column / QUAD * width) * QUAD + column % QUAD;
        self.codes[at / 64].0[at % 64]
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

/// Quads of a row that are taken out of a panel at a time.
const QUADS: usize = 8;

impl Kernel for Dequantize<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Dequantize { matrix, rows, columns, out } = self;
        let mut row = rows.start;
        while row < rows.end {
            let (panel, lane, width) = matrix.layout.place(row);
            let out = &mut out[(row - rows.start) * columns.len()..];
            if lane + S::LANES > width {
                for (x, column) in out.iter_mut().zip(columns.clone()) {
                    *x = f32::from(matrix.code(row, column)) * matrix.scales[row];
                }
                row += 1;
                continue;
            }
            let count = (rows.end - row).min(S::LANES);
            let quads = matrix.panel(panel).wrapping_add(lane);
            let scales = &matrix.scales[row..];
            // SAFETY: LANES rows from this one on are in the panel; `simd::run` chose `S`.
            unsafe {
                let last = matrix.layout.rows.div_ceil(QUAD);
                for first in (columns.start / QUAD..columns.end.div_ceil(QUAD)).step_by(QUADS) {
                    let taken = take::<S>(quads.add(first * width), width, last - first);
                    let wanted = first * QUAD..(first + QUADS) * QUAD;
                    let wanted = wanted.start.max(columns.start)..wanted.end.min(columns.end);
                    for (i, codes) in taken.iter().enumerate().take(count) {
                        let start = i * columns.len() + wanted.start - columns.start;
                        let codes = &codes.0[wanted.start - first * QUAD..][..wanted.len()];
                        to_numbers::<S>(codes, scales[i], &mut out[start..][..wanted.len()]);
                    }
                }
            }
            row += count;
        }
    }
}

/// Most lanes of a vector.
const LANES: usize = 16;

/// Codes of [`QUADS`] quads of a row.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
struct Taken([i8; QUADS * QUAD]);

/// [`QUADS`] quads of each of LANES rows; zeros beyond `count`.
///
/// # Safety
/// LANES quads can be read at each of `count` or [`QUADS`] places, `width` units apart.
#[inline(always)]
unsafe fn take<S: Simd>(quads: *const f32, width: usize, count: usize) -> [Taken; LANES] {
    const { assert!(S::LANES <= LANES) };
    let mut taken = [Taken([0; QUADS * QUAD]); LANES];
    // SAFETY: passed on to the caller; the transposed vectors are LANES rows of `QUADS` units.
    unsafe {
        let mut vectors = [S::splat(0.0); QUADS];
        for (i, vector) in vectors.iter_mut().enumerate().take(count) {
            *vector = S::load(quads.add(i * width));
        }
        S::store_transposed(vectors, taken.as_mut_ptr().cast(), QUADS);
    }
    taken
}

#[inline(always)]
unsafe fn to_numbers<S: Simd>(codes: &[i8], scale: f32, out: &mut [f32]) {
    let whole = out.len() / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: LANES codes and numbers from `i` on lie in slices of equal length; the caller
        // vouches for `S`.
        unsafe {
            let x = S::from_i8(codes.as_ptr().add(i));
            S::store(out.as_mut_ptr().add(i), S::mul(x, S::splat(scale)));
        }
    }
    for (x, &code) in out.iter_mut().zip(codes).skip(whole) {
        *x = f32::from(code) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// Every range of rows and columns, taken out by every instruction set from the layout of every other.
    #[test]
    fn errors_are_at_most_half_a_step_of_the_row() {
        let (rows, columns) = (69, 75);
        let weight: Vec<f32> =
            (0..rows * columns).map(|i| ((i * 29) % 83) as f32 * 0.013 - 0.5).collect();
        for of in available() {
            let matrix = Int8Matrix::quantize(of, &weight, columns);
            for (isa, part) in available().flat_map(|isa| {
                [(0..69, 0..75), (1..69, 3..75), (47..50, 32..64), (16..60, 33..38)]
                    .map(|part| (isa, part))
            }) {
                let mut out = vec![f32::NAN; part.0.len() * part.1.len()];
                matrix.dequantize(isa, part.0.clone(), part.1.clone(), &mut out);
                for (row, out) in part.0.zip(out.chunks(part.1.len())) {
                    for (column, &x) in part.1.clone().zip(out) {
                        let original = weight[row * columns + column];
                        assert_eq!(x, f32::from(matrix.code(row, column)) * matrix.scales[row]);
                        let bound = matrix.scales[row] * 0.501;
                        assert!((x - original).abs() <= bound, "{of} {isa} {row} {column}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_of_zeros_stays_one() {
        for isa in available() {
            let matrix = Int8Matrix::quantize(isa, &[0.0; 10], 5);
            assert!((0..10).all(|i| matrix.code(i / 5, i % 5) == 0));
            assert_eq!(matrix.scales[..2], [0.0; 2]);
        }
    }

    #[test]
    fn a_byte_and_little_more_per_number() {
        for isa in available() {
            let matrix = Int8Matrix::quantize(isa, &vec![0.5; 768 * 768], 768);
            assert!(matrix.bytes() as f64 / (768.0 * 768.0) < 1.011, "{isa}");
        }
    }
}
