//! The run folder's own record: the truth about a run, from which every other tracker is fed.
//!
//! - `run.json`: identity, status, end time
//! - `params.json`, `tags.json`: one object each, replaced as a whole
//! - `metrics.jsonl`: one point per line, in the order logged; NaN and the infinities are strings
//! - `artifacts.json`: artifact path → file, relative to the run folder; files from elsewhere are
//!   copied to `artifacts/`, files of the run folder are named where they are
//!
//! Metric lines are appended without waiting for the disk; [`sync`](Tracker::sync), called at each
//! checkpoint, makes them last. Opening a record changes nothing on disk, so a live run can be read
//! by others; a last line torn by a crash is left out, and cut off when the next point is logged.
//! A damaged line before the last is refused with its number.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::at;
use crate::limits::{check_key, check_metric};
use crate::{Error, Metric, Result, RunInfo, Status, Tracker, artifact};

const RUN: &str = "run.json";
const PARAMS: &str = "params.json";
const TAGS: &str = "tags.json";
const METRICS: &str = "metrics.jsonl";
const ARTIFACTS: &str = "artifacts.json";

/// The record of one run in its folder.
#[derive(Debug)]
pub struct RunRecord {
    folder: PathBuf,
    state: State,
    params: BTreeMap<String, String>,
    tags: BTreeMap<String, String>,
    artifacts: BTreeMap<String, PathBuf>,
    points: u64,
    /// Bytes of whole lines in `metrics.jsonl`.
    whole: u64,
    /// Open once a point was logged.
    appender: Option<File>,
}

/// The content of `run.json`.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    #[serde(flatten)]
    info: RunInfo,
    status: Status,
    end_time_ms: Option<i64>,
}

impl RunRecord {
    /// Starts the record of a new run in `folder`, which is created if need be.
    ///
    /// # Errors
    /// [`Error::RunExists`] if the folder holds a run; an identity that MLflow would refuse; what
    /// the file system answers.
    pub fn create(folder: &Path, info: &RunInfo) -> Result<Self> {
        info.check()?;
        durable::create_folder(folder)?;
        if folder.join(RUN).exists() {
            return Err(Error::RunExists(folder.to_path_buf()));
        }
        let record = Self {
            folder: folder.to_path_buf(),
            state: State { info: info.clone(), status: Status::Running, end_time_ms: None },
            params: BTreeMap::new(),
            tags: BTreeMap::new(),
            artifacts: BTreeMap::new(),
            points: 0,
            whole: 0,
            appender: None,
        };
        durable::write(&folder.join(METRICS), b"")?;
        write_json(&folder.join(RUN), &record.state)?;
        Ok(record)
    }

    /// Whether `folder` holds the record of a run.
    #[must_use]
    pub fn exists(folder: &Path) -> bool {
        folder.join(RUN).is_file()
    }

    /// Opens the record of a run that is in `folder`, to read it or to go on with it.
    ///
    /// # Errors
    /// [`Error::Damaged`] names the file and the line that cannot be read; else what the file
    /// system answers.
    pub fn open(folder: &Path) -> Result<Self> {
        let state: State = read_json(&folder.join(RUN))?;
        state.info.check()?;
        let (history, whole) = read_metrics(&folder.join(METRICS))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            state,
            params: read_map(&folder.join(PARAMS))?,
            tags: read_map(&folder.join(TAGS))?,
            artifacts: read_map(&folder.join(ARTIFACTS))?,
            points: history.len() as u64,
            whole,
            appender: None,
        })
    }

    /// The run folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The run's identity.
    #[must_use]
    pub fn info(&self) -> &RunInfo {
        &self.state.info
    }

    /// How the run stands. A run whose process died reads as [`Status::Running`].
    #[must_use]
    pub fn status(&self) -> Status {
        self.state.status
    }

    /// When the run finished, if it did.
    #[must_use]
    pub fn end_time_ms(&self) -> Option<i64> {
        self.state.end_time_ms
    }

    /// The parameters by name.
    #[must_use]
    pub fn params(&self) -> &BTreeMap<String, String> {
        &self.params
    }

    /// The tags by name.
    #[must_use]
    pub fn tags(&self) -> &BTreeMap<String, String> {
        &self.tags
    }

    /// The artifacts: the path each has among the artifacts, and where its file is.
    pub fn artifacts(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        self.artifacts.iter().map(|(path, file)| (path.as_str(), self.folder.join(file)))
    }

    /// The number of metric points logged so far: what a checkpoint stores and a resumed run hands
    /// to [`rewind_to`](Self::rewind_to).
    #[must_use]
    pub fn position(&self) -> u64 {
        self.points
    }

    /// All metric points in the order they were logged.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn history(&self) -> Result<Vec<Metric>> {
        Ok(read_metrics(&self.folder.join(METRICS))?.0)
    }

    /// Takes the run up again after its first `position` metric points: later ones are dropped and
    /// the run is running. Gives the history that is left, for the trackers fed from this record.
    ///
    /// # Errors
    /// [`Error::Position`] if there are fewer points; else what the file system answers.
    pub fn rewind_to(&mut self, position: u64) -> Result<Vec<Metric>> {
        let mut history = self.history()?;
        if position > history.len() as u64 {
            return Err(Error::Position {
                position,
                points: history.len() as u64,
                path: self.folder.join(METRICS),
            });
        }
        history.truncate(usize::try_from(position).expect("at most the length of a Vec"));
        self.rewind(&history)?;
        Ok(history)
    }

    fn appender(&mut self) -> Result<&mut File> {
        let path = self.folder.join(METRICS);
        if self.appender.is_none() {
            let file = OpenOptions::new().append(true).open(&path).map_err(at("open", &path))?;
            if file.metadata().map_err(at("read", &path))?.len() != self.whole {
                file.set_len(self.whole).map_err(at("cut", &path))?;
            }
            self.appender = Some(file);
        }
        Ok(self.appender.as_mut().expect("opened above"))
    }

    fn set_state(&mut self, status: Status, end_time_ms: Option<i64>) -> Result<()> {
        let state = State { info: self.state.info.clone(), status, end_time_ms };
        write_json(&self.folder.join(RUN), &state)?;
        self.state = state;
        Ok(())
    }

    /// The path of a file relative to the run folder, if it is a real file in there.
    fn inside(&self, file: &Path) -> Option<PathBuf> {
        let folder = self.folder.canonicalize().ok()?;
        Some(file.canonicalize().ok()?.strip_prefix(folder).ok()?.to_path_buf())
    }
}

