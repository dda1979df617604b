//! The run folder's own record: the truth about a run, from which every other tracker is fed.
//!
//! - `run.json`: identity, status, end time
//! - `params.json`, `tags.json`: one object each, replaced as a whole
//! - `metrics.jsonl`: one point per line, in the order logged
//! - `datasets.json`: the data sets the run reads
//! - `artifacts.json`: artifact path → file, relative to the run folder; files from elsewhere are
//!   copied to `artifacts/`, files of the run folder are named where they are
//! - `models.json`: the models the run made, where their folders are, and what they are registered
//!   as; a folder from elsewhere is copied to `models/`
//!
//! Metric lines are appended without waiting for the disk; [`sync`](Tracker::sync), called at each
//! checkpoint, makes them last. Opening a record changes nothing on disk, so a live run can be read
//! by others; a last line torn by a crash is left out, and cut off when the next point is logged.
//! A damaged line before the last is refused with its number.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::error::at;
use crate::facts::{ARTIFACTS, DATASETS, Facts, MODELS, PARAMS, RUN, State, TAGS, write_json};
use crate::history::{self, Undone, line};
use crate::limits::{check_key, check_metric};
use crate::model::RecordedModel;
use crate::system::PREFIX;
use crate::{Dataset, Error, Metric, Model, Result, RunInfo, Status, Tracker, artifact};

