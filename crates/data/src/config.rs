//! The `[data]` part of the configuration: where rows come from and how labels are read.

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
    /// `binary` (a list-typed label column counts as positive where the list is not empty) or
    /// `multiclass`.
    pub task: Task,
    /// Class names by index, the positive one last for `binary`; by default taken from the data:
    /// sorted, integers by value.
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

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            dataset: Some("lex_glue/unfair_tos".into()),
            train_file: None,
            validation_file: None,
            test_file: None,
            text_column: "text".into(),
            label_column: None,
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
            let distinct: std::collections::BTreeSet<_> = names.iter().collect();
            if distinct.len() != names.len() {
                return refuse("label_names", value, "names a class twice");
            }
            if names.len() < 2 || (self.task == Task::Binary && names.len() > 2) {
                let problem = match self.task {
                    Task::Binary => "a binary task has exactly two classes",
                    Task::Multiclass => "needs at least two classes",
                };
                return refuse("label_names", value, problem);
            }
        }
        if self.debug_mode_sample.is_some_and(|rows| rows < 2) {
            return refuse("debug_mode_sample", "below 2".into(), "needs a row of each class");
        }
        Ok(())
    }
}
