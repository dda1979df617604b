//! Where the elements of B lie in panels.

use super::KC;
use crate::quantized::QUAD;
use crate::{Isa, Precision};
use std::ops::Range;

/// The panel layout of a [K, N] matrix for one instruction set and precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// K.
    pub(crate) rows: usize,
    /// N.
    pub(crate) columns: usize,
    /// Numbers per vector.
    pub(crate) lanes: usize,
    /// Rows per unit: 4 for 8-bit integers, 2 for native bf16 pairs, else 1.
    pub(super) pair: usize,
    pub(super) precision: Precision,
}

/// Columns of one panel: the first, how many exist, and how many vectors they take.
#[derive(Clone, Copy, Debug)]
pub(super) struct PanelColumns {
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) vectors: usize,
}

/// Vectors per full panel.
const VECTORS: usize = 3;

/// Most units along K per block. With AVX-512 a panel of 48 columns then takes 72 KiB and stays in the L2
/// cache, which is large on such processors; with AVX2 one of 24 takes 18 KiB and stays in L1.
fn block_units(lanes: usize) -> usize {
    if lanes == 8 { KC / 2 } else { KC }
}

impl Layout {
    pub(super) fn new(isa: Isa, precision: Precision, rows: usize, columns: usize) -> Self {
        let lanes = isa.lanes();
        let pair = if precision == Precision::Bf16 && isa.has_bf16() { 2 } else { 1 };
        Layout { rows, columns, lanes, pair, precision }
    }

    /// The layout of 8-bit integers, four to a unit.
    pub(crate) fn of_quads(isa: Isa, rows: usize, columns: usize) -> Self {
        Layout { rows, columns, lanes: isa.lanes(), pair: QUAD, precision: Precision::F32 }
    }

    /// Units of the whole matrix.
    pub(crate) fn size(&self) -> usize {
        self.rows.div_ceil(self.pair) * self.padded_columns()
    }

    fn padded_columns(&self) -> usize {
        self.columns.next_multiple_of(self.lanes)
    }

    pub(crate) fn panels(&self) -> usize {
        self.columns.div_ceil(VECTORS * self.lanes)
    }

    /// Units along K per block; all of them for integers, whose sums stay integers to the end.
    fn block_units(&self) -> usize {
        if self.pair == QUAD { self.rows.div_ceil(QUAD) } else { block_units(self.lanes) }
    }

    /// The panels that hold these columns.
    pub(crate) fn panels_of(&self, columns: &Range<usize>) -> Range<usize> {
        let width = VECTORS * self.lanes;
        columns.start / width..columns.end.div_ceil(width)
    }

    /// The blocks of K: index and rows.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let (rows, step) = (self.rows, self.block_units() * self.pair);
        (0..rows.div_ceil(step)).map(move |i| (i, i * step..((i + 1) * step).min(rows)))
    }

    /// Units along K in these rows.
    pub(super) fn units(&self, steps: &Range<usize>) -> usize {
        steps.len().div_ceil(self.pair)
    }

    pub(super) fn panel(&self, panel: usize) -> PanelColumns {
        let first = panel * VECTORS * self.lanes;
        let vectors = (self.columns - first).div_ceil(self.lanes).min(VECTORS);
        PanelColumns { first, count: (vectors * self.lanes).min(self.columns - first), vectors }
    }

    /// Where a panel starts: whole blocks before it, then the panels before it in its block.
    pub(crate) fn panel_start(&self, block: usize, panel: usize) -> usize {
        let step = self.block_units() * self.pair;
        let units = (self.rows - block * step).min(step).div_ceil(self.pair);
        block * self.block_units() * self.padded_columns() + units * panel * VECTORS * self.lanes
    }

    /// Where a column is: the panel, the place in it, and the units of all the panel's columns.
    pub(crate) fn place(&self, column: usize) -> (usize, usize, usize) {
        let panel = column / (VECTORS * self.lanes);
        let PanelColumns { first, vectors, .. } = self.panel(panel);
        (panel, column - first, vectors * self.lanes)
    }
}