/// The record of one run in its folder.
#[derive(Debug)]
pub struct RunRecord {
    folder: PathBuf,
    facts: Facts,
    points: u64,
    /// Bytes of whole lines in `metrics.jsonl`.
    whole: u64,
    /// Open once a point was logged.
    appender: Option<File>,
    undone: Undone,
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
            facts: Facts::new(info),
            points: 0,
            whole: 0,
            appender: None,
            undone: Undone::default(),
        };
        durable::write(&history::path(folder), b"")?;
        write_json(&folder.join(RUN), &record.facts.state)?;
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
        let facts = Facts::read(folder)?;
        let (history, whole) = history::read(&history::path(folder))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            facts,
            points: history.len() as u64,
            whole,
            appender: None,
            undone: Undone::read(folder, &history)?,
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
        &self.facts.state.info
    }

    /// How the run stands. A run whose process died reads as [`Status::Running`].
    #[must_use]
    pub fn status(&self) -> Status {
        self.facts.state.status
    }

    /// When the run finished, if it did.
    #[must_use]
    pub fn end_time_ms(&self) -> Option<i64> {
        self.facts.state.end_time_ms
    }

    /// The parameters by name.
    #[must_use]
    pub fn params(&self) -> &BTreeMap<String, String> {
        &self.facts.params
    }

    /// The tags by name.
    #[must_use]
    pub fn tags(&self) -> &BTreeMap<String, String> {
        &self.facts.tags
    }

    /// The data sets the run reads.
    #[must_use]
    pub fn datasets(&self) -> &[Dataset] {
        &self.facts.datasets
    }

    /// The artifacts: the path each has among the artifacts, and where its file is.
    pub fn artifacts(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        self.facts.artifacts.iter().map(|(path, file)| (path.as_str(), self.folder.join(file)))
    }

    /// The models the run made.
    pub fn models(&self) -> impl Iterator<Item = Model> {
        self.facts.models.iter().map(|(name, model)| Model {
            name: name.clone(),
            folder: self.folder.join(&model.folder),
            registered_name: model.registered_name.clone(),
            alias: model.alias.clone(),
        })
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
        Ok(history::read(&history::path(&self.folder))?.0)
    }

    /// Takes the run up again after its first `position` metric points: later ones are dropped,
    /// but for those of the machine (`system/…`), and the run is running. Gives the history that is
    /// left, for the trackers fed from this record.
    ///
    /// # Errors
    /// [`Error::Position`] if there are fewer points; else what the file system answers.
    pub fn rewind_to(&mut self, position: u64) -> Result<Vec<Metric>> {
        let mut history = self.history()?;
        if position > history.len() as u64 {
            return Err(Error::Position {
                position,
                points: history.len() as u64,
                path: history::path(&self.folder),
            });
        }
        let position = usize::try_from(position).expect("at most the length of a Vec");
        let (of_machine, undone): (Vec<_>, _) =
            history.split_off(position).into_iter().partition(|m| m.key.starts_with(PREFIX));
        history.extend(of_machine);
        self.undone.keep(&self.folder, undone)?;
        self.rewind(&history)?;
        Ok(history)
    }

    /// Points about to be logged; those that a rewind took back, at the time they had.
    pub(crate) fn redone(&mut self, metrics: &[Metric]) -> Vec<Metric> {
        metrics.iter().map(|metric| self.undone.redo(metric)).collect()
    }

    fn appender(&mut self) -> Result<&mut File> {
        let path = history::path(&self.folder);
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
        let state = State { info: self.facts.state.info.clone(), status, end_time_ms };
        write_json(&self.folder.join(RUN), &state)?;
        self.facts.state = state;
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
        let mut all = self.facts.params.clone();
        for (key, new) in params {
            check_key("parameter name", key)?;
            if let Some(old) = all.insert(key.clone(), new.clone()).filter(|old| old != new) {
                return Err(Error::ParamChanged { key: key.clone(), old, new: new.clone(), path });
            }
        }
        if all != self.facts.params {
            write_json(&path, &all)?;
            self.facts.params = all;
        }
        Ok(())
    }

    fn set_tags(&mut self, tags: &[(String, String)]) -> Result<()> {
        let mut all = self.facts.tags.clone();
        for (key, value) in tags {
            check_key("tag name", key)?;
            all.insert(key.clone(), value.clone());
        }
        if all != self.facts.tags {
            write_json(&self.folder.join(TAGS), &all)?;
            self.facts.tags = all;
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
            return Err(at("append to", &history::path(&self.folder))(error));
        }
        self.whole += lines.len() as u64;
        self.points += metrics.len() as u64;
        Ok(())
    }

    fn log_dataset(&mut self, dataset: &Dataset) -> Result<()> {
        dataset.check()?;
        if !self.facts.datasets.contains(dataset) {
            let mut all = self.facts.datasets.clone();
            all.push(dataset.clone());
            write_json(&self.folder.join(DATASETS), &all)?;
            self.facts.datasets = all;
        }
        Ok(())
    }

    fn log_artifact(&mut self, local: &Path, artifact_path: &str) -> Result<()> {
        let mut all = self.facts.artifacts.clone();
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
        if all != self.facts.artifacts {
            write_json(&self.folder.join(ARTIFACTS), &all)?;
            self.facts.artifacts = all;
        }
        Ok(())
    }

    fn log_model(&mut self, model: &Model) -> Result<()> {
        model.check()?;
        let files = artifact::files(&model.folder, "")?;
        let folder = match self.inside(&model.folder) {
            Some(folder) => folder,
            None => {
                let folder = Path::new("models").join(&model.name);
                for (file, path) in files {
                    artifact::copy(&file, &self.folder.join(&folder), &path)?;
                }
                folder
            }
        };
        let mut all = self.facts.models.clone();
        let (registered_name, alias) = (model.registered_name.clone(), model.alias.clone());
        all.insert(model.name.clone(), RecordedModel { folder, registered_name, alias });
        if all != self.facts.models {
            write_json(&self.folder.join(MODELS), &all)?;
            self.facts.models = all;
        }
        Ok(())
    }

    fn rewind(&mut self, history: &[Metric]) -> Result<()> {
        history.iter().try_for_each(check_metric)?;
        let lines = history.iter().map(line).collect::<String>();
        self.appender = None;
        durable::write(&history::path(&self.folder), lines.as_bytes())?;
        self.whole = lines.len() as u64;
        self.points = history.len() as u64;
        self.set_state(Status::Running, None)
    }

    fn sync(&mut self) -> Result<()> {
        match &self.appender {
            None => Ok(()),
            Some(file) => file.sync_data().map_err(at("sync", &history::path(&self.folder))),
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
