//! The right-hand matrix of a product: packed, or quantised and unpacked panel by panel.

use super::Matrix;
use super::layout::Layout;
use super::pack::{PackPanel, PackedMatrix};
use crate::quantized::{Int8Matrix, QuantizedMatrix};
use crate::{Isa, Lines, Precision};
use std::ops::Range;

/// B [K, N] of a product.
#[derive(Clone, Copy, Debug)]
pub enum Right<'a> {
    /// In panels already.
    Packed(&'a PackedMatrix),
    /// A quantised W [out, in], as Wᵀ for `x·Wᵀ` or as it is for `dy·W`; its numbers are rounded to
    /// this precision. `x·Wᵀ` with 8-bit integers rounds x to such integers instead, row by row, but
    /// for its outliers (LLM.int8()).
    Quantized {
        /// W.
        weight: &'a QuantizedMatrix,
        /// Whether B is Wᵀ.
        transposed: bool,
        /// Of the product's inputs.
        precision: Precision,
    },
}

impl<'a> From<&'a PackedMatrix> for Right<'a> {
    fn from(packed: &'a PackedMatrix) -> Self {
        Right::Packed(packed)
    }
}

/// Steps of K that are dequantised at a time: with a panel's columns they stay in the L1 cache.
const STRIP: usize = 128;

impl<'a> Right<'a> {
    /// The weight whose product is computed in integers, and the precision of what is added to it.
    pub(super) fn integers(&self) -> Option<(&'a Int8Matrix, Precision)> {
        match *self {
            Right::Quantized {
                weight: QuantizedMatrix::Int8(weight),
                transposed: true,
                precision,
            } => Some((weight, precision)),
            _ => None,
        }
    }

    pub(super) fn layout(&self, isa: Isa) -> Layout {
        match self {
            Right::Packed(packed) => packed.layout,
            Right::Quantized { weight, transposed, precision } => {
                let (out, input) = (weight.rows(), weight.columns());
                let (rows, columns) = if *transposed { (input, out) } else { (out, input) };
                Layout::new(isa, *precision, rows, columns)
            }
        }
    }

    /// The units of one panel of one block, in `scratch` if they have to be unpacked.
    pub(super) fn panel(
        &self,
        isa: Isa,
        (block, steps): (usize, &Range<usize>),
        panel: usize,
        scratch: &mut Unpacked,
    ) -> *const f32 {
        let (weight, transposed) = match self {
            Right::Packed(packed) => return packed.panel(block, panel),
            Right::Quantized { weight, transposed, .. } => (weight, *transposed),
        };
        let layout = self.layout(isa);
        let columns = layout.panel(panel);
        let width = columns.vectors * layout.lanes;
        let Unpacked { strip, units } = scratch;
        strip.resize(STRIP * width, 0.0);
        let taken = units.take(layout.block_units() * width);
        for first in steps.clone().step_by(STRIP) {
            let rows = first..(first + STRIP).min(steps.end);
            let (count, part) = (rows.len(), columns.first..columns.first + columns.count);
            let strip = &mut strip[..count * columns.count];
            let b = if transposed {
                weight.dequantize(isa, part, rows.clone(), strip);
                Matrix::new(strip, columns.count, count).transposed()
            } else {
                weight.dequantize(isa, rows.clone(), part, strip);
                Matrix::new(strip, count, columns.count)
            };
            let start = (first - steps.start) / layout.pair * width;
            let out = &mut taken[start..][..layout.units(&rows) * width];
            PackPanel { b, steps: 0..count, column: 0, columns: columns.count, width, out }
                .pack(isa, layout);
        }
        units.at(0)
    }
}

/// Memory of a thread for a panel that is unpacked.
#[derive(Default)]
pub(super) struct Unpacked {
    strip: Vec<f32>,
    units: Lines,
}
