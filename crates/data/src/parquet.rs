//! Parquet through Polars; only the columns wanted are decoded.

use std::fs::File;
use std::path::Path;

use polars::prelude::{ParquetReader, SerReader};

use crate::table::{Columns, Row, guarded, pick, rows_of};
use crate::{Error, Result};

pub(crate) fn read(path: &Path, columns: Columns<'_>) -> Result<Vec<Row>> {
    let io = |source| Error::Io { path: path.into(), source };
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() == 0 {
        return Err(Error::Empty { path: path.into() });
    }
    let mut reader = ParquetReader::new(file);
    let schema = guarded(path, || reader.schema())?;
    let found: Vec<String> = schema.iter_names().map(ToString::to_string).collect();
    let (text, labels) = pick(path, &found, columns)?;
    let wanted = std::iter::once(text).chain(labels.iter().copied()).map(String::from).collect();
    let frame = guarded(path, || reader.with_columns(Some(wanted)).finish())?;
    rows_of(path, &frame, (text, &labels), columns.label, None)
}
