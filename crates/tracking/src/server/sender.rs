//! Sends what the record of a run has and a server has not: the work of the background thread and
//! of [`sync`](super::sync).
//!
//! The record's files are what is sent from, so nothing is lost when a process dies, and everything
//! is sent such that a repetition changes nothing: metrics with the times they were measured at,
//! parameters with the values they have, files to the place they are at. Only what would be created
//! twice is looked for first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::client::{is_absent_resource, is_unknown_call};
use super::progress::{Progress, RunOnServer, Stamp};
use super::wire::{Batch, NewRun, Pair, ServerRun};
use super::{Client, Connection, Placement};
use crate::error::Failure;
use crate::facts::Facts;
use crate::history::{self, Undone};
use crate::limits::{MAX_PARAM_LENGTH, MAX_TAG_LENGTH, cut, of_workspace};
use crate::{Error, Metric, Result, Status};

/// The most metric points of a request, and of parameters or tags.
const MOST_METRICS: usize = 1000;
const MOST_PAIRS: usize = 100;
/// The tag by which a run is found again: our own id of it.
pub(super) const OWN_ID: &str = "ferrotune.run_id";
/// Tags that say who made a run, and as what: those of a run that somebody else made stay.
const OF_MAKER: [&str; 2] = ["mlflow.runName", "mlflow.user"];

/// One run folder and the server it is sent to.
pub(super) struct Sender {
    pub folder: PathBuf,
    pub client: Client,
    pub progress: Progress,
    /// Counts what the server took, for who waits for it.
    pub taken: Arc<AtomicU64>,
    truncate: bool,
    /// Whether the server is a workspace of Azure ML.
    pub in_workspace: bool,
    /// The run whose status a service sets.
    job: Option<String>,
    /// What the server refused for good, which is not sent again; nothing else waits for it.
    refused: BTreeMap<&'static str, Error>,
}

impl Sender {
    pub fn new(folder: &Path, connection: &Connection, placement: &Placement) -> Result<Self> {
        let folder = std::path::absolute(folder).map_err(crate::error::at("find", folder))?;
        let progress = Progress::open(&folder, &connection.to_string(), placement)?;
        Ok(Self {
            client: Client::new(connection)?,
            progress,
            taken: Arc::default(),
            truncate: connection.truncate_long_values,
            in_workspace: connection.address.workspace().is_some(),
            job: connection.job.clone(),
            refused: BTreeMap::new(),
            folder,
        })
    }

    /// Makes sure that the server is there, takes our credentials and has the experiment. A run
    /// that someone deleted there is left alone: the record will be sent as a new one.
    pub fn contact(&mut self) -> Result<()> {
        if let Some(run) = &self.progress.run {
            match self.client.run(&run.run_id) {
                Ok(found) if found.info.lifecycle_stage != "deleted" => return Ok(()),
                Ok(_) => {}
                Err(error) if is_absent_resource(&error) => {}
                Err(error) => return Err(error),
            }
            tracing::warn!(
                "run {} was deleted on {}; it is sent as a new one",
                run.run_id,
                self.progress.address
            );
            self.progress = Progress::new(&self.progress.address, &self.progress.placement);
        }
        self.experiment()?;
        Ok(())
    }

    /// Sends everything there is. What was refused for good holds nothing else up and is told by
    /// [`refusals`](Self::refusals); any other error ends the pass.
    pub fn pass(&mut self) -> Result<()> {
        let facts = Facts::read(&self.folder)?;
        let before = self.progress.clone();
        let sent = self.run(&facts).and_then(|run| self.send_all(&facts, &run));
        if self.progress != before {
            self.taken.fetch_add(1, Ordering::Relaxed);
            self.progress.save(&self.folder)?;
        }
        sent
    }

    fn send_all(&mut self, facts: &Facts, run: &RunOnServer) -> Result<()> {
        if facts.state.end_time_ms.is_none() {
            self.part("status", |sender| sender.status(facts, run))?;
        }
        self.part("parameters", |sender| sender.params(facts, run))?;
        self.part("tags", |sender| sender.tags(facts, run))?;
        self.part("data sets", |sender| sender.datasets(facts, run))?;
        self.part("metrics", |sender| sender.metrics(run))?;
        self.part("artifacts", |sender| sender.artifacts(facts, run))?;
        self.part("models", |sender| sender.models(facts, run))?;
        if facts.state.end_time_ms.is_some() {
            if self.progress.sent.status != Some(facts.status()) {
                self.part("history", |sender| sender.nothing_undone())?;
                self.part("status", |sender| sender.status(facts, run))?;
            }
            self.remove_twins(&facts.state.info.run_id, run)?;
        }
        Ok(())
    }