impl Tracker for RunRecord {
    fn log_params(&mut self, params: &[(String, String)]) -> Result<()> {
        let path = self.folder.join(PARAMS);
        let mut all = self.params.clone();
        for (key, new) in params {
            check_key("parameter name", key)?;
            if let Some(old) = all.insert(key.clone(), new.clone()).filter(|old| old != new) {
                return Err(Error::ParamChanged { key: key.clone(), old, new: new.clone(), path });
            }
        }
        if all != self.params {
            write_json(&path, &all)?;
            self.params = all;
        }
        Ok(())
    }

    fn set_tags(&mut self, tags: &[(String, String)]) -> Result<()> {
        let mut all = self.tags.clone();
        for (key, value) in tags {
            check_key("tag name", key)?;
            all.insert(key.clone(), value.clone());
        }
        if all != self.tags {
            write_json(&self.folder.join(TAGS), &all)?;
            self.tags = all;
        }
        Ok(())
    }

    fn log_metrics(&mut self, metrics: &[Metric]) -> Result<()> {
        metrics.iter().try_for_each(check_metric)?;
        let lines = metrics.iter().map(line).collect::<String>();
        let file = self.appender()?;
        if let Err(error) = file.write_all(lines.as_bytes()) {
            // Half a line may be in the file: the next call cuts it off.
            self.appender = None;
            return Err(at("append to", &self.folder.join(METRICS))(error));
        }
        self.whole += lines.len() as u64;
        self.points += metrics.len() as u64;
        Ok(())
    }

    fn log_artifact(&mut self, local: &Path, artifact_path: &str) -> Result<()> {
        let mut all = self.artifacts.clone();
        for (file, path) in artifact::files(local, artifact_path)? {
            let place = match self.inside(&file) {
                Some(place) => place,
                None => {
                    artifact::copy(&file, &self.folder.join("artifacts"), &path)?;
                    Path::new("artifacts").join(&path)
                }
            };
            all.insert(path, place);
        }
        if all != self.artifacts {
            write_json(&self.folder.join(ARTIFACTS), &all)?;
            self.artifacts = all;
        }
        Ok(())
    }

    fn rewind(&mut self, history: &[Metric]) -> Result<()> {
        history.iter().try_for_each(check_metric)?;
        let lines = history.iter().map(line).collect::<String>();
        self.appender = None;
        durable::write(&self.folder.join(METRICS), lines.as_bytes())?;
        self.whole = lines.len() as u64;
        self.points = history.len() as u64;
        self.set_state(Status::Running, None)
    }

    fn sync(&mut self) -> Result<()> {
        match &self.appender {
            None => Ok(()),
            Some(file) => file.sync_data().map_err(at("sync", &self.folder.join(METRICS))),
        }
    }

    fn finish(&mut self, status: Status, end_time_ms: i64) -> Result<()> {
        if status == Status::Running {
            return Err(Error::NotFinal);
        }
        self.sync()?;
        self.set_state(status, Some(end_time_ms))
    }
}

fn line(metric: &Metric) -> String {
    serde_json::to_string(metric).expect("strings and numbers are JSON") + "\n"
}

/// The points of whole lines, and the length of those lines in bytes.
fn read_metrics(path: &Path) -> Result<(Vec<Metric>, u64)> {
    let bytes = fs::read(path).map_err(at("read", path))?;
    let end = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |last| last + 1);
    let (mut history, mut whole) = (Vec::new(), 0);
    for (n, text) in bytes[..end].split_inclusive(|&b| b == b'\n').enumerate() {
        match serde_json::from_slice(text) {
            Ok(metric) => history.push(metric),
            Err(_) if whole + text.len() == bytes.len() => break, // torn in the last write
            Err(error) => {
                let (path, line) = (path.to_path_buf(), Some(n + 1));
                return Err(Error::Damaged { path, line, reason: error.to_string() });
            }
        }
        whole += text.len();
    }
    Ok((history, whole as u64))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).expect("maps of strings are JSON");
    text.push(b'\n');
    Ok(durable::write(path, &text)?)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).map_err(at("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Damaged {
        path: path.to_path_buf(),
        line: Some(error.line()),
        reason: error.to_string(),
    })
}

/// A map that is not there yet is empty.
fn read_map<T: DeserializeOwned>(path: &Path) -> Result<BTreeMap<String, T>> {
    if path.exists() { read_json(path) } else { Ok(BTreeMap::new()) }
}
