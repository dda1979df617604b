//! B in panels.

#[cfg(target_arch = "x86_64")]
use super::bf16::{neighbours, pairs};
use super::bf16::{pair, round};
use super::{KC, Matrix};
use crate::simd::{self, Kernel, Simd};
use crate::{Isa, Precision};
use std::ops::Range;

/// A [K, N] matrix in the panel layout of one instruction set.
#[derive(Clone, Debug, Default)]
pub struct PackedMatrix {
    data: Vec<f32>,
    /// Where `data` begins to be aligned to a cache line.
    offset: usize,
    rows: usize,
    columns: usize,
    lanes: usize,
    /// Rows per unit: 2 for native bf16 pairs, else 1.
    pair: usize,
    precision: Precision,
}

/// One panel of one block: `vectors · lanes` units per step.
pub(crate) struct Panel {
    pub(crate) data: *const f32,
    pub(crate) vectors: usize,
    pub(crate) paired: bool,
    /// First column and how many of the panel's columns exist.
    pub(crate) column: usize,
    pub(crate) columns: usize,
}

/// Vectors per full panel.
const VECTORS: usize = 3;
/// Units in a cache line.
const LINE: usize = 16;

impl PackedMatrix {
    /// Packs `b` [K, N].
    pub fn new(isa: Isa, precision: Precision, b: Matrix<'_>) -> Self {
        let mut packed = PackedMatrix::default();
        packed.pack(isa, precision, b);
        packed
    }

    /// Packs `b` [K, N] into the memory this one has.
    pub(crate) fn pack(&mut self, isa: Isa, precision: Precision, b: Matrix<'_>) {
        self.rows = b.rows;
        self.columns = b.columns;
        self.lanes = lanes(isa);
        self.precision = precision;
        self.pair = if precision == Precision::Bf16 && isa.has_bf16() { 2 } else { 1 };
        let padded_columns = b.columns.next_multiple_of(self.lanes);
        let units = b.rows.div_ceil(self.pair) * padded_columns;
        self.data.resize(units + LINE, 0.0);
        self.offset = self.data.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        for (block, steps) in self.blocks().collect::<Vec<_>>() {
            for panel in 0..self.panels() {
                self.pack_panel(isa, b, block, steps.clone(), panel);
            }
        }
    }

    /// Refuses a matrix that was packed for another instruction set.
    pub(super) fn check(&self, isa: Isa) {
        assert!(isa.is_available(), "this processor has no {isa}");
        let fits = self.lanes == lanes(isa) && (self.pair == 1 || isa.has_bf16());
        assert!(fits, "B was packed for another instruction set than {isa}");
    }

    fn pack_panel(
        &mut self,
        isa: Isa,
        b: Matrix<'_>,
        block: usize,
        steps: Range<usize>,
        panel: usize,
    ) {
        let start = self.offset + self.panel_start(block, panel);
        let width = self.panel_vectors(panel) * self.lanes;
        let column = panel * VECTORS * self.lanes;
        let columns = width.min(self.columns - column);
        let units = self.units(&steps);
        let out = &mut self.data[start..][..units * width];
        if columns < width {
            out.chunks_exact_mut(width).for_each(|unit| unit[columns..].fill(0.0));
        }
        let part = PackPanel { b, steps, column, columns, width, out };
        #[cfg(target_arch = "x86_64")]
        if self.pair == 2 {
            // SAFETY: pairs are packed only for a processor that has AVX-512 bf16.
            return unsafe { pack_pairs(part) };
        }
        simd::run(isa, part);
        if self.precision == Precision::Bf16 {
            self.data[start..][..units * width].iter_mut().for_each(round);
        }
    }

    /// K.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// N.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Rows per unit.
    pub(super) fn pair(&self) -> usize {
        self.pair
    }

