//! CSV through Polars, every column as text: separated by commas, or by semicolons or tabs, as spreadsheets of
//! many countries write them, `"` quotes, header line, LF or CRLF.
//!
//! Polars reads a short row as nulls, stops at a stray quote and cannot name the row, so a scan
//! first checks that the file is plain RFC 4180: it refuses rows of another width than the header,
//! quotes inside unquoted fields, text after a closing quote and quotes never closed. An unquoted
//! empty field is a missing value, `""` an empty text. Blank lines at the end are ignored.

use std::io::Cursor;
use std::path::Path;

use polars::prelude::{CsvParseOptions, CsvReadOptions, SerReader};

use crate::labels::Value;
use crate::table::{Columns, Row, guarded, pick, read_utf8, rows_of};
use crate::{Error, Result};

pub(crate) fn read(path: &Path, columns: Columns<'_>) -> Result<Vec<Row>> {
    let mut content = read_utf8(path)?;
    let separator = separator(content.as_bytes(), columns.text);
    let scan = scan(path, content.as_bytes(), separator)?;
    content.truncate(scan.end);
    if scan.rows == 0 {
        return Err(Error::NoRows { path: path.into() });
    }
    let parse = CsvParseOptions::default().with_separator(separator).with_missing_is_null(true);
    let options = CsvReadOptions::default()
        .with_has_header(true)
        .with_infer_schema_length(Some(0)) // nothing is inferred: all columns are strings
        .with_parse_options(parse);
    let bytes = Cursor::new(content.into_bytes());
    let frame = guarded(path, || options.into_reader_with_file_handle(bytes).finish())?;
    if frame.height() != scan.rows {
        let problem = format!("read {} rows of {}", frame.height(), scan.rows);
        return Err(Error::Format { path: path.into(), problem });
    }
    let found: Vec<String> =
        frame.get_column_names().into_iter().map(ToString::to_string).collect();
    let (text, labels) = pick(path, &found, columns)?;
    let no_label = Value::List(vec![]);
    let null = (columns.empty_is_no_label && labels.len() == 1).then_some(&no_label);
    rows_of(path, &frame, (text, &labels), columns.label, null)
}

struct Scan {
    /// Records after the header.
    rows: usize,
    /// Where the last record that is not a blank line ends.
    end: usize,
}

enum State {
    FieldStart,
    Unquoted,
    Quoted,
    /// After a quote inside a quoted field: the end of it, or the first half of `""`.
    QuoteSeen,
}

/// What separates fields: that between which the header has the text column.
fn separator(bytes: &[u8], text_column: &str) -> u8 {
    let mut quoted = false;
    let end = bytes.iter().position(|&byte| {
        quoted ^= byte == b'"';
        byte == b'\n' && !quoted
    });
    let header = bytes[..end.unwrap_or(bytes.len())].trim_ascii_end();
    let has_text = |separator: u8| {
        let mut quoted = false;
        let mut fields = header.split(|&byte| {
            quoted ^= byte == b'"';
            byte == separator && !quoted
        });
        fields.any(|field| {
            let inner = field.strip_prefix(b"\"").and_then(|field| field.strip_suffix(b"\""));
            inner.unwrap_or(field) == text_column.as_bytes()
        })
    };
    [b',', b';', b'\t'].into_iter().find(|&separator| has_text(separator)).unwrap_or(b',')
}

fn scan(path: &Path, bytes: &[u8], separator: u8) -> Result<Scan> {
    let mut line = 1; // of the byte at hand
    let mut begun = 1; // line on which the record began
    let mut start = 0; // where the record began
    let mut fields = 1;
    let mut width = None;
    let mut blank_since: Option<(usize, usize)> = None; // records from here on are blank: row, line
    let mut seen = Scan { rows: 0, end: 0 };
    let mut state = State::FieldStart;
    let refuse = |line, problem: &str| {
        Err(Error::Syntax { path: path.into(), line, problem: problem.into() })
    };

    let ended = bytes.last() == Some(&b'\n');
    let closing = (!ended).then_some(&b'\n'); // a last line without its line break
    for (position, &byte) in bytes.iter().chain(closing).enumerate() {
        let next = bytes.get(position + 1);
        let inside = matches!(state, State::Quoted);
        match (&state, byte) {
            (State::Quoted, b'"') => state = State::QuoteSeen,
            (State::Quoted, _) => {}
            (State::QuoteSeen, b'"') => state = State::Quoted,
            (State::FieldStart, b'"') => state = State::Quoted,
            (State::Unquoted, b'"') => {
                return refuse(line, "a quote inside an unquoted field; quote the whole field");
            }
            (_, byte) if byte == separator => {
                fields += 1;
                state = State::FieldStart;
            }
            (_, b'\n') => {}
            (_, b'\r') if next.is_none_or(|&next| next == b'\n') => {}
            (_, b'\r') => return refuse(line, "a carriage return inside an unquoted field"),
            (State::QuoteSeen, _) => return refuse(line, "text after a closing quote"),
            (State::FieldStart | State::Unquoted, _) => state = State::Unquoted,
        }
        if byte != b'\n' {
            continue;
        }
        line += 1;
        if inside {
            continue;
        }
        let record = &bytes[start..position.min(bytes.len())];
        match width {
            None if matches!(record, b"" | b"\r") => return refuse(1, "the header is empty"),
            None => width = Some(fields),
            Some(_) if matches!(record, b"" | b"\r") => {
                seen.rows += 1;
                blank_since = blank_since.or(Some((seen.rows, begun)));
                (start, fields, begun, state) = (position + 1, 1, line, State::FieldStart);
                continue;
            }
            Some(expected) => {
                seen.rows += 1;
                let (row, line, found) = match blank_since {
                    Some((row, line)) => (row, line, 0),
                    None => (seen.rows, begun, fields),
                };
                if found != expected {
                    return Err(Error::Ragged { path: path.into(), row, line, found, expected });
                }
            }
        }
        seen.end = (position + 1).min(bytes.len());
        (start, fields, begun, state) = (position + 1, 1, line, State::FieldStart);
    }
    if matches!(state, State::Quoted) {
        return refuse(begun, "a quote is opened and never closed");
    }
    if let Some((row, _)) = blank_since {
        seen.rows = row - 1;
    }
    Ok(seen)
}
