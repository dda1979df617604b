//! The `[data]` part of the configuration: where rows come from and how labels are read.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What a label means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Two classes; index 1 is the positive one that precision, recall and F1 speak of.
    #[default]
    Binary,
    /// Two or more classes, one per row.
    Multiclass,
    /// Any number of labels per row, each on its own.
    #[serde(rename = "multi_label")]
    MultiLabel,
}

/// Data: source, columns, labels, splits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Hub dataset (`lex_glue/unfair_tos`) or local folder; not used when `train_file` is set.
    pub dataset: Option<String>,
    /// Training rows: a .csv, .jsonl, .ndjson or .parquet file.
    pub train_file: Option<PathBuf>,
    /// Validation rows; without it they are split off the training rows.
    pub validation_file: Option<PathBuf>,
    /// Test rows; without it they are split off the training rows.
    pub test_file: Option<PathBuf>,
    /// Column that holds the text.
    pub text_column: String,
    /// Column that holds the label; by default `label`, else `labels`.
    pub label_column: Option<String>,
    /// With `multi_label`, instead of one column of labels: a column per label that holds 0 or 1.
    pub label_columns: Option<Vec<String>>,
    /// What stands between labels, with `multi_label`, where their column holds text, as in CSV.
    pub label_separator: String,
    /// `binary` (a list-typed label column counts as positive where the list is not empty),
    /// `multiclass` or `multi_label`.
    pub task: Task,
    /// Class or label names by index, the positive one last for `binary`; by default taken from the
    /// data: sorted, integers by value.
    pub label_names: Option<Vec<String>>,
    /// Share of the training rows that becomes validation where there is no validation file.
    pub validation_fraction: f64,
    /// Share of the training rows that becomes test where there is no test file.
    pub test_fraction: f64,
    /// Longest sequence in tokens, special tokens included; longer texts are cut.
    pub max_length: usize,
    /// Train on this many rows only, balanced over the classes, to try things out.
    pub debug_mode_sample: Option<usize>,
}

/// Why one label is refused under `multi_label`.
pub(crate) const TOO_FEW_LABELS: &str =
    "needs at least two labels; whether a row has one label is a binary task";

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            dataset: Some("lex_glue/unfair_tos".into()),
            train_file: None,
            validation_file: None,
            test_file: None,
            text_column: "text".into(),
            label_column: None,
            label_columns: None,
            label_separator: ";".into(),
            task: Task::Binary,
            label_names: None,
            validation_fraction: 0.1,
            test_fraction: 0.1,
            max_length: 128,
            debug_mode_sample: None,
        }
    }
}

impl DataConfig {
    /// Checks what can be checked without the files.
    ///
    /// # Errors
    /// [`Error::Config`] with the key, its value and what is wrong with it.
    pub fn check(&self) -> Result<()> {
        let refuse = |key, value: String, problem: &str| {
            Err(Error::Config { key, value, problem: problem.into() })
        };
        if self.label_column.as_ref() == Some(&self.text_column) {
            return refuse("label_column", self.text_column.clone(), "is also the text column");
        }
        let fractions = [
            ("validation_fraction", self.validation_fraction),
            ("test_fraction", self.test_fraction),
        ];
        for (key, value) in fractions {
            if !(0.0..1.0).contains(&value) {
                return refuse(key, value.to_string(), "must be at least 0 and below 1");
            }
        }
        if self.validation_fraction + self.test_fraction >= 1.0 {
            let value = self.test_fraction.to_string();
            return refuse("test_fraction", value, "leaves no training rows beside validation");
        }
        if let Some(names) = &self.label_names {
            let value = format!("{names:?}");
            let distinct: BTreeSet<_> = names.iter().collect();
            if distinct.len() != names.len() {
                return refuse("label_names", value, "names a class twice");
            }
            if names.len() < 2 || (self.task == Task::Binary && names.len() > 2) {
                let problem = match self.task {
                    Task::Binary => "a binary task has exactly two classes",
                    Task::Multiclass => "needs at least two classes",
                    Task::MultiLabel => TOO_FEW_LABELS,
                };
                return refuse("label_names", value, problem);
            }
        }
        self.check_label_columns()?;
        if self.debug_mode_sample.is_some_and(|rows| rows < 2) {
            return refuse("debug_mode_sample", "below 2".into(), "needs a row of each class");
        }
        Ok(())
    }
    fn check_label_columns(&self) -> Result<()> {
        let refuse = |key, value: String, problem: &str| {
            Err(Error::Config { key, value, problem: problem.into() })
        };
        if self.label_separator.trim().is_empty() {
            return refuse("label_separator", format!("{:?}", self.label_separator), "is no sign");
        }
        let Some(columns) = &self.label_columns else { return Ok(()) };
        let value = format!("{columns:?}");
        let distinct: BTreeSet<_> = columns.iter().collect();
        let problem = if self.task != Task::MultiLabel {
            "needs task = \"multi_label\""
        } else if self.label_column.is_some() {
            "stands beside label_column; give one of them"
        } else if self.label_names.is_some() {
            "names the labels, as label_names does; give one of them"
        } else if columns.contains(&self.text_column) {
            "holds the text column"
        } else if distinct.len() != columns.len() {
            "names a column twice"
        } else if columns.len() < 2 {
            TOO_FEW_LABELS
        } else {
            return Ok(());
        };
        refuse("label_columns", value, problem)
    }
}