    /// What the server refused for good, by what it is.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, &Error)> {
        self.refused.iter().map(|(part, error)| (*part, error))
    }

    /// The same, to be told by the caller.
    pub fn take_refusals(&mut self) -> BTreeMap<&'static str, Error> {
        std::mem::take(&mut self.refused)
    }

    fn part(
        &mut self,
        name: &'static str,
        send: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        if self.refused.contains_key(name) {
            return Ok(());
        }
        match send(self) {
            Err(error) if is_for_good(&error) => {
                tracing::warn!("{} does not take the {name}: {error}", self.progress.address);
                self.refused.insert(name, error);
                Ok(())
            }
            sent => sent,
        }
    }

    fn experiment(&mut self) -> Result<String> {
        if let Some(id) = &self.progress.experiment_id {
            return Ok(id.clone());
        }
        let id = self.progress.placement.find(&self.client)?;
        self.progress.experiment_id = Some(id.clone());
        self.progress.save(&self.folder)?;
        Ok(id)
    }

    /// The run on the server: the known one, the one that somebody made for us, one that an answer we
    /// never got created, a new one.
    fn run(&mut self, facts: &Facts) -> Result<RunOnServer> {
        if let Some(run) = &self.progress.run {
            return Ok(run.clone());
        }
        let experiment_id = self.experiment()?;
        let info = &facts.state.info;
        if let Some(id) = self.progress.placement.run() {
            let theirs = self.client.run(id)?;
            if theirs.tag(OWN_ID).is_some_and(|own| own != info.run_id) {
                tracing::warn!("run {id} has the points of another run as well");
            }
            self.client.set_tag(id, &Pair::new(OWN_ID, &info.run_id))?;
            return self.keep(theirs);
        }
        let replaced = self.progress.replaces.clone();
        let found = self
            .client
            .runs_with_tag(&experiment_id, OWN_ID, &info.run_id)?
            .into_iter()
            .filter(|run| Some(&run.info.run_id) != replaced.as_ref())
            .min_by(|a, b| a.info.run_id.cmp(&b.info.run_id));
        let run = match found {
            Some(found) => found,
            None => {
                let created = self.client.create_run(&NewRun {
                    experiment_id: &experiment_id,
                    user_id: &info.user,
                    run_name: &info.run_name,
                    start_time: info.start_time_ms,
                    tags: vec![
                        Pair::new(OWN_ID, &info.run_id),
                        Pair::new("mlflow.user", &info.user),
                        Pair::new("mlflow.runName", &info.run_name),
                    ],
                });
                if created.as_ref().is_err_and(may_be_done) {
                    self.progress.perhaps_twice = true;
                    self.progress.save(&self.folder)?;
                }
                created?
            }
        };
        self.keep(run)
    }

    /// Deletes what late requests of ours created beside the run, its models and their versions. A server
    /// that does not let us has everything all the same.
    fn remove_twins(&self, own_id: &str, run: &RunOnServer) -> Result<()> {
        let of_run = self.remove_twins_of_run(own_id, run);
        match of_run.and_then(|()| self.remove_twins_of_models(own_id, run)) {
            Err(error) if is_for_good(&error) => {
                let address = &self.progress.address;
                tracing::warn!("{address} may have something of the run twice: {error}");
                Ok(())
            }
            removed => removed,
        }
    }

    /// Nothing was logged to such a run; it goes to the server's trash.
    fn remove_twins_of_run(&self, own_id: &str, run: &RunOnServer) -> Result<()> {
        let experiment_id = self.progress.experiment_id.as_ref();
        let Some(experiment_id) = experiment_id.filter(|_| self.progress.perhaps_twice) else {
            return Ok(());
        };
        for twin in self.client.runs_with_tag(experiment_id, OWN_ID, own_id)? {
            let empty = twin.data.metrics.is_empty() && twin.data.params.is_empty();
            if empty && twin.info.run_id != run.run_id {
                self.client.delete_run(&twin.info.run_id)?;
            }
        }
        Ok(())
    }

    fn keep(&mut self, ServerRun { info, .. }: ServerRun) -> Result<RunOnServer> {
        let run = RunOnServer { run_id: info.run_id, artifact_uri: info.artifact_uri };
        self.progress.run = Some(run.clone());
        self.progress.save(&self.folder)?;
        Ok(run)
    }

    /// A run that goes on is running there as well, whatever an earlier process reported.
    fn status(&mut self, facts: &Facts, run: &RunOnServer) -> Result<()> {
        let status = facts.status();
        let made_by_us = self.progress.placement.run().is_none();
        let new_run =
            made_by_us && self.progress.sent.status.is_none() && status.0 == Status::Running;
        let ours = self.job.as_ref() != Some(&run.run_id);
        if self.progress.sent.status != Some(status) {
            if ours && (!new_run || facts.state.end_time_ms.is_some()) {
                self.client.update_run(&run.run_id, status.0, status.1)?;
            }
            self.progress.sent.status = Some(status);
        }
        Ok(())
    }

    fn params(&mut self, facts: &Facts, run: &RunOnServer) -> Result<()> {
        let news = self.news(&facts.params, &self.progress.sent.params);
        for some in news.chunks(MOST_PAIRS) {
            let params = self.pairs("parameter", some, MAX_PARAM_LENGTH);
            self.client.log_batch(&run.run_id, &Batch { params, ..Batch::default() })?;
            self.progress.sent.params.extend(some.iter().cloned());
        }
        Ok(())
    }

    fn tags(&mut self, facts: &Facts, run: &RunOnServer) -> Result<()> {
        let mut news = self.news(&facts.tags, &self.progress.sent.tags);
        let made_by_us = self.progress.placement.run().is_none();
        news.retain(|(key, _)| made_by_us || !OF_MAKER.contains(&key.as_str()));
        let mut limit = MAX_TAG_LENGTH;
        if self.in_workspace {
            limit = of_workspace::MAX_TAG_LENGTH;
            let longest = of_workspace::MAX_TAG_KEY_LENGTH;
            news.retain(|(key, value)| {
                let fits = key.chars().count() <= longest;
                if !fits {
                    tracing::warn!(
                        "a workspace takes no tag of more than {longest} characters: {key:?}"
                    );
                    self.progress.sent.tags.insert(key.clone(), value.clone());
                }
                fits
            });
        }
        for some in news.chunks(MOST_PAIRS) {
            let tags = self.pairs("tag", some, limit);
            self.client.log_batch(&run.run_id, &Batch { tags, ..Batch::default() })?;
            self.progress.sent.tags.extend(some.iter().cloned());
        }
        Ok(())
    }

    fn news(
        &self,
        all: &BTreeMap<String, String>,
        sent: &BTreeMap<String, String>,
    ) -> Vec<(String, String)> {
        let new = |(key, value): &(&String, &String)| sent.get(*key) != Some(value);
        all.iter().filter(new).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn pairs(&self, kind: &str, some: &[(String, String)], limit: usize) -> Vec<Pair> {
        let limit = if self.truncate { limit } else { usize::MAX };
        some.iter().map(|(key, value)| Pair::new(key, cut(kind, key, value, limit))).collect()
    }

    fn datasets(&mut self, facts: &Facts, run: &RunOnServer) -> Result<()> {
        let new = |dataset: &&_| !self.progress.sent.datasets.contains(dataset);
        let news: Vec<_> = facts.datasets.iter().filter(new).cloned().collect();
        if !news.is_empty() {
            match self.client.log_inputs(&run.run_id, &news) {
                Err(error) if is_unknown_call(&error) => {
                    tracing::warn!("{} keeps no data sets", self.progress.address);
                }
                answer => answer?,
            }
            self.progress.sent.datasets.extend(news);
        }
        Ok(())
    }

    fn metrics(&mut self, run: &RunOnServer) -> Result<()> {
        let path = history::path(&self.folder);
        let most = if self.in_workspace { of_workspace::MOST_METRICS } else { MOST_METRICS };
        loop {
            let (metrics, place) = history::after(&path, &self.progress.sent.metrics, most)?;
            if metrics.is_empty() {
                return Ok(());
            }
            self.log_metrics(&run.run_id, metrics)?;
            self.progress.sent.metrics = place;
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An earlier process may have sent points that were then taken back and came out otherwise
    /// when they were computed again.
    fn nothing_undone(&self) -> Result<()> {
        let (history, _) = history::read(&history::path(&self.folder))?;
        if Undone::read(&self.folder, &history)?.is_empty() {
            return Ok(());
        }
        super::sync::compare(self)
    }

    /// To MLflow 2 a NaN is never the NaN it has, and a batch with one that it has is refused.
    fn log_metrics(&self, run_id: &str, mut metrics: Vec<Metric>) -> Result<()> {
        let batch = |metrics: &[Metric]| Batch { metrics: metrics.to_vec(), ..Batch::default() };
        let error = match self.client.log_batch(run_id, &batch(&metrics)) {
            Err(error) if matches!(error, Error::Refused { status: 400, .. }) => error,
            answer => return answer,
        };
        let keys: BTreeSet<_> =
            metrics.iter().filter(|m| m.value.is_nan()).map(|m| m.key.clone()).collect();
        let mut there = Vec::new();
        for key in &keys {
            there.extend(self.client.metric_history(run_id, key)?);
        }
        let all = metrics.len();
        metrics.retain(|metric| !metric.value.is_nan() || !there.contains(metric));
        if metrics.len() == all {
            return Err(error);
        }
        self.client.log_batch(run_id, &batch(&metrics))
    }

    fn artifacts(&mut self, facts: &Facts, run: &RunOnServer) -> Result<()> {
        for (path, file) in &facts.artifacts {
            let file = self.folder.join(file);
            let stamp = Stamp::of(&file)?;
            if self.progress.sent.artifacts.get(path) != Some(&stamp) {
                self.client.upload_artifact(&run.artifact_uri, path, &file)?;
                self.progress.sent.artifacts.insert(path.clone(), stamp);
                self.taken.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// Whether what was asked for may be carried out all the same, now or later.
pub(super) fn may_be_done(error: &Error) -> bool {
    error.failure() == Failure::Unknown
}

/// Another try will not help, nor will other credentials where these are known (403).
fn is_for_good(error: &Error) -> bool {
    error.failure() == Failure::Final || matches!(error, Error::Refused { status: 403, .. })
}
