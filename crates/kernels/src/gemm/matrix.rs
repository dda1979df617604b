//! A matrix as it lies in memory.

/// A read-only matrix over a slice: element (i, j) is `data[i·row_stride + j·column_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A dense row-major matrix.
    ///
    /// # Panics
    /// `data` holds fewer than `rows × columns` numbers.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// A row-major matrix whose rows start `row_stride` numbers apart.
    ///
    /// # Panics
    /// The last row reaches beyond `data`, or rows overlap.
    pub fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(row_stride >= columns, "rows of {columns} overlap at stride {row_stride}");
        let needed = if rows == 0 { 0 } else { (rows - 1) * row_stride + columns };
        assert!(data.len() >= needed, "matrix needs {needed} numbers, got {}", data.len());
        Matrix { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// Row `i` of a matrix whose rows are contiguous.
    pub(crate) fn row(&self, i: usize) -> &'a [f32] {
        debug_assert_eq!(self.column_stride, 1);
        &self.data[i * self.row_stride..][..self.columns]
    }

    /// The transposed view of the same numbers.
    pub fn transposed(self) -> Self {
        Matrix {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}