    /// Precision it is packed in.
    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        self.data.len() * size_of::<f32>()
    }

    pub(crate) fn panels(&self) -> usize {
        self.columns.div_ceil(VECTORS * self.lanes)
    }

    /// The blocks of K: index and rows.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let (rows, step) = (self.rows, KC * self.pair);
        (0..rows.div_ceil(step)).map(move |i| (i, i * step..((i + 1) * step).min(rows)))
    }

    /// Units along K in these rows.
    pub(crate) fn units(&self, steps: &Range<usize>) -> usize {
        steps.len().div_ceil(self.pair)
    }

    pub(crate) fn panel(&self, block: usize, panel: usize) -> Panel {
        let column = panel * VECTORS * self.lanes;
        let vectors = self.panel_vectors(panel);
        Panel {
            data: self.data[self.offset + self.panel_start(block, panel)..].as_ptr(),
            vectors,
            paired: self.pair == 2,
            column,
            columns: (vectors * self.lanes).min(self.columns - column),
        }
    }

    fn panel_vectors(&self, panel: usize) -> usize {
        (self.columns - panel * VECTORS * self.lanes).div_ceil(self.lanes).min(VECTORS)
    }

    /// Where a panel starts: whole blocks before it, then the panels before it in its block.
    fn panel_start(&self, block: usize, panel: usize) -> usize {
        let padded_columns = self.columns.next_multiple_of(self.lanes);
        let first = block * KC * self.pair;
        let units = (self.rows - first).min(KC * self.pair).div_ceil(self.pair);
        block * KC * padded_columns + units * panel * VECTORS * self.lanes
    }
}

fn lanes(isa: Isa) -> usize {
    match isa {
        Isa::Scalar => 4,
        Isa::Avx2 => 8,
        Isa::Avx512 | Isa::Avx512Bf16 => 16,
    }
}

/// Some rows and columns of B on their way into a panel `width` wide.
struct PackPanel<'a> {
    b: Matrix<'a>,
    steps: Range<usize>,
    column: usize,
    columns: usize,
    width: usize,
    out: &'a mut [f32],
}

impl PackPanel<'_> {
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
    // Units whose two rows exist, of those packed sixteen at a time.
    let mut whole = 0;
    let mut packed = 0;
    if part.b.column_stride == 1 {
        (whole, packed) = (steps / 2, part.columns / 16 * 16);
        for unit in 0..whole {
            let step = part.steps.start + 2 * unit;
            let rows = [part.source(step, 0, packed), part.source(step + 1, 0, packed)];
            for column in (0..packed).step_by(16) {
                // SAFETY: `source` checked both rows; the panel's row is `width` long; the caller
                // vouches for the instruction set.
                unsafe {
                    let x = pairs(rows[0].add(column), rows[1].add(column));
                    _mm512_storeu_ps(part.out.as_mut_ptr().add(unit * width + column), x);
                }
            }
        }
    } else if part.b.row_stride == 1 {
        (whole, packed) = (steps / 32 * 16, part.eights());
        for column in (0..packed).step_by(8) {
            for unit in (0..whole).step_by(16) {
                // SAFETY: `source` checks 32 numbers of each column; the panel has 16 rows from
                // `unit` on and 8 columns from `column` on; the caller vouches for the rest.
                unsafe {
                    let mut vectors = [_mm512_setzero_ps(); 8];
                    for (i, vector) in vectors.iter_mut().enumerate() {
                        let source = part.source(part.steps.start + 2 * unit, column + i, 32);
                        *vector = neighbours(source);
                    }
                    let out = part.out.as_mut_ptr().add(unit * width + column);
                    Avx512::store_transposed(vectors, out, width);
                }
            }
        }
    }
    for unit in 0..steps.div_ceil(2) {
        let first = if unit < whole { packed } else { 0 };
        for column in first..part.columns {
            let step = part.steps.start + 2 * unit;
            part.out[unit * width + column] =
                pair(part.at(step, column), part.at(step + 1, column));
        }
    }
}
