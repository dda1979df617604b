//! B in panels.

use super::Matrix;
use super::bf16::round;
#[cfg(target_arch = "x86_64")]
use super::bf16::{neighbours, pairs};
use super::layout::Layout;
use crate::simd::{self, Kernel, Simd};
use crate::{Isa, Lines, Precision};
use std::ops::Range;

/// A [K, N] matrix in the panel layout of one instruction set.
#[derive(Debug, Default)]
pub struct PackedMatrix {
    pub(super) layout: Layout,
    data: Lines,
}

impl PackedMatrix {
    /// Packs `b` [K, N].
    pub fn new(isa: Isa, precision: Precision, b: Matrix<'_>) -> Self {
        let mut packed = PackedMatrix::default();
        packed.pack(isa, precision, b);
        packed
    }

    /// Packs `b` [K, N] into the memory this one has.
    pub fn pack(&mut self, isa: Isa, precision: Precision, b: Matrix<'_>) {
        let layout = Layout::new(isa, precision, b.rows, b.columns);
        self.layout = layout;
        let data = self.data.take(layout.size());
        for (block, steps) in layout.blocks() {
            for panel in 0..layout.panels() {
                let columns = layout.panel(panel);
                let width = columns.vectors * layout.lanes;
                let start = layout.panel_start(block, panel);
                let out = &mut data[start..][..layout.units(&steps) * width];
                let (column, columns) = (columns.first, columns.count);
                let part = PackPanel { b, steps: steps.clone(), column, columns, width, out };
                part.pack(isa, layout);
            }
        }
    }

    /// K.
    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    /// N.
    pub fn columns(&self) -> usize {
        self.layout.columns
    }

    /// Bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }

    pub(crate) fn panels(&self) -> usize {
        self.layout.panels()
    }

    /// The panels that hold these columns.
    pub(crate) fn panels_of(&self, columns: &Range<usize>) -> Range<usize> {
        self.layout.panels_of(columns)
    }

    /// The units of one panel of one block.
    pub(super) fn panel(&self, block: usize, panel: usize) -> *const f32 {
        self.data.at(self.layout.panel_start(block, panel))
    }
}

/// Some rows and columns of B on their way into units of a panel `width` wide.
pub(super) struct PackPanel<'a> {
    pub(super) b: Matrix<'a>,
    pub(super) steps: Range<usize>,
    pub(super) column: usize,
    pub(super) columns: usize,
    pub(super) width: usize,
    pub(super) out: &'a mut [f32],
}

impl PackPanel<'_> {
    /// Fills `out`, columns and steps that do not exist with 0.
    pub(super) fn pack(self, isa: Isa, layout: Layout) {
        let (columns, width) = (self.columns, self.width);
        assert!(columns <= width && self.out.len() == layout.units(&self.steps) * width);
        if columns < width {
            self.out.chunks_exact_mut(width).for_each(|unit| unit[columns..].fill(0.0));
        }
        let exist = self.steps.len().div_ceil(layout.pair) * width;
        self.out[exist..].fill(0.0);
        #[cfg(target_arch = "x86_64")]
        if layout.pair == 2 {
            // SAFETY: pairs are packed only for a processor that has AVX-512 bf16.
            return unsafe { pack_pairs(self) };
        }
        let PackPanel { b, steps, column, out, .. } = self;
        simd::run(isa, PackPanel { b, steps, column, columns, width, out: &mut *out });
        if layout.precision == Precision::Bf16 {
            out.iter_mut().for_each(round);
        }
    }

    fn at(&self, step: usize, column: usize) -> f32 {
        if step < self.steps.end {
            self.b.data[step * self.b.row_stride + (self.column + column) * self.b.column_stride]
        } else {
            0.0
        }
    }

    /// Numbers from here on, checked for as many as are read.
    fn source(&self, step: usize, column: usize, count: usize) -> *const f32 {
        let b = &self.b;
        let start = step * b.row_stride + (self.column + column) * b.column_stride;
        b.data[start..][..count].as_ptr()
    }

    /// Columns that are packed by eight, where they are contiguous along K.
    fn eights(&self) -> usize {
        if self.b.row_stride == 1 { self.columns / 8 * 8 } else { 0 }
    }
}

