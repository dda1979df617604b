//! A run in MLflow's file store, the folder that `mlflow ui` and `MlflowClient` read (they ask for
//! `MLFLOW_ALLOW_FILE_STORE=true`) and that `mlflow migrate-filestore` moves into a database.
//!
//! ```text
//! ROOT/0/meta.yaml                       the experiment "Default"
//! ROOT/<18 digits>/meta.yaml             any other experiment, found by its name
//!                 /<run id>/meta.yaml    identity, status, end time
//!                          /metrics/KEY  "timestamp value step", one line per point
//!                          /params/KEY, tags/KEY   the bare value
//!                          /artifacts/
//! ```
//!
//! Mirrors `mlflow/store/tracking/file_store.py` of MLflow 3.17. A slash in a key makes a folder,
//! so `a` and `a/b` cannot both be metrics of one run. Refused: an experiment in the store's trash,
//! artifacts of an experiment whose location is not a local folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use crate::error::at;
use crate::limits::{MAX_PARAM_LENGTH, MAX_TAG_LENGTH, check_key, check_metric, cut};
use crate::meta::{ExperimentMeta, RunMeta, status_number};
use crate::run::check_run_id;
use crate::uri::{file_uri, local_folder};
use crate::{
    Dataset, Error, Metric, Model, Result, RunInfo, Status, Tracker, artifact, inputs, now_ms,
};

const META: &str = "meta.yaml";
const TRASH: &str = ".trash";
const RUN_NAME_TAG: &str = "mlflow.runName";

/// One run in an MLflow file store.
#[derive(Debug)]
pub struct FileStore {
    folder: PathBuf,
    experiment_id: String,
    meta: RunMeta,
    /// Metric files with lines that may not be on disk yet.
    unsynced: BTreeSet<PathBuf>,
}

impl FileStore {
    /// Opens the run in the store that `uri` names (a path, or `file:` with one), or creates it
    /// there: right for a new run and for a resumed one.
    ///
    /// # Errors
    /// [`Error::Uri`] if it names no local folder; else as for [`create`](Self::create).
    pub fn open_uri(uri: &str, info: &RunInfo) -> Result<Self> {
        let root = local_folder(uri)?;
        match Self::open(&root, &info.run_id) {
            Err(Error::NoRun { .. }) => Self::create(&root, info),
            opened => opened,
        }
    }

    /// Creates the run in the store at `root`, and the store and the experiment if need be.
    ///
    /// # Errors
    /// [`Error::RunExists`], [`Error::DeletedExperiment`], an identity that MLflow would refuse;
    /// else what the file system answers.
    pub fn create(root: &Path, info: &RunInfo) -> Result<Self> {
        info.check()?;
        let root = std::path::absolute(root).map_err(at("find", root))?;
        durable::create_folder(&root.join(TRASH))?;
        if !root.join("0").exists() {
            new_experiment(&root, "0", "Default", info.start_time_ms)?;
        }
        let (experiment_id, location) = match find_experiment(&root, &info.experiment_name)? {
            Some(found) => found,
            None => {
                let id = new_experiment_id();
                let location =
                    new_experiment(&root, &id, &info.experiment_name, info.start_time_ms)?;
                (id, location)
            }
        };
        let folder = root.join(&experiment_id).join(&info.run_id);
        if folder.join(META).exists() {
            return Err(Error::RunExists(folder));
        }
        for part in ["metrics", "params", "tags", "artifacts"] {
            durable::create_folder(&folder.join(part))?;
        }
        let artifact_uri = format!("{}/{}/artifacts", location.trim_end_matches('/'), info.run_id);
        let meta = RunMeta::new(info, artifact_uri);
        let mut store = Self { folder, experiment_id, meta, unsynced: BTreeSet::new() };
        store.write_meta()?;
        store.set_tags(&[(RUN_NAME_TAG.to_owned(), info.run_name.clone())])?;
        Ok(store)
    }

