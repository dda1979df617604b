//! Label schemes: which raw value of a label column is which class.
//!
//! Under a binary task a list counts as class 0 where it is empty and as class 1 otherwise, so that
//! a multi-label column says "any label at all". Under a multi-label task a label is a list, the
//! empty one included. Any other value is matched by its text; where the names are words, integers
//! and booleans may also stand for the index.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{DataConfig, Task};

/// A label as a file holds it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    List(Vec<Value>),
}

impl Value {
    /// Integers often pass through floats on their way into a file; fractions are no labels.
    pub fn from_float(number: f64) -> Option<Self> {
        const EXACT: f64 = (1_u64 << 53) as f64;
        (number.fract() == 0.0 && number.abs() <= EXACT).then_some(Self::Integer(number as i64))
    }

    /// What it says in the column of one label, if it says yes or no.
    pub fn indicator(&self) -> Option<bool> {
        match self {
            Self::Bool(flag) => Some(*flag),
            Self::Integer(0) => Some(false),
            Self::Integer(1) => Some(true),
            Self::Integer(_) | Self::List(_) => None,
            // As spreadsheets and data frames write them.
            Self::Text(text) => match text.trim() {
                "0" | "0.0" | "false" | "False" | "FALSE" => Some(false),
                "1" | "1.0" | "true" | "True" | "TRUE" => Some(true),
                _ => None,
            },
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(number) => number.fmt(f),
            Self::Bool(flag) => flag.fmt(f),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
        }
    }
}

/// Class or label names by index. Under [`Task::Binary`] index 1 is the positive class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelScheme {
    /// The name of each class or label.
    pub names: Vec<String>,
    /// How a label column is read.
    pub task: Task,
}

/// A scheme that the labels do not allow: the position of a third label of a binary task.
pub(crate) struct ThirdLabel {
    pub position: usize,
    pub known: Vec<String>,
}

impl LabelScheme {
    /// The scheme of `config`, with names from the training labels where it gives none.
    pub(crate) fn new(config: &DataConfig, labels: &[&Value]) -> Result<Self, ThirdLabel> {
        let task = config.task;
        if let Some(names) = config.label_names.as_ref().or(config.label_columns.as_ref()) {
            return Ok(Self { names: names.clone(), task });
        }
        if task == Task::MultiLabel && is_unfair_tos(config) {
            return Ok(Self { names: UNFAIR_TOS.map(String::from).into(), task });
        }
        if task == Task::Binary && matches!(labels.first(), Some(Value::List(_))) {
            let names = if is_unfair_tos(config) { ["fair", "unfair"] } else { ["none", "any"] };
            return Ok(Self { names: names.map(String::from).into(), task });
        }
        let mut first_seen = BTreeMap::new();
        for (position, label) in labels.iter().enumerate() {
            let all = match (task, label) {
                (Task::MultiLabel, Value::List(labels)) => labels.as_slice(),
                (_, label) => single(label).map_or(&[][..], std::slice::from_ref),
            };
            for label in all {
                first_seen.entry(label.to_string()).or_insert(position);
            }
        }
        if task == Task::Binary && first_seen.len() > 2 {
            let mut by_position: Vec<_> = first_seen.into_iter().map(|(n, p)| (p, n)).collect();
            by_position.sort_unstable();
            let position = by_position[2].0;
            let known = by_position.into_iter().take(2).map(|(_, name)| name).collect();
            return Err(ThirdLabel { position, known });
        }
        let mut names: Vec<String> = first_seen.into_keys().collect();
        if names.iter().all(|name| name.parse::<i64>().is_ok()) {
            names.sort_by_key(|name| name.parse::<i64>().unwrap_or_default());
        }
        Ok(Self { names, task })
    }

    /// The classes of a raw label, ascending: one, but for multi-label tasks.
    ///
    /// # Errors
    /// The value that is none of the scheme's.
    pub(crate) fn indices<'a>(&self, label: &'a Value) -> Result<Vec<usize>, &'a Value> {
        let Value::List(labels) = label else { return Ok(vec![self.index(label).ok_or(label)?]) };
        if self.task != Task::MultiLabel {
            return Ok(vec![self.index(label).ok_or(label)?]);
        }
        let index = |label: &'a Value| match label {
            Value::List(_) => Err(label),
            label => self.index(label).ok_or(label),
        };
        let distinct: BTreeSet<usize> = labels.iter().map(index).collect::<Result<_, _>>()?;
        Ok(distinct.into_iter().collect())
    }

    /// The class of a raw label, if it has one.
    fn index(&self, label: &Value) -> Option<usize> {
        if let (Task::Binary, Value::List(items)) = (self.task, label) {
            return Some(usize::from(!items.is_empty()));
        }
        let label = single(label)?;
        let text = label.to_string();
        if let Some(index) = self.names.iter().position(|name| *name == text) {
            return Some(index);
        }
        let words = self.names.iter().all(|name| name.parse::<i64>().is_err());
        let index = match label {
            Value::Bool(flag) if self.names.len() == 2 => usize::from(*flag),
            // Text as well: every CSV column is text.
            Value::Integer(_) | Value::Text(_) if words => text.parse().ok()?,
            _ => return None,
        };
        (index < self.names.len()).then_some(index)
    }
}

/// A list of one label is that label.
fn single(label: &Value) -> Option<&Value> {
    match label {
        Value::List(items) => match items.as_slice() {
            [Value::List(_)] => None,
            [label] => Some(label),
            _ => None,
        },
        label => Some(label),
    }
}

/// The kinds of unfair clause in LexGLUE's UNFAIR-ToS, by number.
const UNFAIR_TOS: [&str; 8] = [
    "Limitation of liability",
    "Unilateral termination",
    "Unilateral change",
    "Content removal",
    "Contract by using",
    "Choice of law",
    "Jurisdiction",
    "Arbitration",
];

/// The one dataset whose list-typed labels have names, and a settled binary reading.
fn is_unfair_tos(config: &DataConfig) -> bool {
    let named = config.dataset.as_deref().unwrap_or_default();
    let path = Path::new(named);
    // A folder's name may hold an @; a hub name has its revision behind one.
    let named = match path.is_absolute() {
        true => path.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
        false => named.split('@').next().unwrap_or_default().trim_end_matches('/'),
    };
    config.train_file.is_none() && named.rsplit('/').next() == Some("unfair_tos")
}
