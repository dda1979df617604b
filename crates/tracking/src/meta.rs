//! The `meta.yaml` files of MLflow's file store: one per experiment, one per run.
//!
//! Written key for key as MLflow 3.17 writes them (sorted keys, the same quoting of plain values);
//! read by a YAML parser, since other programs wrote some of them.

use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;

use crate::error::at;
use crate::{Error, Result, RunInfo, Status};

/// No meta.yaml is longer: the names in it are at most hundreds of characters.
const MAX_META_BYTES: u64 = 1 << 20;

/// What we need to know of an experiment.
#[derive(Debug, Deserialize)]
pub(crate) struct ExperimentMeta {
    pub name: String,
    pub artifact_location: String,
    pub lifecycle_stage: String,
}

impl ExperimentMeta {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        read(path)
    }

    /// The file of a new, active experiment.
    pub(crate) fn yaml(&self, experiment_id: &str, created_ms: i64) -> String {
        format!(
            "artifact_location: {}\ncreation_time: {created_ms}\n\
             effective_trace_archival_retention: null\nexperiment_id: '{experiment_id}'\n\
             last_update_time: {created_ms}\nlifecycle_stage: {}\nname: {}\n\
             trace_location: null\nworkspace: default\n",
            scalar(&self.artifact_location),
            scalar(&self.lifecycle_stage),
            scalar(&self.name),
        )
    }
}

/// All that a run's file says.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RunMeta {
    pub artifact_uri: String,
    pub end_time: Option<i64>,
    pub run_id: String,
    pub run_name: String,
    pub start_time: i64,
    pub status: u8,
    pub user_id: String,
}

impl RunMeta {
    pub(crate) fn new(info: &RunInfo, artifact_uri: String) -> Self {
        Self {
            artifact_uri,
            end_time: None,
            run_id: info.run_id.clone(),
            run_name: info.run_name.clone(),
            start_time: info.start_time_ms,
            status: status_number(Status::Running),
            user_id: info.user.clone(),
        }
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        read(path)
    }

    pub(crate) fn yaml(&self, experiment_id: &str) -> String {
        let end_time = self.end_time.map_or("null".to_owned(), |ms| ms.to_string());
        format!(
            "artifact_uri: {}\nend_time: {end_time}\nentry_point_name: ''\n\
             experiment_id: '{experiment_id}'\nlifecycle_stage: active\nrun_id: {}\n\
             run_name: {}\nsource_name: ''\nsource_type: 4\nsource_version: ''\n\
             start_time: {}\nstatus: {}\ntags: []\nuser_id: {}\n",
            scalar(&self.artifact_uri),
            scalar(&self.run_id),
            scalar(&self.run_name),
            self.start_time,
            self.status,
            scalar(&self.user_id),
        )
    }
}

/// MLflow's number for a status.
pub(crate) fn status_number(status: Status) -> u8 {
    match status {
        Status::Running => 1, // 2 is SCHEDULED
        Status::Finished => 3,
        Status::Failed => 4,
        Status::Killed => 5,
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let length = std::fs::metadata(path).map_err(at("read", path))?.len();
    let damaged = |reason| Error::Damaged { path: path.to_path_buf(), line: None, reason };
    if length > MAX_META_BYTES {
        return Err(damaged(format!("{length} bytes; the limit is {MAX_META_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(at("read", path))?;
    serde_saphyr::from_str(&text).map_err(|error| damaged(error.to_string()))
}

/// A string as a YAML scalar: plain where it cannot be taken for anything else, single-quoted where
/// it holds printable ASCII alone, and otherwise double-quoted with escapes.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !text.ends_with(' ')
        && !text.ends_with(':')
        && !text.contains(": ")
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " _-./:%~+".contains(c))
        && !["true", "false", "yes", "no", "on", "off", "null", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    // Digits with one `e` among them, or `0b` with ones and zeros, would read as a number.
    let plain = plain || (text.len() == 32 && text.contains(['a', 'c', 'd', 'f']) && is_hex(text));
    if plain {
        return text.to_owned();
    }
    if text.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c == ' ' || c.is_ascii_graphic() || c.is_alphabetic() => quoted.push(c),
            c => write!(quoted, "\\U{:08X}", u32::from(c)).expect("a String takes all"),
        }
    }
    quoted.push('"');
    quoted
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn back(text: &str) -> String {
        #[derive(Deserialize)]
        struct One {
            a: String,
        }
        serde_saphyr::from_str::<One>(&format!("a: {}\nb: 1\n", scalar(text))).expect(text).a
    }

    #[test]
    fn scalars_are_quoted_where_yaml_would_misread_them() {
        assert_eq!(scalar("exp one"), "exp one");
        assert_eq!(scalar("file:///tmp/a/0"), "file:///tmp/a/0");
        assert_eq!(scalar("012"), "'012'");
        assert_eq!(scalar("Yes"), "'Yes'");
        assert_eq!(scalar("it's: #1"), "'it''s: #1'");
        assert_eq!(scalar("a\nb"), "\"a\\U0000000Ab\"");
        assert_eq!(scalar("76011dcdebf940da831cd01aab47200b"), "76011dcdebf940da831cd01aab47200b");
        assert_eq!(scalar("1".repeat(32).as_str()), format!("'{}'", "1".repeat(32)));
        for text in ["", " a", "a ", "null", "- x", "{}", "é", "\u{85}", "🦀", "1e5", "a:", "\0"]
        {
            assert_eq!(back(text), text);
        }
    }

    #[test]
    fn a_deeply_nested_or_wrong_file_is_an_error() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("meta.yaml");
        for text in ["[".repeat(500_000), "a: ".repeat(2), "name: 1".into(), "\0".into()] {
            durable::write(&path, text.as_bytes()).expect("write");
            assert!(matches!(ExperimentMeta::read(&path), Err(Error::Damaged { .. })));
        }
    }

    proptest! {
        #[test]
        fn any_string_survives(text in any::<String>()) {
            prop_assert_eq!(back(&text), text);
        }
    }
}
