//! Experiment tracking in MLflow's formats: runs, parameters, metrics, tags and artifacts.
//!
//! The [`RunRecord`] in the run's own folder is the truth. Any other [`Tracker`] is fed from it by
//! a [`Run`]: the [`FileStore`], which writes the folder layout that MLflow reads, and the
//! [`Server`], which sends the run to an MLflow server in the background. A tracker that fails can
//! neither stop a run nor make its history differ from the record: a file store is left behind with
//! a warning and caught up at the next [`sync`](Tracker::sync); what a server could not be told is
//! sent once it can, by the same process, by one that resumes the run, or by [`sync()`]. [`Client`]
//! is the REST API of MLflow servers itself.
//!
//! Refused: names that MLflow refuses or that would leave their folder, parameters that change,
//! symbolic links among artifacts.
//!
//! ```no_run
//! use std::{path::Path, time::Duration};
//! use tracking::{Connection, Environment, Metric, Placement, Run, RunInfo, RunRecord, Server};
//! use tracking::{Status, Tracker, now_ms, sync};
//!
//! # fn main() -> tracking::Result<()> {
//! let folder = Path::new("runs/clauses-1");
//! // Credentials, certificates and patience as MLflow's own environment variables say.
//! let connection =
//!     Connection::from_environment("http://localhost:5000", &Environment::of_process())?;
//! let placement = Placement::ExperimentName("clauses".into());
//!
//! let mut run = Run::new(RunRecord::create(folder, &RunInfo::new("clauses"))?);
//! let server = Server::start(folder, &connection, &placement, Duration::from_secs(60))?;
//! run.follow("the server", Box::new(server))?;
//! run.log_params(&[("lr".into(), "0.001".into())])?;
//! // Written to the folder; never waits for the server.
//! run.log_metrics(&[Metric { key: "loss".into(), value: 0.5, timestamp_ms: now_ms(), step: 1 }])?;
//! run.finish(Status::Finished, now_ms())?; // waits for the server, up to a minute
//! if run.is_behind() {
//!     // Later, when the server can be reached again:
//!     let there = sync(folder, &connection, &placement, false)?;
//!     println!("run {} has all {} points", there.run_id, there.points);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A file store, and a run that is taken up again after its process died:
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
pub mod azure;
mod dataset;
mod error;
mod facts;
mod feed;
mod file_store;
mod git;
mod history;
mod inputs;
mod limits;
mod meta;
mod model;
mod point;
mod record;
mod run;
mod server;
mod system;
mod tags;
mod uri;

use std::path::Path;

pub use dataset::Dataset;
pub use error::{Error, Result};
pub use feed::Run;
pub use file_store::FileStore;
pub use limits::{MAX_EXPERIMENT_LENGTH, MAX_KEY_LENGTH, MAX_PARAM_LENGTH, MAX_TAG_LENGTH};
pub use model::Model;
pub use record::RunRecord;
pub use run::{Metric, RunInfo, Status, new_run_id, new_run_name, now_ms};
pub use server::{
    ArtifactInfo, Batch, Client, Connection, Credentials, DatasetInput, Environment, Experiment,
    LoggedModel, ModelOutput, ModelVersion, Multipart, NewLoggedModel, NewModelVersion, NewRun,
    Pair, Placement, Retry, Secret, Server, ServerDataset, ServerInfo, ServerRun, ServerRunData,
    ServerRunInfo, ServerRunInputs, ServerRunOutputs, Synced, Tls, check_server, check_workspace,
    is_server, page, sync, without_user,
};
pub use system::SystemMetrics;
pub use tags::standard_tags;
pub use uri::{absolute_uri, check_uri};

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

    /// Names a data set that the run reads. One named again changes nothing.
    ///
    /// # Errors
    /// A text longer than MLflow's tables hold; else what the place it is kept in answers.
    fn log_dataset(&mut self, dataset: &Dataset) -> Result<()>;

    /// Keeps a file as an artifact below the folder `artifact_path` ("" is the root), or each file
    /// of a folder. A symbolic link given as `local` is followed; one found in a folder is refused.
    ///
    /// # Errors
    /// A path that would leave the artifact folder, a symbolic link; else what the place it is kept
    /// in answers.
    fn log_artifact(&mut self, local: &Path, artifact_path: &str) -> Result<()>;

    /// Keeps a model that the run made. One logged again under its name takes the place of the one
    /// before.
    ///
    /// # Errors
    /// A name that MLflow would refuse, a folder without `MLmodel`, a symbolic link in it; else what
    /// the place it is kept in answers.
    fn log_model(&mut self, model: &Model) -> Result<()>;

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
