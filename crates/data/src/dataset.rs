//! From files to examples: reads the splits, settles the label scheme on the training rows, and
//! carves the splits that have no file of their own.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::config::TOO_FEW_LABELS;
use crate::labels::Value;
use crate::split::{Parts, balanced_sample, carve};
use crate::table::{Columns, LabelColumn, Row, read};
use crate::{DataConfig, Error, LabelScheme, Result, Task};

/// One labelled text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The text, byte for byte.
    pub text: String,
    /// The indices of its labels in the scheme, ascending: one, but for multi-label tasks.
    pub labels: Vec<usize>,
    /// The row in its source file, from 1.
    pub row: usize,
}

/// The files of each split; several are read in order as one. Splits without files are carved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SplitFiles {
    /// Training rows.
    pub train: Vec<PathBuf>,
    /// Validation rows.
    pub validation: Vec<PathBuf>,
    /// Test rows.
    pub test: Vec<PathBuf>,
}

/// All three splits under one label scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// What the optimizer sees.
    pub train: Vec<Example>,
    /// What models are selected on.
    pub validation: Vec<Example>,
    /// What is reported.
    pub test: Vec<Example>,
    /// Class names by index.
    pub labels: LabelScheme,
}

/// Reads a dataset. `seed` decides the carved splits and the debug sample, nothing else.
///
/// # Errors
/// Unreadable or malformed files, missing columns, null cells, labels that are unknown or never
/// trained on, a training split of one class; each names file and row.
pub fn load(config: &DataConfig, files: &SplitFiles, seed: u64) -> Result<Dataset> {
    config.check()?;
    if files.train.is_empty() {
        return Err(Error::NoTrainFile);
    }
    let train = read_split(config, &files.train)?;
    let scheme = scheme_of(config, &train)?;
    let mut train = label_rows(train, &scheme)?;
    let rows = train.len();
    let trained = class_counts(&train, scheme.names.len());
    let mut validation = read_evaluation(config, &files.validation, &scheme, &trained)?;
    let mut test = read_evaluation(config, &files.test, &scheme, &trained)?;

    let fraction_if = |wanted, fraction| if wanted { fraction } else { 0.0 };
    let (validation_fraction, test_fraction) = (
        fraction_if(files.validation.is_empty(), config.validation_fraction),
        fraction_if(files.test.is_empty(), config.test_fraction),
    );
    if validation_fraction > 0.0 || test_fraction > 0.0 {
        let classes = scheme.names.len();
        let texts = train.iter().map(|e| &e.text).collect::<HashSet<_>>().len();
        let parts = carve(train, classes, validation_fraction, test_fraction, seed);
        let carved = |split, fraction, old: Vec<Example>, new: Vec<Example>| match fraction {
            0.0 => Ok(old),
            _ if new.is_empty() => Err(Error::TooFewRows { split, fraction, rows, texts }),
            _ => Ok(new),
        };
        let Parts { train: kept, validation: to_validation, test: to_test } = parts;
        validation = carved("validation", validation_fraction, validation, to_validation)?;
        test = carved("test", test_fraction, test, to_test)?;
        train = kept;
    }
    if let Some(wanted) = config.debug_mode_sample {
        train = balanced_sample(train, scheme.names.len(), wanted, seed);
    }
    Ok(Dataset { train, validation, test, labels: scheme })
}

/// Reads one labelled file under a scheme that is already settled, as a trained model's is.
///
/// # Errors
/// As [`load`]; a label that the scheme lacks is an error.
pub fn load_split(config: &DataConfig, path: &Path, scheme: &LabelScheme) -> Result<Vec<Example>> {
    label_rows(read_split(config, &[path.to_path_buf()])?, scheme)
}

/// Reads the texts of a file with their row numbers; labels are neither needed nor read.
///
/// # Errors
/// Unreadable or malformed files, a missing column, null texts.
pub fn read_texts(path: &Path, text_column: &str) -> Result<Vec<(usize, String)>> {
    let columns =
        Columns { text: text_column, label: LabelColumn::Unread, empty_is_no_label: false };
    Ok(read(path, columns)?.into_iter().map(|row| (row.number, row.text)).collect())
}

/// A row, its label and the file it came from.
struct Labelled<'a> {
    path: &'a Path,
    row: Row,
    label: Value,
}

