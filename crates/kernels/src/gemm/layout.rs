//! Where the elements of B lie in panels.

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
    /// What units along K are a multiple of: those that do not exist are 0.
    pub(super) multiple: usize,
    pub(super) precision: Precision,
}

/// Columns of one panel: the first, how many exist, and how many vectors they take.
#[derive(Clone, Copy, Debug)]
pub(super) struct PanelColumns {
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) vectors: usize,
}

/// Vectors per full panel, of products in vector registers and on matrix tiles.
const VECTORS: usize = 3;
pub(super) const TILE_VECTORS: usize = 2;

/// Rows of A per tile in registers.
pub(super) const ROWS: usize = 8;
/// Rows of A whose sums two matrix tiles hold for each vector of columns.
pub(super) const TILE_ROWS: usize = 32;
/// Units that a matrix tile has along K.
pub(super) const TILE_UNITS: usize = 16;

/// Most units along K in any block, but for matrix tiles.
pub(super) const KC: usize = 768;

/// Most units along K per block. A panel of 48 columns then takes 72 KiB with AVX-512, one of 24 as much
/// with AVX2; it comes from the L2 cache. From L1 it would come no faster, and at the end of a block sums go
/// through C: with 192 units and AVX2 that took 4 % of the time.
fn block_units(lanes: usize) -> usize {
    if lanes == 8 { KC } else { KC / 2 }
}

/// As [`block_units`], for matrix tiles, whose products cut blocks into parts (see `amx.rs`).
const TILE_BLOCK_UNITS: usize = 1536;
/// Most numbers in a row block's copy for matrix tiles: 256 rows of a block, 1.5 of the 2 MiB of the L2 cache.
pub(super) const TILE_COPY: usize = 256 * TILE_BLOCK_UNITS;

impl Layout {
    pub(super) fn new(isa: Isa, precision: Precision, rows: usize, columns: usize) -> Self {
        let lanes = isa.lanes();
        let pair = if precision == Precision::Bf16 && isa.has_bf16() { 2 } else { 1 };
        let multiple = if pair == 2 && isa.has_tiles() { TILE_UNITS } else { 1 };
        Layout { rows, columns, lanes, pair, multiple, precision }
    }

    /// The layout of 8-bit integers, four to a unit.
    pub(crate) fn of_quads(isa: Isa, rows: usize, columns: usize) -> Self {
        let lanes = isa.lanes();
        let multiple = if isa.has_tiles() { TILE_UNITS } else { 1 };
        Layout { rows, columns, lanes, pair: QUAD, multiple, precision: Precision::F32 }
    }

    /// Vectors per full panel.
    fn vectors(&self) -> usize {
        if self.has_tiles() { TILE_VECTORS } else { VECTORS }
    }

    /// Units of the whole matrix.
    pub(crate) fn size(&self) -> usize {
        self.units(&(0..self.rows)) * self.padded_columns()
    }

    fn padded_columns(&self) -> usize {
        self.columns.next_multiple_of(self.lanes)
    }

    pub(crate) fn panels(&self) -> usize {
        self.columns.div_ceil(self.vectors() * self.lanes)
    }

    /// Units along K per block; all of them for integers, whose sums stay integers to the end.
    pub(super) fn block_units(&self) -> usize {
        match self.pair {
            QUAD => self.rows.div_ceil(QUAD),
            _ if self.has_tiles() => TILE_BLOCK_UNITS,
            _ => block_units(self.lanes),
        }
    }

    /// Whether panels are of as many columns.
    pub(super) fn has_panels_of(&self, other: &Layout) -> bool {
        self.vectors() == other.vectors()
    }

    /// The panels that hold these columns.
    pub(crate) fn panels_of(&self, columns: &Range<usize>) -> Range<usize> {
        let width = self.vectors() * self.lanes;
        columns.start / width..columns.end.div_ceil(width)
    }

    /// The blocks of K: index and rows.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let (rows, step) = (self.rows, self.block_units() * self.pair);
        (0..rows.div_ceil(step)).map(move |i| (i, i * step..((i + 1) * step).min(rows)))
    }

    /// Units along K in these rows.
    pub(super) fn units(&self, steps: &Range<usize>) -> usize {
        steps.len().div_ceil(self.pair).next_multiple_of(self.multiple)
    }

    pub(super) fn panel(&self, panel: usize) -> PanelColumns {
        let first = panel * self.vectors() * self.lanes;
        let vectors = (self.columns - first).div_ceil(self.lanes).min(self.vectors());
        PanelColumns { first, count: (vectors * self.lanes).min(self.columns - first), vectors }
    }

    /// Where a panel starts: whole blocks before it, then the panels before it in its block.
    pub(crate) fn panel_start(&self, block: usize, panel: usize) -> usize {
        let step = self.block_units() * self.pair;
        let units = self.units(&(0..(self.rows - block * step).min(step)));
        let columns = panel * self.vectors() * self.lanes;
        block * self.block_units() * self.padded_columns() + units * columns
    }

    /// Whether its products run on matrix tiles.
    pub(super) fn has_tiles(&self) -> bool {
        self.multiple > 1
    }

    /// Rows of A that are computed together.
    pub(super) fn tile_rows(&self) -> usize {
        if self.has_tiles() { TILE_ROWS } else { ROWS }
    }

    /// Where a column is: the panel, the place in it, and the units of all the panel's columns.
    pub(crate) fn place(&self, column: usize) -> (usize, usize, usize) {
        let panel = column / (self.vectors() * self.lanes);
        let PanelColumns { first, vectors, .. } = self.panel(panel);
        (panel, column - first, vectors * self.lanes)
    }
}
