//! What can be wrong with the data, each with the file, the row and the value at fault.

use std::path::PathBuf;

/// The result of anything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why data could not be used. Rows count from 1 and leave a CSV header out; a JSONL row is its
/// line.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum Error {
    #[error("cannot read {}", path.display())]
    Io { path: PathBuf, source: std::io::Error },

    #[error(
        "{}: cannot tell the format from {}; use .csv, .tsv, .jsonl, .ndjson or .parquet",
        path.display(),
        if extension.is_empty() { "a name without extension".into() } else { format!("`.{extension}`") }
    )]
    Unsupported { path: PathBuf, extension: String },

    #[error("{} is empty", path.display())]
    Empty { path: PathBuf },

    #[error("{} has 0 rows", path.display())]
    NoRows { path: PathBuf },

    #[error("{}, line {line}: {problem}", path.display())]
    Syntax { path: PathBuf, line: usize, problem: String },

    #[error("{}: {problem}", path.display())]
    Format { path: PathBuf, problem: String },

    #[error(
        "{}, row {row} (line {line}): {found} fields where the header has {expected}",
        path.display()
    )]
    Ragged { path: PathBuf, row: usize, line: usize, found: usize, expected: usize },

    #[error(
        "{} has no column {wanted}; it has {}{}",
        path.display(),
        quoted(found),
        nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
    )]
    NoColumn { path: PathBuf, wanted: String, found: Vec<String>, nearest: Option<String> },

    #[error("{}, row {row}: `{column}` is missing or null", path.display())]
    Null { path: PathBuf, row: usize, column: String },

    #[error("{}, row {row}: `{column}` holds {found}, not {expected}", path.display())]
    WrongType { path: PathBuf, row: usize, column: String, found: String, expected: &'static str },

    #[error("{}, row {row}: unknown label `{label}`; the labels are {}", path.display(), quoted(known))]
    UnknownLabel { path: PathBuf, row: usize, label: String, known: Vec<String> },

    #[error("{}, row {row}: {count} labels where a multiclass task takes one (task = \"multi_label\" takes any number)", path.display())]
    LabelCount { path: PathBuf, row: usize, count: usize },

    #[error(
        "{}, row {row}: label `{label}` never occurs in the training rows, so it cannot be learnt",
        path.display()
    )]
    UnseenLabel { path: PathBuf, row: usize, label: String },

    #[error(
        "{}, row {row}: `{label}` is a third label after {}; a binary task has two \
         (set task = \"multiclass\" for more)",
        path.display(),
        quoted(known)
    )]
    ThirdLabel { path: PathBuf, row: usize, label: String, known: Vec<String> },

    #[error("all {rows} training rows have the label `{label}`: one class only, nothing to learn")]
    OneClass { label: String, rows: usize },

    #[error("all {rows} training rows have the same labels ({}): nothing to learn", quoted(labels))]
    OneLabelSet { labels: Vec<String>, rows: usize },

    #[error("no training file was given")]
    NoTrainFile,

    #[error("{key} = {value}: {problem}")]
    Config { key: &'static str, value: String, problem: String },

    #[error(
        "a {split} split of {fraction} would be empty: the training file has {rows} rows with \
         {texts} different texts, and rows of one text stay together; give a {split} file or a \
         larger fraction"
    )]
    TooFewRows { split: &'static str, fraction: f64, rows: usize, texts: usize },

    #[error("cannot load the tokenizer {}: {problem}", path.display())]
    Tokenizer { path: PathBuf, problem: String },

    #[error("no tokenizer in {}: {problem}", folder.display())]
    NoTokenizer { folder: PathBuf, problem: String },

    #[error("the tokenizer {} has {bytes} bytes, more than the limit of {limit}", path.display())]
    TokenizerTooLarge { path: PathBuf, bytes: u64, limit: u64 },

    /// `index` counts the texts that were given, from 0; the caller knows where they come from.
    #[error("cannot tokenize text {}: {problem}", index + 1)]
    Encode { index: usize, problem: String },
}

fn quoted(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut list: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    if names.len() > SHOWN {
        list.push(format!("and {} more", names.len() - SHOWN));
    }
    if list.is_empty() { "none".into() } else { list.join(", ") }
}
