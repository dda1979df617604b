//! Sparse rows: of each row the columns that are not zero, ascending, and their values.

use crate::{Error, Result};

/// A matrix `[rows, features]` of which each row holds few values.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseRows {
    features: usize,
    /// Row `i` is `ends[i - 1]..ends[i]` of the next two.
    ends: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f64>,
}

impl SparseRows {
    /// Takes rows of `(column, value)`.
    ///
    /// # Errors
    /// A column that is not below `features` or not above the one before it, a value that is not
    /// finite.
    pub fn new(features: usize, rows: &[Vec<(u32, f64)>]) -> Result<Self> {
        for row in rows {
            let ascending = row.windows(2).all(|pair| pair[0].0 < pair[1].0);
            let last = row.last().map_or(0, |&(column, _)| column as usize + 1);
            if !ascending || last > features {
                let value = format!("{:?}", row.iter().map(|entry| entry.0).collect::<Vec<_>>());
                let limit = "ascending and below the number of features";
                return Err(Error::Setting { name: "columns", value, limit });
            }
            if let Some((_, value)) = row.iter().find(|(_, value)| !value.is_finite()) {
                let value = value.to_string();
                return Err(Error::Setting { name: "a feature", value, limit: "finite" });
            }
        }
        Ok(Self::collect(features, rows))
    }

    /// As [`SparseRows::new`], of rows that keep its rules.
    pub(crate) fn collect(features: usize, rows: &[Vec<(u32, f64)>]) -> Self {
        let ends = rows.iter().scan(0, |end, row| {
            *end += row.len();
            Some(*end)
        });
        let (columns, values) = rows.iter().flatten().copied().unzip();
        Self { features, ends: ends.collect(), columns, values }
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many columns a row has.
    #[must_use]
    pub fn features(&self) -> usize {
        self.features
    }

    /// The columns of row `index` that are not zero, ascending, and their values.
    ///
    /// # Panics
    /// If there is no such row.
    #[must_use]
    pub fn row(&self, index: usize) -> (&[u32], &[f64]) {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        let range = start..self.ends[index];
        (&self.columns[range.clone()], &self.values[range])
    }
}
