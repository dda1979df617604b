//! What of a run is recorded, under which names: those a user of MLflow and Lightning would look
//! for. Epoch figures have the epoch on the x-axis, step figures the optimizer step.

use crate::config::Config;
use crate::evaluation::Evaluation;
use crate::interrupt::Interrupt;
use crate::metrics::Scores;
use crate::progress::tell;
use crate::report;
use crate::run_folder::RunFolder;
use crate::trackers::Place;
use crate::trainer::{EpochRecord, Step};
use anyhow::Result;
use std::path::Path;
use tracking::{
    Metric, Model, Run, RunInfo, RunRecord, Status, SystemMetrics, Tracker, now_ms, standard_tags,
};

const STEP_LOSS: &str = "Train_Loss_Step";
const STEP_LEARNING_RATE: &str = "Learning_Rate";

/// Records a run in its folder, and wherever else the configuration says.
pub struct Recorder {
    run: Run,
    /// Samples the machine, if asked to.
    system: Option<SystemMetrics>,
}

impl Recorder {
    /// The record of a run, with its history cut after `position` points, and what else keeps it
    /// from now on. A folder that has none, because the run is new or was killed before its first
    /// record, gets one that says `info`.
    ///
    /// # Errors
    /// The record is damaged, or the folder or the store cannot be written.
    pub fn open(
        folder: &RunFolder,
        config: &Config,
        info: &RunInfo,
        datasets: &[tracking::Dataset],
        place: Option<&Place>,
        interrupt: &Interrupt,
        position: u64,
    ) -> Result<Recorder> {
        let record = if RunRecord::exists(folder.path()) {
            RunRecord::open(folder.path())?
        } else {
            RunRecord::create(folder.path(), info)?
        };
        let info = record.info().clone();
        let mut run = Run::new(record);
        // Before anyone follows: what is taken back here is sent nowhere.
        run.rewind_to(position)?;
        if let Some(place) = place {
            place.follow(&mut run, folder.path(), interrupt)?;
        }
        let here = std::env::current_dir()?;
        let description = config.description.as_deref();
        run.set_tags(&standard_tags(&info, "ferrotune train", description, &here))?;
        run.log_params(&params(config))?;
        datasets.iter().try_for_each(|dataset| run.log_dataset(dataset))?;
        run.log_artifact(&folder.config(), "")?;
        run.sync()?;
        let system = config.tracking.system_metrics(run.record())?;
        Ok(Recorder { run, system })
    }

    /// Points recorded.
    pub fn position(&self) -> u64 {
        self.run.record().position()
    }

    /// The run's name and ids.
    pub fn info(&self) -> &RunInfo {
        self.run.record().info()
    }

    /// Loss, learning rate and gradient norm of an optimizer step (from 1).
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn step(&mut self, number: u64, step: &Step) -> Result<()> {
        if let Some(system) = &mut self.system {
            self.run.log_metrics(&system.due())?;
        }
        self.log(
            number as i64,
            &[
                (STEP_LOSS, step.loss),
                (STEP_LEARNING_RATE, step.learning_rate),
                ("Gradient_Norm", step.gradient_norm),
            ],
        )
    }

