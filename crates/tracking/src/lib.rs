//! Experiment tracking in MLflow's formats: runs, parameters, metrics, tags and artifacts.
//!
//! The [`RunRecord`] in the run's own folder is the truth. Any other [`Tracker`] is fed from it by
//! a [`Run`]: now the [`FileStore`], which writes the folder layout that MLflow reads. A tracker
//! that fails is left behind with a warning and caught up at the next [`sync`](Tracker::sync): it
//! can neither stop a run nor make its history differ from the record.
//!
//! Refused: names that MLflow refuses or that would leave their folder, parameters that change,
//! symbolic links among artifacts. [`Client`] speaks the REST API of MLflow servers, but no tracker
//! feeds one yet.
//!
//! ```
//! use tracking::{FileStore, Metric, Run, RunInfo, RunRecord, Status, Tracker, now_ms};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let place = tempfile::tempdir()?;
//! # let (folder, store) = (place.path().join("run"), place.path().join("mlruns"));
//! # let store = store.to_str().ok_or("path")?;
//! let info = RunInfo::new("clauses");
//! let mut run = Run::new(RunRecord::create(&folder, &info)?);
//! run.follow(store, Box::new(FileStore::open_uri(store, &info)?))?;
//!
//! run.log_params(&[("lr".into(), "0.001".into())])?;
//! for step in 0..3 {
//!     let value = 1.0 / (step + 1) as f64;
//!     run.log_metrics(&[Metric { key: "loss".into(), value, timestamp_ms: now_ms(), step }])?;
//! }
//! run.sync()?; // at a checkpoint, which stores the position
//! let position = run.record().position();
//! drop(run); // the process dies here …
//!
//! let mut run = Run::new(RunRecord::open(&folder)?);
//! run.follow(store, Box::new(FileStore::open_uri(store, &info)?))?;
//! run.rewind_to(position)?; // … and another one goes on from the checkpoint
//! run.finish(Status::Finished, now_ms())?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod artifact;
mod dataset;
mod error;
mod feed;
mod file_store;
mod git;
mod limits;
mod meta;
mod point;
mod record;
mod run;
mod server;
mod tags;
mod uri;

use std::path::Path;

pub use dataset::Dataset;
pub use error::{Error, Result};
pub use feed::Run;
pub use file_store::FileStore;
pub use limits::{MAX_EXPERIMENT_LENGTH, MAX_KEY_LENGTH, MAX_PARAM_LENGTH, MAX_TAG_LENGTH};
pub use record::RunRecord;
pub use run::{Metric, RunInfo, Status, new_run_id, new_run_name, now_ms};
pub use server::{
    ArtifactInfo, Batch, Client, Connection, Credentials, DatasetInput, Environment, Experiment,
    LoggedModel, ModelVersion, Multipart, NewLoggedModel, NewModelVersion, NewRun, Pair, Retry,
    Secret, ServerDataset, ServerInfo, ServerRun, ServerRunData, ServerRunInfo, ServerRunInputs,
    Tls, is_server,
};
pub use tags::standard_tags;
pub use uri::check_uri;

/// Something that keeps what a run reports. Every call can be repeated without harm, except
/// [`log_metrics`](Tracker::log_metrics), which adds points.
pub trait Tracker: Send {
    /// Logs parameters by name. Logging one again with the same value changes nothing.
    ///
    /// # Errors
    /// [`Error::ParamChanged`] for another value, [`Error::Name`] or [`Error::TooLong`] for a name
    /// that MLflow would refuse; else what the place it is kept in answers.
    fn log_params(&mut self, params: &[(String, String)]) -> Result<()>;

    /// Sets tags by name; a tag set before is replaced.
    ///
    /// # Errors
    /// A name that MLflow would refuse; else what the place it is kept in answers.
    fn set_tags(&mut self, tags: &[(String, String)]) -> Result<()>;

    /// Appends metric points to the history. Returns before they are safe; see
    /// [`sync`](Tracker::sync).
    ///
    /// # Errors
    /// A name or timestamp that MLflow would refuse, before anything is written; else what the
    /// place it is kept in answers.
    fn log_metrics(&mut self, metrics: &[Metric]) -> Result<()>;

    /// Keeps a file as an artifact below the folder `artifact_path` ("" is the root), or each file
    /// of a folder. A symbolic link given as `local` is followed; one found in a folder is refused.
    ///
    /// # Errors
    /// A path that would leave the artifact folder, a symbolic link; else what the place it is kept
    /// in answers.
    fn log_artifact(&mut self, local: &Path, artifact_path: &str) -> Result<()>;

    /// Makes `history` the whole history of metrics and the run a running one: how a resumed run
    /// starts, after which it equals one that was never interrupted.
    ///
    /// # Errors
    /// As for [`log_metrics`](Tracker::log_metrics).
    fn rewind(&mut self, history: &[Metric]) -> Result<()>;

    /// Returns once everything logged so far survives a crash of the machine.
    ///
    /// # Errors
    /// What the place it is kept in answers.
    fn sync(&mut self) -> Result<()>;

    /// Syncs and closes the run with its final status.
    ///
    /// # Errors
    /// [`Error::NotFinal`] for [`Status::Running`]; else what the place it is kept in answers.
    fn finish(&mut self, status: Status, end_time_ms: i64) -> Result<()>;
}