    /// Opens a run that is in the store at `root`.
    ///
    /// # Errors
    /// [`Error::NoRun`] if it is not there; else a damaged file or what the file system answers.
    pub fn open(root: &Path, run_id: &str) -> Result<Self> {
        check_run_id(run_id)?;
        let root = std::path::absolute(root).map_err(at("find", root))?;
        let experiments = if root.exists() { folders(&root)? } else { Vec::new() };
        let Some((experiment_id, folder)) = experiments
            .into_iter()
            .map(|(id, path)| (id, path.join(run_id)))
            .find(|(_, path)| path.join(META).exists())
        else {
            return Err(Error::NoRun { run_id: run_id.to_owned(), store: root });
        };
        let meta = RunMeta::read(&folder.join(META))?;
        if meta.run_id != run_id {
            let reason = format!("is of run {:?}, not of the folder's", meta.run_id);
            return Err(Error::Damaged { path: folder.join(META), line: None, reason });
        }
        let store = Self { folder, experiment_id, meta, unsynced: BTreeSet::new() };
        store.remove_leftovers()?;
        Ok(store)
    }

    /// The run's folder in the store.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn write_meta(&self) -> Result<()> {
        let yaml = self.meta.yaml(&self.experiment_id);
        Ok(durable::write(&self.folder.join(META), yaml.as_bytes())?)
    }

    fn set_status(&mut self, status: Status, end_time_ms: Option<i64>) -> Result<()> {
        let (old, new) =
            ((self.meta.status, self.meta.end_time), (status_number(status), end_time_ms));
        (self.meta.status, self.meta.end_time) = new;
        if old == new { Ok(()) } else { self.write_meta() }
    }

    /// Temporary files of a process that was killed; MLflow would read them as metrics and params.
    fn remove_leftovers(&self) -> Result<()> {
        for part in ["metrics", "params", "tags"] {
            for file in files_below(&self.folder.join(part))? {
                let name = file.file_name().unwrap_or_default().as_encoded_bytes();
                if name.starts_with(b".tmp-") && name.len() == 11 {
                    fs::remove_file(&file).map_err(at("remove", &file))?;
                }
            }
        }
        Ok(())
    }
}

impl Tracker for FileStore {
    fn log_params(&mut self, params: &[(String, String)]) -> Result<()> {
        params.iter().try_for_each(|(key, _)| check_key("parameter name", key))?;
        for (key, value) in params {
            let path = self.folder.join("params").join(key);
            let new = cut("parameter", key, value, MAX_PARAM_LENGTH);
            match fs::read_to_string(&path) {
                Ok(old) if old == new => {}
                Ok(old) => {
                    let (key, new) = (key.clone(), new.to_owned());
                    return Err(Error::ParamChanged { key, old, new, path });
                }
                Err(error) if error.kind() == ErrorKind::NotFound => write_value(&path, new)?,
                Err(error) => return Err(at("read", &path)(error)),
            }
        }
        Ok(())
    }

    fn set_tags(&mut self, tags: &[(String, String)]) -> Result<()> {
        tags.iter().try_for_each(|(key, _)| check_key("tag name", key))?;
        for (key, value) in tags {
            let value = cut("tag", key, value, MAX_TAG_LENGTH);
            let path = self.folder.join("tags").join(key);
            // A resumed run sets its tags again; most are as they were.
            if fs::read(&path).is_ok_and(|old| old == value.as_bytes()) {
                continue;
            }
            write_value(&path, value)?;
            // MLflow keeps the name in both places.
            if key == RUN_NAME_TAG && value != self.meta.run_name {
                self.meta.run_name = value.to_owned();
                self.write_meta()?;
            }
        }
        Ok(())
    }

    fn log_metrics(&mut self, metrics: &[Metric]) -> Result<()> {
        metrics.iter().try_for_each(check_metric)?;
        for (key, lines) in lines_by_key(metrics) {
            let path = self.folder.join("metrics").join(key);
            if key.contains('/') {
                durable::create_folder(path.parent().unwrap_or(&self.folder))?;
            }
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .and_then(|mut file| file.write_all(lines.as_bytes()))
                .map_err(at("append to", &path))?;
            self.unsynced.insert(path);
        }
        Ok(())
    }

    fn log_dataset(&mut self, dataset: &Dataset) -> Result<()> {
        dataset.check()?;
        inputs::write(&self.folder, &self.meta.run_id, dataset)
    }

    fn log_artifact(&mut self, local: &Path, artifact_path: &str) -> Result<()> {
        let uri = &self.meta.artifact_uri;
        let root = local_folder(uri).map_err(|_| Error::RemoteArtifacts { uri: uri.clone() })?;
        for (file, path) in artifact::files(local, artifact_path)? {
            artifact::copy(&file, &root, &path)?;
        }
        Ok(())
    }

