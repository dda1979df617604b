//! Rows as read from a file of any supported format: number, text, raw label. The format follows
//! from the file's extension; anything else is refused.

use std::collections::HashMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use polars::prelude::{AnyValue, DataFrame, DataType, PolarsResult};

use crate::labels::Value;
use crate::{Error, Result, csv, jsonl, parquet};

/// One row. `label` is absent where none was asked for.
pub(crate) struct Row {
    pub number: usize,
    pub text: String,
    pub label: Option<Value>,
}

/// Which columns to read.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub text: &'a str,
    pub label: LabelColumn<'a>,
    /// Whether an empty CSV cell is a row without labels.
    pub empty_is_no_label: bool,
}

#[derive(Clone, Copy)]
pub(crate) enum LabelColumn<'a> {
    /// Texts only.
    Unread,
    Named(&'a str),
    /// `label`, else `labels`.
    Usual,
    /// One column per label, each 0 or 1.
    Indicators(&'a [String]),
}

/// Reads a whole file.
pub(crate) fn read(path: &Path, columns: Columns<'_>) -> Result<Vec<Row>> {
    let rows = reader(path)?(path, columns)?;
    if rows.is_empty() { Err(Error::NoRows { path: path.into() }) } else { Ok(rows) }
}

/// Whether a file's name is that of a format that is read; the file itself is not looked at.
///
/// # Errors
/// [`Error::Unsupported`].
pub fn check_format(path: &Path) -> Result<()> {
    reader(path).map(drop)
}

type Reader = fn(&Path, Columns<'_>) -> Result<Vec<Row>>;

fn reader(path: &Path) -> Result<Reader> {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    match extension.as_str() {
        "csv" | "tsv" => Ok(csv::read),
        "jsonl" | "ndjson" => Ok(jsonl::read),
        "parquet" => Ok(parquet::read),
        _ => Err(Error::Unsupported { path: path.into(), extension }),
    }
}

/// The content of a text file, without a byte-order mark. Nothing but white space counts as empty.
pub(crate) fn read_utf8(path: &Path) -> Result<String> {
    let mut bytes = fs::read(path).map_err(|source| Error::Io { path: path.into(), source })?;
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        bytes.drain(..3);
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::Empty { path: path.into() });
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        Error::Syntax {
            path: path.into(),
            line: 1 + valid.iter().filter(|&&byte| byte == b'\n').count(),
            problem: "not valid UTF-8: save the file in that encoding".into(),
        }
    })
}

/// The names of the text column and of the label columns among those that exist.
pub(crate) fn pick<'a>(
    path: &Path,
    found: &[String],
    columns: Columns<'a>,
) -> Result<(&'a str, Vec<&'a str>)> {
    let has = |name: &str| found.iter().any(|column| column == name);
    let missing = |wanted: &str, shown: String| Error::NoColumn {
        path: path.into(),
        wanted: shown,
        found: found.to_vec(),
        nearest: nearest(wanted, found),
    };
    let named = |name: &'a str| {
        if has(name) { Ok(name) } else { Err(missing(name, format!("`{name}`"))) }
    };
    let text = named(columns.text)?;
    let labels = match columns.label {
        LabelColumn::Unread => vec![],
        LabelColumn::Named(name) => vec![named(name)?],
        LabelColumn::Usual if has("label") => vec!["label"],
        LabelColumn::Usual if has("labels") => vec!["labels"],
        LabelColumn::Usual => return Err(missing("label", "`label` or `labels`".into())),
        LabelColumn::Indicators(names) => {
            names.iter().map(|name| named(name)).collect::<Result<_>>()?
        }
    };
    Ok((text, labels))
}

/// What a row of these columns is labelled with, if labels are wanted; `cell` reads a column. The
/// columns of indicators become the list of those that hold 1.
pub(crate) fn label_of(
    path: &Path,
    row: usize,
    kind: LabelColumn<'_>,
    columns: &[&str],
    mut cell: impl FnMut(&str) -> Result<Value>,
) -> Result<Option<Value>> {
    if !matches!(kind, LabelColumn::Indicators(_)) {
        return columns.first().map(|name| cell(name)).transpose();
    }
    let mut labels = Vec::new();
    for &name in columns {
        let value = cell(name)?;
        match value.indicator() {
            Some(true) => labels.push(Value::Text(name.into())),
            Some(false) => {}
            None => {
                return Err(Error::WrongType {
                    path: path.into(),
                    row,
                    column: name.into(),
                    found: format!("`{value}`"),
                    expected: "0 or 1",
                });
            }
        }
    }
    Ok(Some(Value::List(labels)))
}

