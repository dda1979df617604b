//! From files to examples: reads the splits, settles the label scheme on the training rows, and
//! carves the splits that have no file of their own.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::labels::Value;
use crate::split::{Parts, balanced_sample, carve};
use crate::table::{Columns, LabelColumn, Row, read};
use crate::{DataConfig, Error, LabelScheme, Result};

/// One labelled text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The text, byte for byte.
    pub text: String,
    /// The class's index in the scheme.
    pub label: usize,
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
    let columns = Columns { text: text_column, label: LabelColumn::Unread };
    Ok(read(path, columns)?.into_iter().map(|row| (row.number, row.text)).collect())
}

/// A row, its label and the file it came from.
struct Labelled<'a> {
    path: &'a Path,
    row: Row,
    label: Value,
}

fn read_split<'a>(config: &DataConfig, paths: &'a [PathBuf]) -> Result<Vec<Labelled<'a>>> {
    let label = config.label_column.as_deref().map_or(LabelColumn::Usual, LabelColumn::Named);
    let columns = Columns { text: &config.text_column, label };
    let mut rows = Vec::new();
    for path in paths {
        rows.extend(read(path, columns)?.into_iter().map(|mut row| {
            let label = row.label.take().expect("every reader gives the label it was asked for");
            Labelled { path, row, label }
        }));
    }
    Ok(rows)
}

fn scheme_of(config: &DataConfig, train: &[Labelled<'_>]) -> Result<LabelScheme> {
    let labels: Vec<&Value> = train.iter().map(|labelled| &labelled.label).collect();
    let scheme = LabelScheme::new(config, &labels).map_err(|third| Error::ThirdLabel {
        path: train[third.position].path.into(),
        row: train[third.position].row.number,
        label: train[third.position].label.to_string(),
        known: third.known,
    })?;
    let mut seen = labels.iter().map(|label| scheme.index(label));
    let first = seen.next().flatten();
    match first.filter(|_| seen.all(|other| other == first)) {
        Some(only) => Err(Error::OneClass { label: scheme.names[only].clone(), rows: train.len() }),
        None => Ok(scheme),
    }
}

fn label_rows(rows: Vec<Labelled<'_>>, scheme: &LabelScheme) -> Result<Vec<Example>> {
    rows.into_iter()
        .map(|Labelled { path, row, label }| match (scheme.index(&label), label) {
            (Some(index), _) => Ok(Example { text: row.text, label: index, row: row.number }),
            (None, Value::List(labels)) => {
                let count = labels.len();
                Err(Error::LabelCount { path: path.into(), row: row.number, count })
            }
            (None, label) => Err(Error::UnknownLabel {
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
        if let Some(unseen) = rows.iter().find(|example| trained[example.label] == 0) {
            let label = scheme.names[unseen.label].clone();
            return Err(Error::UnseenLabel { path: path.into(), row: unseen.row, label });
        }
        examples.extend(rows);
    }
    Ok(examples)
}

pub(crate) fn class_counts(examples: &[Example], classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    examples.iter().for_each(|example| counts[example.label] += 1);
    counts
}
