//! JSONL: one object per line, blank lines skipped; a row's number is its line.
//!
//! Parsed here line by line rather than by Polars, whose reader infers one type across lines and
//! cannot say which line is at fault. Refuses invalid JSON, lone surrogates among it.

use std::path::Path;

use serde_json::{Map, Value as Json};

use crate::labels::Value;
use crate::table::{Columns, LABEL_TYPES, Row, label_of, pick, read_utf8};
use crate::{Error, Result};

pub(crate) fn read(path: &Path, columns: Columns<'_>) -> Result<Vec<Row>> {
    let content = read_utf8(path)?;
    let mut names = None;
    let mut rows = Vec::new();
    for (index, line) in content.split('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let number = index + 1;
        let mut object: Map<String, Json> = serde_json::from_str(line).map_err(|error| {
            let text = error.to_string();
            // serde_json says so of a leading surrogate that no trailing one follows.
            let text = text.replace("unexpected end of hex escape", "lone surrogate in hex escape");
            let problem = text.split(" at line ").next().unwrap_or_default();
            Error::Syntax {
                path: path.into(),
                line: number,
                problem: format!("{problem} (column {})", error.column()),
            }
        })?;
        let (text, labels) = match &names {
            Some(names) => names,
            None => {
                let found: Vec<String> = object.keys().cloned().collect();
                names.insert(pick(path, &found, columns)?)
            }
        };
        let text = *text;
        let null =
            |column: &str| Error::Null { path: path.into(), row: number, column: column.into() };
        let wrong = |column: &str, json: &Json, expected| Error::WrongType {
            path: path.into(),
            row: number,
            column: column.into(),
            found: describe(json),
            expected,
        };
        let content = match object.remove(text) {
            Some(Json::String(content)) => content,
            None | Some(Json::Null) => return Err(null(text)),
            Some(other) => return Err(wrong(text, &other, "text")),
        };
        let label =
            label_of(path, number, columns.label, labels, |name| match object.remove(name) {
                None | Some(Json::Null) => Err(null(name)),
                Some(json) => value(&json).ok_or_else(|| wrong(name, &json, LABEL_TYPES)),
            })?;
        rows.push(Row { number, text: content, label });
    }
    Ok(rows)
}

fn value(json: &Json) -> Option<Value> {
    match json {
        Json::String(text) => Some(Value::Text(text.clone())),
        Json::Bool(flag) => Some(Value::Bool(*flag)),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Some(Value::Integer(integer)),
            None => Value::from_float(number.as_f64()?),
        },
        Json::Array(items) => items.iter().map(value).collect::<Option<_>>().map(Value::List),
        Json::Null | Json::Object(_) => None,
    }
}

fn describe(json: &Json) -> String {
    match json {
        Json::Null => "null".into(),
        Json::Bool(flag) => format!("the boolean {flag}"),
        Json::Number(number) => format!("the number {number}"),
        Json::String(_) => "a string".into(),
        Json::Array(_) => "a list".into(),
        Json::Object(_) => "an object".into(),
    }
}