/// The closest existing name, if it is close enough to be a slip of the pen.
fn nearest(wanted: &str, found: &[String]) -> Option<String> {
    let close =
        |name: &&String| strsim::jaro_winkler(&wanted.to_lowercase(), &name.trim().to_lowercase());
    found
        .iter()
        .filter(|name| close(name) > 0.7)
        .max_by(|a, b| close(a).total_cmp(&close(b)))
        .cloned()
}

/// Runs a Polars reader. It may panic on types it was not built for or on damaged files.
pub(crate) fn guarded<T>(path: &Path, read: impl FnOnce() -> PolarsResult<T>) -> Result<T> {
    let refuse = |problem: String| Error::Format { path: path.into(), problem };
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|error| refuse(error.to_string())),
        Err(panic) => Err(refuse(panic_message(&*panic))),
    }
}

pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the reader panicked").into()
}

/// Rows of a data frame, numbered from 1; `null_label` is what a null stands for, if for anything.
pub(crate) fn rows_of(
    path: &Path,
    frame: &DataFrame,
    (text, labels): (&str, &[&str]),
    kind: LabelColumn<'_>,
    null_label: Option<&Value>,
) -> Result<Vec<Row>> {
    let texts = plain_column(path, frame, text)?;
    let columns: HashMap<&str, polars::prelude::Column> = labels
        .iter()
        .map(|&name| Ok((name, plain_column(path, frame, name)?)))
        .collect::<Result<_>>()?;
    (0..frame.height())
        .map(|index| {
            let number = index + 1;
            let null = |column: &str| Error::Null {
                path: path.into(),
                row: number,
                column: column.into(),
            };
            let wrong = |column: &str, cell: &AnyValue<'_>, expected| Error::WrongType {
                path: path.into(),
                row: number,
                column: column.into(),
                found: format!("a value of type {}", cell.dtype()),
                expected,
            };
            let cell = guarded(path, || texts.get(index))?;
            let content = match &cell {
                AnyValue::Null => return Err(null(text)),
                cell => cell.get_str().ok_or_else(|| wrong(text, cell, "text"))?.to_owned(),
            };
            let label = label_of(path, number, kind, labels, |name| {
                match (guarded(path, || columns[name].get(index))?, null_label) {
                    (AnyValue::Null, Some(label)) => Ok(label.clone()),
                    (AnyValue::Null, None) => Err(null(name)),
                    (cell, _) => value(&cell).ok_or_else(|| wrong(name, &cell, LABEL_TYPES)),
                }
            })?;
            Ok(Row { number, text: content, label })
        })
        .collect()
}

/// What a label may be, for error messages.
pub(crate) const LABEL_TYPES: &str = "a string, an integer, a boolean or a list of these";

/// A column with dictionary-encoded strings made plain.
fn plain_column(path: &Path, frame: &DataFrame, name: &str) -> Result<polars::prelude::Column> {
    guarded(path, || {
        let column = frame.column(name)?;
        match column.dtype() {
            DataType::Categorical(..) | DataType::Enum(..) => column.cast(&DataType::String),
            _ => Ok(column.clone()),
        }
    })
}

fn value(cell: &AnyValue<'_>) -> Option<Value> {
    match cell {
        AnyValue::Boolean(flag) => Some(Value::Bool(*flag)),
        AnyValue::List(items) => {
            items.iter().map(|item| value(&item)).collect::<Option<_>>().map(Value::List)
        }
        cell if cell.dtype().is_integer() => cell.try_extract().ok().map(Value::Integer),
        cell if cell.dtype().is_float() => Value::from_float(cell.try_extract().ok()?),
        cell => cell.get_str().map(|text| Value::Text(text.into())),
    }
}
