//! Rows out of a table and, backward, into it.

use crate::rows::for_each_row;
use crate::threads;

/// `y[i] = table[indices[i]]`, or `y[i] += …` when `accumulate`.
///
/// `table` is [R, `columns`], `y` [indices, `columns`].
///
/// # Panics
/// An index is not below R, or lengths do not fit.
pub fn gather_rows(
    table: &[f32],
    indices: &[u32],
    y: &mut [f32],
    columns: usize,
    accumulate: bool,
) {
    assert_eq!(y.len(), indices.len() * columns);
    let rows = table.len() / columns;
    for_each_row(y, columns, |i, y| {
        let index = indices[i] as usize;
        assert!(index < rows, "row {index} of a table of {rows}");
        let source = &table[index * columns..][..columns];
        if accumulate {
            for (y, x) in y.iter_mut().zip(source) {
                *y += x;
            }
        } else {
            y.copy_from_slice(source);
        }
    });
}

/// `y[indices[i]] = values[i]`.
///
/// # Panics
/// An index is not below y's rows, or lengths do not fit.
pub fn set_rows(y: &mut [f32], indices: &[u32], values: &[f32], columns: usize) {
    assert_eq!(values.len(), indices.len() * columns);
    for (&index, values) in indices.iter().zip(values.chunks_exact(columns)) {
        y[index as usize * columns..][..columns].copy_from_slice(values);
    }
}

/// `table[indices[i]] += y[i]`, i ascending for each element.
///
/// # Panics
/// An index is not below the table's rows, or lengths do not fit.
pub fn scatter_add_rows(table: &mut [f32], indices: &[u32], y: &[f32], columns: usize) {
    assert_eq!(y.len(), indices.len() * columns);
    let rows = table.len() / columns;
    if let Some(index) = indices.iter().find(|&&index| index as usize >= rows) {
        panic!("row {index} of a table of {rows}");
    }
    // Threads own ranges of the table's rows, so that each sum keeps one order.
    let at_a_time = rows.div_ceil(64).max(1);
    threads::for_each(table.chunks_mut(at_a_time * columns).enumerate(), |(part, table)| {
        let first = part * at_a_time;
        for (i, &index) in indices.iter().enumerate() {
            let index = index as usize;
            if (first..first + at_a_time).contains(&index) {
                let target = &mut table[(index - first) * columns..][..columns];
                for (t, x) in target.iter_mut().zip(&y[i * columns..][..columns]) {
                    *t += x;
                }
            }
        }
    });
}
