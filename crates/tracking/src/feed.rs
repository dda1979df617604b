//! A run as the training loop sees it: its record, and the trackers fed from the record.
//!
//! The record decides: its errors are the caller's. A follower's errors are warnings; it is then
//! behind, gets nothing more until the next sync, and is brought to the record's state there.

use std::path::Path;

use crate::{Dataset, Metric, Model, Result, RunRecord, Status, Tracker};

/// A run's record together with the trackers that follow it.
pub struct Run {
    record: RunRecord,
    followers: Vec<Follower>,
}

struct Follower {
    name: String,
    tracker: Box<dyn Tracker>,
    behind: bool,
}

impl Run {
    /// A run that is only recorded in its folder.
    #[must_use]
    pub fn new(record: RunRecord) -> Self {
        Self { record, followers: Vec::new() }
    }

    /// Brings `tracker` to the record's state and feeds it from now on; `name` is what warnings
    /// call it.
    ///
    /// # Errors
    /// Whatever `tracker` answers while it catches up: what cannot be reached at the start is an
    /// error, later only a warning.
    pub fn follow(&mut self, name: &str, mut tracker: Box<dyn Tracker>) -> Result<()> {
        catch_up(&self.record, &mut *tracker)?;
        self.followers.push(Follower { name: name.to_owned(), tracker, behind: false });
        Ok(())
    }

    /// The record, to read.
    #[must_use]
    pub fn record(&self) -> &RunRecord {
        &self.record
    }

    /// Takes the run up again after its first `position` metric points; see
    /// [`RunRecord::rewind_to`].
    ///
    /// # Errors
    /// As for the record.
    pub fn rewind_to(&mut self, position: u64) -> Result<()> {
        let history = self.record.rewind_to(position)?;
        self.feed(|tracker| tracker.rewind(&history));
        Ok(())
    }

    /// Whether a tracker lacks something that the record has, so far as is known.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.followers.iter().any(|follower| follower.behind)
    }

    fn feed(&mut self, give: impl Fn(&mut dyn Tracker) -> Result<()>) {
        for follower in self.followers.iter_mut().filter(|follower| !follower.behind) {
            if let Err(error) = give(&mut *follower.tracker) {
                tracing::warn!("{} is behind until the next checkpoint: {error}", follower.name);
                follower.behind = true;
            }
        }
    }
}

impl Tracker for Run {
    fn log_params(&mut self, params: &[(String, String)]) -> Result<()> {
        self.record.log_params(params)?;
        self.feed(|tracker| tracker.log_params(params));
        Ok(())
    }

    fn set_tags(&mut self, tags: &[(String, String)]) -> Result<()> {
        self.record.set_tags(tags)?;
        self.feed(|tracker| tracker.set_tags(tags));
        Ok(())
    }

    fn log_metrics(&mut self, metrics: &[Metric]) -> Result<()> {
        let metrics = &self.record.redone(metrics);
        self.record.log_metrics(metrics)?;
        self.feed(|tracker| tracker.log_metrics(metrics));
        Ok(())
    }

    fn log_dataset(&mut self, dataset: &Dataset) -> Result<()> {
        self.record.log_dataset(dataset)?;
        self.feed(|tracker| tracker.log_dataset(dataset));
        Ok(())
    }

    fn log_artifact(&mut self, local: &Path, artifact_path: &str) -> Result<()> {
        self.record.log_artifact(local, artifact_path)?;
        self.feed(|tracker| tracker.log_artifact(local, artifact_path));
        Ok(())
    }

    fn log_model(&mut self, model: &Model) -> Result<()> {
        self.record.log_model(model)?;
        self.feed(|tracker| tracker.log_model(model));
        Ok(())
    }

    fn rewind(&mut self, history: &[Metric]) -> Result<()> {
        self.record.rewind(history)?;
        self.feed(|tracker| tracker.rewind(history));
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.record.sync()?;
        self.feed(|tracker| tracker.sync());
        for follower in self.followers.iter_mut().filter(|follower| follower.behind) {
            match catch_up(&self.record, &mut *follower.tracker) {
                Ok(()) => follower.behind = false,
                Err(error) => tracing::warn!("{} is still behind: {error}", follower.name),
            }
        }
        Ok(())
    }

    fn finish(&mut self, status: Status, end_time_ms: i64) -> Result<()> {
        self.sync()?;
        self.record.finish(status, end_time_ms)?;
        let folder = self.record.folder().display();
        for follower in &mut self.followers {
            let finished = match follower.behind {
                false => follower.tracker.finish(status, end_time_ms).map_err(|e| e.to_string()),
                true => Err("it could not be caught up".to_owned()),
            };
            if let Err(reason) = finished {
                let name = &follower.name;
                tracing::warn!("{name} is incomplete ({reason}); {folder} holds the whole run");
                follower.behind = true;
            }
        }
        Ok(())
    }
}

/// Makes a tracker say what the record says.
fn catch_up(record: &RunRecord, tracker: &mut dyn Tracker) -> Result<()> {
    let pairs = |map: &std::collections::BTreeMap<String, String>| -> Vec<_> {
        map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    tracker.rewind(&record.history()?)?;
    tracker.log_params(&pairs(record.params()))?;
    tracker.set_tags(&pairs(record.tags()))?;
    record.datasets().iter().try_for_each(|dataset| tracker.log_dataset(dataset))?;
    for (path, file) in record.artifacts() {
        tracker.log_artifact(&file, path.rsplit_once('/').map_or("", |(folder, _)| folder))?;
    }
    record.models().try_for_each(|model| tracker.log_model(&model))?;
    tracker.sync()?;
    match record.end_time_ms() {
        Some(end_time_ms) => tracker.finish(record.status(), end_time_ms),
        None => Ok(()),
    }
}
