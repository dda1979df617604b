//! Packing: B into panels, a block of A's rows into a padded copy.

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

/// Copies rows `first..first + count` of A, columns `steps`, into `copy`; returns the distance of
/// neighbouring rows there, or [`TILED`](super::tile::TILED). Rows up to the next whole tile are zeroed.
pub(super) fn copy_rows(
    isa: Isa,
    a: Matrix<'_>,
    b: &PackedMatrix,
    first: usize,
    count: usize,
    steps: Range<usize>,
    copy: &mut Vec<f32>,
) -> usize {
    let units = b.units(&steps);
    let rows = count.next_multiple_of(super::tile::ROWS);
    let grow = |copy: &mut Vec<f32>, size: usize| {
        if copy.len() < size {
            copy.resize(size, 0.0);
        }
    };
    if a.column_stride != 1 && b.pair == 1 {
        // A is a transposed view: rows are neighbours in memory, so tiles of rows are copied.
        grow(copy, rows * units);
        for tile in (0..rows).step_by(super::tile::ROWS) {
            let valid = (count - tile).min(super::tile::ROWS);
            for (unit, step) in steps.clone().enumerate() {
                let out = &mut copy[tile * units + unit * super::tile::ROWS..][..super::tile::ROWS];
                let source = &a.data[step * a.column_stride + (first + tile) * a.row_stride..];
                for i in 0..super::tile::ROWS {
                    out[i] = if i < valid { source[i * a.row_stride] } else { 0.0 };
                }
                if b.precision == Precision::Bf16 {
                    for x in out {
                        *x = bf16::from_f32(*x).to_f32();
                    }
                }
            }
        }
        return super::tile::TILED;
    }
    let stride = units.next_multiple_of(LINE) + LINE;
    grow(copy, rows * stride);
    for i in 0..rows {
        let out = &mut copy[i * stride..][..units];
        if i >= count {
            out.fill(0.0);
            continue;
        }
        let start = (first + i) * a.row_stride + steps.start * a.column_stride;
        if a.column_stride == 1 {
            let source = &a.data[start..][..steps.len()];
            match (b.precision, b.pair) {
                (Precision::F32, _) => out.copy_from_slice(source),
                (Precision::Bf16, 1) => {
                    for (o, &x) in out.iter_mut().zip(source) {
                        *o = bf16::from_f32(x).to_f32();
                    }
                }
                (Precision::Bf16, _) => simd::run(isa, PairRow { source, out }),
            }
        } else {
            for (unit, o) in out.iter_mut().enumerate() {
                let low = a.data[start + 2 * unit * a.column_stride];
                let high = if 2 * unit + 1 < steps.len() {
                    a.data[start + (2 * unit + 1) * a.column_stride]
                } else {
                    0.0
                };
                *o = pair(low, high);
            }
        }
    }
    stride
}

/// Two bf16 in one f32-sized unit, the first in the low half.
fn pair(low: f32, high: f32) -> f32 {
    let (low, high) = (bf16::from_f32(low).to_bits(), bf16::from_f32(high).to_bits());
    f32::from_bits(u32::from(low) | u32::from(high) << 16)
}

/// Rounds a row to bf16 pairs: `out[i]` holds `source[2i]` and `source[2i + 1]`.
struct PairRow<'a> {
    source: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for PairRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let whole = self.source.len() / 32;
        #[cfg(target_arch = "x86_64")]
        for i in 0..whole {
            // SAFETY: 32 source numbers and 16 units lie inside the slices; pairs exist only where
            // the processor has AVX-512 bf16.
            unsafe {
                super::tile::round_32(
                    self.source.as_ptr().add(32 * i),
                    self.out.as_mut_ptr().add(16 * i),
                )
            };
        }
        for i in 16 * whole..self.out.len() {
            let high = self.source.get(2 * i + 1).copied().unwrap_or(0.0);
            self.out[i] = pair(self.source[2 * i], high);
        }
    }
}