fn read_split<'a>(config: &DataConfig, paths: &'a [PathBuf]) -> Result<Vec<Labelled<'a>>> {
    let several = config.task == Task::MultiLabel;
    let label = match (&config.label_columns, &config.label_column) {
        (Some(names), _) if several => LabelColumn::Indicators(names),
        (_, Some(name)) => LabelColumn::Named(name),
        (_, None) => LabelColumn::Usual,
    };
    let columns = Columns { text: &config.text_column, label, empty_is_no_label: several };
    let mut rows = Vec::new();
    for path in paths {
        for mut row in read(path, columns)? {
            let label = row.label.take().expect("every reader gives the label it was asked for");
            let label = if several { label_list(config, path, &row, label)? } else { label };
            rows.push(Labelled { path, row, label });
        }
    }
    Ok(rows)
}

/// The labels of a multi-label row: a list as it is, text cut at the separator.
fn label_list(config: &DataConfig, path: &Path, row: &Row, label: Value) -> Result<Value> {
    match label {
        Value::List(_) => Ok(label),
        Value::Text(text) => {
            let labels = text.split(&config.label_separator).map(str::trim);
            let labels = labels.filter(|label| !label.is_empty());
            Ok(Value::List(labels.map(|label| Value::Text(label.into())).collect()))
        }
        other => Err(Error::WrongType {
            path: path.into(),
            row: row.number,
            column: config.label_column.clone().unwrap_or_else(|| "label".into()),
            found: format!("`{other}`"),
            expected: "a list of labels or text, as a multi-label task needs",
        }),
    }
}

fn scheme_of(config: &DataConfig, train: &[Labelled<'_>]) -> Result<LabelScheme> {
    let labels: Vec<&Value> = train.iter().map(|labelled| &labelled.label).collect();
    let scheme = LabelScheme::new(config, &labels).map_err(|third| Error::ThirdLabel {
        path: train[third.position].path.into(),
        row: train[third.position].row.number,
        label: train[third.position].label.to_string(),
        known: third.known,
    })?;
    let mut seen = labels.iter().map(|label| scheme.indices(label).ok());
    let first = seen.next().flatten();
    if let Some(only) = first
        && seen.all(|other| other.as_ref() == Some(&only))
    {
        let names: Vec<String> = only.iter().map(|&i| scheme.names[i].clone()).collect();
        let (label, rows) = (names.join("`, `"), train.len());
        return Err(match scheme.task {
            Task::MultiLabel => Error::OneLabelSet { labels: names, rows },
            Task::Binary | Task::Multiclass => Error::OneClass { label, rows },
        });
    }
    if let (Task::MultiLabel, [only]) = (scheme.task, scheme.names.as_slice()) {
        let problem = format!("the training rows have one label, `{only}`: it {TOO_FEW_LABELS}");
        return Err(Error::Config { key: "task", value: "multi_label".into(), problem });
    }
    Ok(scheme)
}

fn label_rows(rows: Vec<Labelled<'_>>, scheme: &LabelScheme) -> Result<Vec<Example>> {
    rows.into_iter()
        .map(|Labelled { path, row, label }| match scheme.indices(&label) {
            Ok(labels) => Ok(Example { text: row.text, labels, row: row.number }),
            Err(Value::List(labels)) if scheme.task != Task::MultiLabel => {
                let count = labels.len();
                Err(Error::LabelCount { path: path.into(), row: row.number, count })
            }
            Err(label) => Err(Error::UnknownLabel {
                path: path.into(),
                row: row.number,
                label: label.to_string(),
                known: scheme.names.clone(),
            }),
        })
        .collect()
}

fn read_evaluation(
    config: &DataConfig,
    paths: &[PathBuf],
    scheme: &LabelScheme,
    trained: &[usize],
) -> Result<Vec<Example>> {
    let mut examples = Vec::new();
    for path in paths {
        let rows = load_split(config, path, scheme)?;
        for example in &rows {
            if let Some(&unseen) = example.labels.iter().find(|&&label| trained[label] == 0) {
                let label = scheme.names[unseen].clone();
                return Err(Error::UnseenLabel { path: path.into(), row: example.row, label });
            }
        }
        examples.extend(rows);
    }
    Ok(examples)
}

/// Rows of each class.
pub(crate) fn class_counts(examples: &[Example], classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    examples.iter().flat_map(|example| &example.labels).for_each(|&label| counts[label] += 1);
    counts
}
