//! What the record of a run says besides its metric points: small files, each replaced as a whole,
//! so that another thread or process can read them at any time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::at;
use crate::model::RecordedModel;
use crate::{Dataset, Error, Result, RunInfo, Status};

pub(crate) const RUN: &str = "run.json";
pub(crate) const PARAMS: &str = "params.json";
pub(crate) const TAGS: &str = "tags.json";
pub(crate) const DATASETS: &str = "datasets.json";
pub(crate) const ARTIFACTS: &str = "artifacts.json";
pub(crate) const MODELS: &str = "models.json";

/// Everything in a record but the metric points.
#[derive(Debug)]
pub(crate) struct Facts {
    pub state: State,
    pub params: BTreeMap<String, String>,
    pub tags: BTreeMap<String, String>,
    pub datasets: Vec<Dataset>,
    /// Artifact path → file, relative to the run folder.
    pub artifacts: BTreeMap<String, PathBuf>,
    /// By name.
    pub models: BTreeMap<String, RecordedModel>,
}

/// The content of `run.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    #[serde(flatten)]
    pub info: RunInfo,
    pub status: Status,
    pub end_time_ms: Option<i64>,
}

impl Facts {
    /// Those of a new run.
    pub fn new(info: &RunInfo) -> Self {
        Self {
            state: State { info: info.clone(), status: Status::Running, end_time_ms: None },
            params: BTreeMap::new(),
            tags: BTreeMap::new(),
            datasets: Vec::new(),
            artifacts: BTreeMap::new(),
            models: BTreeMap::new(),
        }
    }

    /// How the run stands, and since when if it ended.
    pub fn status(&self) -> (Status, Option<i64>) {
        (self.state.status, self.state.end_time_ms)
    }

    /// Those in a run folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let state: State = read_json(&folder.join(RUN))?;
        state.info.check()?;
        Ok(Self {
            state,
            params: read_or_empty(&folder.join(PARAMS))?,
            tags: read_or_empty(&folder.join(TAGS))?,
            datasets: read_or_empty(&folder.join(DATASETS))?,
            artifacts: read_or_empty(&folder.join(ARTIFACTS))?,
            models: read_or_empty(&folder.join(MODELS))?,
        })
    }
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).expect("plain data with keys of text is JSON");
    text.push(b'\n');
    Ok(durable::write(path, &text)?)
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).map_err(at("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Damaged {
        path: path.to_path_buf(),
        line: Some(error.line()),
        reason: error.to_string(),
    })
}

/// What is not there yet is empty.
pub(crate) fn read_or_empty<T: DeserializeOwned + Default>(path: &Path) -> Result<T> {
    if path.exists() { read_json(path) } else { Ok(T::default()) }
}
