//! Frozen weights in 4 or 8 bits a number. A product dequantises them a panel at a time; but `x·Wᵀ`
//! with 8-bit integers is computed in integers.

mod dynamic;
mod int8;
mod nf4;

pub use int8::Int8Matrix;
pub(crate) use int8::QUAD;
pub use nf4::{NF4_CODE, Nf4Absmax, Nf4Matrix, StoredType};

use crate::Isa;
use std::ops::Range;

/// A weight [out, in] in few bits.
#[derive(Clone, Debug, PartialEq)]
pub enum QuantizedMatrix {
    /// 4-bit NormalFloat.
    Nf4(Nf4Matrix),
    /// 8-bit integers with a scale per row.
    Int8(Int8Matrix),
}

impl QuantizedMatrix {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            QuantizedMatrix::Nf4(matrix) => matrix.rows(),
            QuantizedMatrix::Int8(matrix) => matrix.rows(),
        }
    }

    /// Numbers per row.
    pub fn columns(&self) -> usize {
        match self {
            QuantizedMatrix::Nf4(matrix) => matrix.columns(),
            QuantizedMatrix::Int8(matrix) => matrix.columns(),
        }
    }

    /// Bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        match self {
            QuantizedMatrix::Nf4(matrix) => matrix.bytes(),
            QuantizedMatrix::Int8(matrix) => matrix.bytes(),
        }
    }

    /// All numbers, row-major.
    pub fn to_dense(&self) -> Vec<f32> {
        let mut data = vec![0.0; self.rows() * self.columns()];
        self.dequantize(Isa::Scalar, 0..self.rows(), 0..self.columns(), &mut data);
        data
    }

    /// Writes some columns of some rows to `out`, row after row.
    ///
    /// # Panics
    /// They are not in the matrix, or `out` has another length.
    pub fn dequantize(&self, isa: Isa, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        assert!(rows.end <= self.rows() && columns.end <= self.columns(), "not in the matrix");
        assert_eq!(rows.len() * columns.len(), out.len(), "numbers and room for them differ");
        if columns.is_empty() {
            return;
        }
        match self {
            QuantizedMatrix::Nf4(matrix) => matrix.dequantize(isa, rows, columns, out),
            QuantizedMatrix::Int8(matrix) => matrix.dequantize(isa, rows, columns, out),
        }
    }
}