impl Kernel for PackPanel<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (steps, width) = (self.steps.len(), self.width);
        let whole = steps / S::LANES * S::LANES;
        if self.b.column_stride == 1 {
            for index in 0..steps {
                let source = self.source(self.steps.start + index, 0, self.columns);
                for column in (0..self.columns).step_by(S::LANES) {
                    let count = (self.columns - column).min(S::LANES);
                    // SAFETY: `source` was checked for all columns; a row of the panel is `width`
                    // long; `simd::run` chose `S`.
                    unsafe {
                        let x = S::load_first(source.add(column), count);
                        S::store_first(self.out.as_mut_ptr().add(index * width + column), count, x);
                    }
                }
            }
            return;
        }
        let eights = self.eights();
        for column in (0..eights).step_by(8) {
            for index in (0..whole).step_by(S::LANES) {
                // SAFETY: `source` checks LANES numbers of each column; the panel has LANES rows
                // from `index` on and 8 columns from `column` on; `simd::run` chose `S`.
                unsafe {
                    let mut vectors = [S::splat(0.0); 8];
                    for (i, vector) in vectors.iter_mut().enumerate() {
                        let step = self.steps.start + index;
                        *vector = S::load(self.source(step, column + i, S::LANES));
                    }
                    let out = self.out.as_mut_ptr().add(index * width + column);
                    S::store_transposed(vectors, out, width);
                }
            }
        }
        for index in 0..steps {
            let first = if index < whole { eights } else { 0 };
            for column in first..self.columns {
                let x = self.at(self.steps.start + index, column);
                self.out[index * width + column] = x;
            }
        }
    }
}

/// As [`PackPanel`]'s run, into pairs of bf16.
///
/// # Safety
/// The processor has AVX-512 bf16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn pack_pairs(part: PackPanel<'_>) {
    use crate::simd::Avx512;
    use std::arch::x86_64::*;
    let (steps, width) = (part.steps.len(), part.width);
    assert!(width.is_multiple_of(16));
    if part.b.column_stride == 1 {
        for unit in 0..steps.div_ceil(2) {
            let step = part.steps.start + 2 * unit;
            let low = part.source(step, 0, part.columns);
            let odd = step + 1 == part.steps.end;
            let high = if odd { std::ptr::null() } else { part.source(step + 1, 0, part.columns) };
            for column in (0..part.columns).step_by(16) {
                let count = (part.columns - column).min(16);
                // SAFETY: `source` checked both rows; the panel's row is `width` long, a multiple
                // of 16; the caller vouches for the instruction set.
                unsafe {
                    let high = if odd { high } else { high.add(column) };
                    let x = pairs(low.add(column), high, count);
                    _mm512_storeu_ps(part.out.as_mut_ptr().add(unit * width + column), x);
                }
            }
        }
        return;
    }
    // Columns are contiguous along K: 16 units of eight columns at a time.
    assert_eq!(part.b.row_stride, 1, "one stride of a matrix is 1");
    for column in (0..part.columns).step_by(8) {
        let columns = (part.columns - column).min(8);
        for unit in (0..steps.div_ceil(2)).step_by(16) {
            let count = (steps - 2 * unit).min(32);
            // SAFETY: `source` checks `count` numbers of each column; the panel has their units,
            // `width` apart, and eight columns from `column` on, or all lies in the spare part; the
            // caller vouches for the rest.
            unsafe {
                let mut vectors = [_mm512_setzero_ps(); 8];
                for (i, vector) in vectors.iter_mut().enumerate().take(columns) {
                    let step = part.steps.start + 2 * unit;
                    *vector = neighbours(part.source(step, column + i, count), count);
                }
                let out = part.out.as_mut_ptr().add(unit * width + column);
                if count == 32 {
                    Avx512::store_transposed(vectors, out, width);
                } else {
                    let mut spare = [0.0f32; 16 * 8];
                    Avx512::store_transposed(vectors, spare.as_mut_ptr(), 8);
                    for (i, group) in spare.chunks_exact(8).enumerate().take(count.div_ceil(2)) {
                        std::ptr::copy_nonoverlapping(group.as_ptr(), out.add(i * width), 8);
                    }
                }
            }
        }
    }
}
