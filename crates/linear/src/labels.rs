//! What rows are labelled with: any number of labels each, or one class each.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Labels of rows, as given to a fit or predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Labels {
    /// Indicator rows, all of one length: `rows[i][k]` says whether row `i` has label `k`.
    MultiLabel(Vec<Vec<bool>>),
    /// One of `count` classes per row; of two, class 1 is the positive one.
    Classes {
        /// How many classes there are.
        count: usize,
        /// The class of each row.
        rows: Vec<usize>,
    },
}

/// What a row is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// For each of so many labels whether it has it.
    MultiLabel(usize),
    /// Which of so many classes it is of.
    Classes(usize),
}

impl Task {
    /// Decision values per row: one per label or class, but one in all for two classes.
    #[must_use]
    pub fn outputs(self) -> usize {
        match self {
            Self::MultiLabel(count) => count,
            Self::Classes(2) => 1,
            Self::Classes(count) => count,
        }
    }

    /// What decision values `[rows, outputs]` say: a label or the second class where the value is
    /// positive, the class with the greatest value, the first of equals.
    pub(crate) fn decide(self, decisions: &[f64]) -> Labels {
        let rows = decisions.chunks_exact(self.outputs());
        match self {
            Self::MultiLabel(_) => {
                Labels::MultiLabel(rows.map(|row| row.iter().map(|&v| v > 0.0).collect()).collect())
            }
            Self::Classes(2) => {
                let rows = decisions.iter().map(|&value| usize::from(value > 0.0)).collect();
                Labels::Classes { count: 2, rows }
            }
            Self::Classes(count) => Labels::Classes { count, rows: rows.map(greatest).collect() },
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MultiLabel(count) => write!(f, "{count} labels"),
            Self::Classes(count) => write!(f, "{count} classes"),
        }
    }
}

fn greatest(row: &[f64]) -> usize {
    let mut best = 0;
    for (class, &value) in row.iter().enumerate() {
        if value > row[best] {
            best = class;
        }
    }
    best
}

impl Labels {
    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::MultiLabel(rows) => rows.len(),
            Self::Classes { rows, .. } => rows.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The task these are labels of.
    ///
    /// # Errors
    /// No rows, no labels or fewer than two classes, rows of different lengths, a class out of range.
    pub fn task(&self) -> Result<Task> {
        match self {
            Self::MultiLabel(rows) => {
                let expected = rows.first().ok_or(Error::Nothing { what: "rows" })?.len();
                if expected == 0 {
                    return Err(Error::Nothing { what: "labels" });
                }
                match rows.iter().position(|row| row.len() != expected) {
                    Some(row) => Err(Error::Ragged { row, found: rows[row].len(), expected }),
                    None => Ok(Task::MultiLabel(expected)),
                }
            }
            &Self::Classes { count, ref rows } => {
                if rows.is_empty() {
                    return Err(Error::Nothing { what: "rows" });
                }
                if count < 2 {
                    let value = count.to_string();
                    return Err(Error::Setting {
                        name: "the number of classes",
                        value,
                        limit: "2 or more",
                    });
                }
                match rows.iter().position(|&class| class >= count) {
                    Some(row) => Err(Error::Class { row, class: rows[row], count }),
                    None => Ok(Task::Classes(count)),
                }
            }
        }
    }

    /// Refuses labels of another number of rows than there are texts.
    pub(crate) fn check_count(&self, texts: usize) -> Result<()> {
        let labels = self.len();
        if texts == labels { Ok(()) } else { Err(Error::Rows { texts, labels }) }
    }

    /// Which rows are the positive ones of decision value `output`.
    pub(crate) fn positive(&self, output: usize) -> Vec<bool> {
        match self {
            Self::MultiLabel(rows) => rows.iter().map(|row| row[output]).collect(),
            &Self::Classes { count, ref rows } => {
                let class = if count == 2 { 1 } else { output };
                rows.iter().map(|&of| of == class).collect()
            }
        }
    }
}

/// The share of rows whose labels are all as they should be: scikit-learn's `accuracy_score`, by
/// which LexGLUE's grid search chooses. 0 where the rows differ in number or kind.
#[must_use]
pub fn exact_match(truth: &Labels, predicted: &Labels) -> f64 {
    let equal = match (truth, predicted) {
        (Labels::MultiLabel(truth), Labels::MultiLabel(predicted)) => equal(truth, predicted),
        (Labels::Classes { rows: truth, .. }, Labels::Classes { rows: predicted, .. }) => {
            equal(truth, predicted)
        }
        _ => return 0.0,
    };
    if truth.len() == predicted.len() { equal as f64 / truth.len().max(1) as f64 } else { 0.0 }
}

fn equal<T: PartialEq>(truth: &[T], predicted: &[T]) -> usize {
    truth.iter().zip(predicted).filter(|(a, b)| a == b).count()
}
