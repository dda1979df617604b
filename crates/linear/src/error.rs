//! What can be wrong with rows, settings and model files, each with the value at fault.

use std::path::PathBuf;

/// The result of anything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be fitted, scored, saved or loaded. Rows count from 0.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum Error {
    #[error("there are no {what}")]
    Nothing { what: &'static str },

    #[error("{texts} texts with {labels} rows of labels")]
    Rows { texts: usize, labels: usize },

    #[error("row {row} has {found} labels where the first has {expected}")]
    Ragged { row: usize, found: usize, expected: usize },

    #[error("row {row} is of class {class}; there are {count}, counted from 0")]
    Class { row: usize, class: usize, count: usize },

    #[error("class {class} of {count} has no training row")]
    NoRowOfClass { class: usize, count: usize },

    #[error("the validation rows have {found}, the training rows {expected}")]
    Task { found: String, expected: String },

    #[error("{name} is {value}; it must be {limit}")]
    Setting { name: &'static str, value: String, limit: &'static str },

    #[error("no n-gram of the {documents} training texts occurs in {min_df} of them (min_df)")]
    NoTerms { documents: usize, min_df: usize },

    #[error("the different n-grams have more than {limit} tokens in all; raise min_df")]
    TooManyTerms { limit: u32 },

    #[error("rows have {found} features where the classifier has {expected}")]
    Features { found: usize, expected: usize },

    #[error("the score of C = {c}, {loss}, max_features = {max_features:?} is {score}")]
    Score { c: f64, loss: &'static str, max_features: Option<usize>, score: f64 },

    #[error("the search was stopped")]
    Stopped,

    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("{} has {size} bytes; a model may have {limit}", path.display())]
    TooLarge { path: PathBuf, size: u64, limit: u64 },

    #[error("{} is not a linear model: {reason}", path.display())]
    File { path: PathBuf, reason: String },

    #[error("the model cannot be written as safetensors: {reason}")]
    Encode { reason: String },

    #[error(transparent)]
    Write(#[from] durable::Error),
}