    /// Among the run's artifacts, where `runs:/RUN/NAME` finds it. There is no registry.
    fn log_model(&mut self, model: &Model) -> Result<()> {
        model.check()?;
        if let Some(name) = &model.registered_name {
            tracing::warn!("a file store registers no models: {name:?} is not registered there");
        }
        self.log_artifact(&model.folder, &model.name)
    }

    fn rewind(&mut self, history: &[Metric]) -> Result<()> {
        history.iter().try_for_each(check_metric)?;
        let metrics = self.folder.join("metrics");
        let mut stale: BTreeSet<_> = files_below(&metrics)?.into_iter().collect();
        let kept: Vec<_> =
            lines_by_key(history).into_iter().map(|(k, v)| (metrics.join(k), v)).collect();
        for (path, _) in &kept {
            stale.remove(path);
        }
        for path in stale {
            fs::remove_file(&path).map_err(at("remove", &path))?;
        }
        for (path, lines) in kept {
            write_value(&path, &lines)?;
        }
        self.unsynced.clear();
        self.set_status(Status::Running, None)
    }

    fn sync(&mut self) -> Result<()> {
        while let Some(path) = self.unsynced.first() {
            fs::File::open(path).and_then(|file| file.sync_all()).map_err(at("sync", path))?;
            self.unsynced.pop_first();
        }
        Ok(())
    }

    fn finish(&mut self, status: Status, end_time_ms: i64) -> Result<()> {
        if status == Status::Running {
            return Err(Error::NotFinal);
        }
        self.sync()?;
        self.set_status(status, Some(end_time_ms))
    }
}

/// The experiment of this name, if the store has it: its id and artifact location.
fn find_experiment(root: &Path, name: &str) -> Result<Option<(String, String)>> {
    for place in [root.to_path_buf(), root.join(TRASH)] {
        for (id, folder) in folders(&place)? {
            let path = folder.join(META);
            if !path.exists() {
                continue;
            }
            match ExperimentMeta::read(&path) {
                Ok(found) if found.name != name => {}
                Ok(found) if found.lifecycle_stage == "active" => {
                    return Ok(Some((id, found.artifact_location)));
                }
                Ok(_) => {
                    return Err(Error::DeletedExperiment { name: name.to_owned(), path: folder });
                }
                // MLflow passes over it as well.
                Err(error) => tracing::warn!("experiment passed over: {error}"),
            }
        }
    }
    Ok(None)
}

/// Writes a new experiment and gives its artifact location.
fn new_experiment(root: &Path, id: &str, name: &str, start_ms: i64) -> Result<String> {
    let folder = root.join(id);
    durable::create_folder(&folder)?;
    let meta = ExperimentMeta {
        name: name.to_owned(),
        artifact_location: file_uri(&folder),
        lifecycle_stage: "active".to_owned(),
    };
    // Made no later than the run, whose clock may not be ours.
    let created_ms = now_ms().min(start_ms);
    durable::write(&folder.join(META), meta.yaml(id, created_ms).as_bytes())?;
    Ok(meta.artifact_location)
}

/// 18 digits, the first not zero.
fn new_experiment_id() -> String {
    const LOWEST: u64 = 100_000_000_000_000_000;
    (LOWEST + rand::random::<u64>() % (9 * LOWEST)).to_string()
}

/// The folders directly in `place` that may be experiments, in a fixed order.
fn folders(place: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(place).map_err(at("list", place))? {
        let path = entry.map_err(at("list", place))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // `models` is MLflow's model registry.
        if path.is_dir() && !["", TRASH, "models"].contains(&name) {
            found.push((name.to_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(at("list", folder))? {
        let entry = entry.map_err(at("list", folder))?;
        if entry.file_type().map_err(at("read", folder))?.is_dir() {
            found.extend(files_below(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn write_value(path: &Path, value: &str) -> Result<()> {
    durable::create_folder(path.parent().unwrap_or(path))?;
    Ok(durable::write(path, value.as_bytes())?)
}

fn lines_by_key(metrics: &[Metric]) -> BTreeMap<&str, String> {
    let mut lines = BTreeMap::<&str, String>::new();
    for metric in metrics {
        let line = lines.entry(&metric.key).or_default();
        // The debug form is the shortest that reads back as the same bits, in Python as well.
        let value =
            if metric.value.is_nan() { "nan".into() } else { format!("{:?}", metric.value) };
        writeln!(line, "{} {value} {}", metric.timestamp_ms, metric.step)
            .expect("a String takes all");
    }
    lines
}