    /// Figures of a finished epoch.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn epoch(&mut self, epoch: &EpochRecord) -> Result<()> {
        let of = |prefix, loss, scores| figures(prefix, loss, scores).into_iter();
        let trained = of("Train_", epoch.train_loss, &epoch.train);
        // Precision and recall of answers that dropout blurs are of no use.
        let mut all: Vec<(String, f64)> = trained
            .filter(|(name, _)| !name.ends_with("_Precision") && !name.ends_with("_Recall"))
            .collect();
        all.extend(of("Val_", epoch.validation_loss, &epoch.validation));
        self.log_named(epoch.epoch as i64, &all)
    }

    /// What a combination of settings (from 1) scored on the validation rows.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn candidate(&mut self, number: usize, score: f64) -> Result<()> {
        self.log(number as i64, &[("Search_Score", score)])
    }

    /// Validation figures of the combination (from 1) that was chosen.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn chosen(&mut self, number: usize, evaluation: &Evaluation) -> Result<()> {
        self.log_named(number as i64, &figures("Val_", evaluation.loss, &evaluation.scores))
    }

    /// Test figures: of the best model under `Test_…`, with tuned thresholds under `Tuned_Test_…`, of
    /// the last model under `Last_Test_…`.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn test(&mut self, prefix: &str, step: usize, evaluation: &Evaluation) -> Result<()> {
        let named = figures(prefix, evaluation.loss, &evaluation.scores);
        self.log_named(step as i64, &named)
    }

    fn log_named(&mut self, step: i64, figures: &[(String, f64)]) -> Result<()> {
        let figures: Vec<(&str, f64)> = figures.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        self.log(step, &figures)
    }

    fn log(&mut self, step: i64, figures: &[(&str, f64)]) -> Result<()> {
        let timestamp_ms = now_ms();
        let metrics: Vec<Metric> = figures
            .iter()
            .map(|&(key, value)| Metric { key: key.to_owned(), value, timestamp_ms, step })
            .collect();
        Ok(self.run.log_metrics(&metrics)?)
    }

    /// Loss and learning rate of every step recorded so far.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn steps(&self) -> Result<Vec<report::Step>> {
        let history = self.run.record().history()?;
        let of = |key: &'static str| history.iter().filter(move |metric| metric.key == key);
        let step = |(loss, rate): (&Metric, &Metric)| report::Step {
            step: loss.step as u64,
            loss: loss.value,
            learning_rate: Some(rate.value),
        };
        Ok(of(STEP_LOSS).zip(of(STEP_LEARNING_RATE)).map(step).collect())
    }

    /// Files that belong to the run, under the folder `place` of its artifacts.
    ///
    /// # Errors
    /// They cannot be copied.
    pub fn artifact(&mut self, path: &Path, place: &str) -> Result<()> {
        Ok(self.run.log_artifact(path, place)?)
    }

    /// A model for MLflow, in a folder of the run, which is registered if the configuration says so.
    ///
    /// # Errors
    /// It is no such model, or the record cannot be written.
    pub fn model(&mut self, folder: &Path, config: &Config) -> Result<()> {
        let (registered_name, alias) = config.tracking.registered_model();
        let (name, folder) = ("model".to_owned(), folder.to_path_buf());
        Ok(self.run.log_model(&Model { name, folder, registered_name, alias })?)
    }

    /// Makes everything recorded so far safe.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn sync(&mut self) -> Result<()> {
        Ok(self.run.sync()?)
    }

    /// Ends the run, and tells where it is and what is missing there.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn finish(&mut self, status: Status) -> Result<()> {
        self.run.finish(status, now_ms())?;
        let folder = self.run.record().folder();
        if let Some(page) = tracking::page(folder)? {
            tell(format_args!("MLflow: {page}"));
        }
        if self.run.is_behind() {
            tell(format_args!("hint: catch up with: ferrotune sync {}", folder.display()));
        }
        Ok(())
    }
}

/// Loss and scores by name. F1 is called micro or macro where a task has both.
fn figures(prefix: &str, loss: f64, scores: &Scores) -> Vec<(String, f64)> {
    let mut figures = vec![
        ("Loss", loss),
        ("Accuracy", scores.accuracy),
        ("Precision", scores.precision),
        ("Recall", scores.recall),
    ];
    match scores.micro_f1 {
        None => figures.push(("F1_Score", scores.f1)),
        Some(micro) => {
            figures.extend([("Micro_F1_Score", micro), ("Macro_F1_Score", scores.f1)]);
        }
    }
    figures.extend(scores.average_precision.map(|value| ("Average_Precision", value)));
    figures.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)).collect()
}

/// The configuration as flat `section.key` parameters.
fn params(config: &Config) -> Vec<(String, String)> {
    fn walk(prefix: &str, value: &toml::Value, all: &mut Vec<(String, String)>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let name =
                        if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    walk(&name, value, all);
                }
            }
            toml::Value::String(text) => all.push((prefix.to_owned(), text.clone())),
            other => all.push((prefix.to_owned(), other.to_string())),
        }
    }
    let mut all = Vec::new();
    walk("", &toml::Value::Table(config.tree()), &mut all);
    all
}
