//! Packing: B into panels, a block of A's rows into tiles.

use super::tile::ROWS;
use super::{KC, Matrix};
use crate::simd::{self, Kernel, Simd};
use crate::{Isa, Precision};
use half::bf16;
use std::ops::Range;

/// A [K, N] matrix in the panel layout of one instruction set.
#[derive(Clone, Debug, Default)]
pub struct PackedMatrix {
    data: Vec<u32>,
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
        self.data.clear();
        self.data.resize(units + LINE, 0);
        self.offset = self.data.as_ptr().align_offset(LINE * size_of::<u32>()).min(LINE);
        for (block, steps) in self.blocks().collect::<Vec<_>>() {
            for panel in 0..self.panels() {
                self.pack_panel(b, block, steps.clone(), panel);
            }
        }
    }

    /// Refuses a matrix that was packed for another instruction set.
    pub(super) fn check(&self, isa: Isa) {
        assert!(isa.is_available(), "this processor has no {isa}");
        let fits = self.lanes == lanes(isa) && (self.pair == 1 || isa.has_bf16());
        assert!(fits, "B was packed for another instruction set than {isa}");
    }

    fn pack_panel(&mut self, b: Matrix<'_>, block: usize, steps: Range<usize>, panel: usize) {
        let start = self.offset + self.panel_start(block, panel);
        let width = self.panel_vectors(panel) * self.lanes;
        let column = panel * VECTORS * self.lanes;
        let columns = width.min(self.columns - column);
        let at = |row: usize, j: usize| b.data[row * b.row_stride + (column + j) * b.column_stride];
        let target = &mut self.data[start..];
        for (unit, row) in steps.clone().step_by(self.pair).enumerate() {
            let out = &mut target[unit * width..][..columns];
            match (self.precision, self.pair) {
                (Precision::F32, _) if b.column_stride == 1 => {
                    let source = &b.data[row * b.row_stride + column..][..columns];
                    for (o, x) in out.iter_mut().zip(source) {
                        *o = x.to_bits();
                    }
                }
                (Precision::F32, _) => {
                    for (j, o) in out.iter_mut().enumerate() {
                        *o = at(row, j).to_bits();
                    }
                }
                (Precision::Bf16, 1) => {
                    for (j, o) in out.iter_mut().enumerate() {
                        *o = bf16::from_f32(at(row, j)).to_f32().to_bits();
                    }
                }
                (Precision::Bf16, _) => {
                    for (j, o) in out.iter_mut().enumerate() {
                        let low = bf16::from_f32(at(row, j)).to_bits();
                        let high = if row + 1 < steps.end { at(row + 1, j) } else { 0.0 };
                        *o = u32::from(low) | u32::from(bf16::from_f32(high).to_bits()) << 16;
                    }
                }
            }
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

    /// Bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        self.data.len() * size_of::<u32>()
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
            data: self.data[self.offset + self.panel_start(block, panel)..].as_ptr().cast(),
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

/// Copies rows `first..first + count` of A, columns `steps`, into `copy` as tiles of [`ROWS`] rows,
/// unit by unit; rows up to the next whole tile are zeroed.
pub(super) fn copy_rows(
    isa: Isa,
    a: Matrix<'_>,
    b: &PackedMatrix,
    first: usize,
    count: usize,
    steps: Range<usize>,
    copy: &mut Vec<f32>,
) {
    let units = b.units(&steps);
    let size = count.next_multiple_of(ROWS) * units;
    if copy.len() < size {
        copy.resize(size, 0.0);
    }
    for (index, tile) in copy[..size].chunks_exact_mut(ROWS * units).enumerate() {
        let first = first + index * ROWS;
        let valid = (a.rows - first).min(count - index * ROWS).min(ROWS);
        if a.column_stride == 1 {
            let rows: [&[f32]; ROWS] = std::array::from_fn(|i| {
                let start = (first + i.min(valid - 1)) * a.row_stride + steps.start;
                &a.data[start..][..steps.len()]
            });
            copy_tile(isa, b, rows, ROWS * a.row_stride, tile);
            if valid < ROWS {
                tile.chunks_exact_mut(ROWS).for_each(|unit| unit[valid..].fill(0.0));
            }
        } else {
            let at = |i: usize, step: usize| {
                if i < valid && step < steps.end {
                    a.data[(first + i) * a.row_stride + step * a.column_stride]
                } else {
                    0.0
                }
            };
            for (unit, step) in tile.chunks_exact_mut(ROWS).zip(steps.clone().step_by(b.pair)) {
                if valid == ROWS && a.row_stride == 1 && b.pair == 1 {
                    let start = first + step * a.column_stride;
                    unit.copy_from_slice(&a.data[start..][..ROWS]);
                } else {
                    for (i, x) in unit.iter_mut().enumerate() {
                        *x = if b.pair == 2 {
                            pair(at(i, step), at(i, step + 1))
                        } else {
                            at(i, step)
                        };
                    }
                }
            }
        }
        if b.precision == Precision::Bf16 && b.pair == 1 {
            for x in tile {
                *x = bf16::from_f32(*x).to_f32();
            }
        }
    }
}

/// One tile of dense rows.
fn copy_tile(isa: Isa, b: &PackedMatrix, rows: [&[f32]; ROWS], next: usize, tile: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if b.pair == 2 {
        // SAFETY: pairs are packed only for a processor that has AVX-512 bf16.
        unsafe { copy_pairs(rows, next, tile) };
        return;
    }
    debug_assert_eq!(b.pair, 1);
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
                S::store_transposed(vectors, tile.as_mut_ptr().add(step * ROWS));
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
    let whole = steps / STEPS * STEPS;
    for step in (0..whole).step_by(STEPS) {
        // SAFETY: 32 numbers of each row and 16 groups of the tile lie inside the slices; the
        // caller vouches for the instruction set.
        unsafe {
            let mut vectors = [_mm512_setzero_ps(); ROWS];
            for (vector, row) in vectors.iter_mut().zip(rows) {
                let row = row.as_ptr().add(step);
                Avx512::prefetch(row.wrapping_add(next));
                Avx512::prefetch(row.wrapping_add(next + 16));
                let (low, high) = (_mm512_loadu_ps(row), _mm512_loadu_ps(row.add(16)));
                *vector = std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low));
            }
            Avx512::store_transposed(vectors, tile.as_mut_ptr().add(step / 2 * ROWS));
        }
    }
    for (index, unit) in tile.chunks_exact_mut(ROWS).enumerate().skip(whole / 2) {
        for (x, row) in unit.iter_mut().zip(rows) {
            *x = pair(row[2 * index], row.get(2 * index + 1).copied().unwrap_or(0.0));
        }
    }
}

/// Two bf16 in one f32-sized unit, the first in the low half.
fn pair(low: f32, high: f32) -> f32 {
    let (low, high) = (bf16::from_f32(low).to_bits(), bf16::from_f32(high).to_bits());
    f32::from_bits(u32::from(low) | u32::from(high) << 16)
}
