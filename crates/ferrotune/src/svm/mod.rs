//! Training without a network: TF-IDF features and linear support vector machines, the baseline that
//! LexGLUE sets beside its encoders (`models/tfidf_svm.py` in coastalcph/lex-glue).
//!
//! config → data → n-grams → every combination of settings fitted, scored on the validation rows, the
//! first of the best kept → tested → table and report. The `linear` crate has the computing.

mod model;
mod settings;

pub use model::{Model, is_linear};
pub use settings::Settings;

use crate::artifact::{read_json, write_json};
use crate::config::{ClassWeights, Config};
use crate::device::Device;
use crate::evaluation::targets;
use crate::job::{End, Job, Learner, Tests};
use crate::metrics::{Classes, Counts, Scores};
use crate::prepared::Rows;
use crate::progress::tell;
use crate::recorder::Recorder;
use crate::report;
use crate::results::{Learned, Tested};
use crate::trainer::selection_value;
use anyhow::{Context, Result, bail};
use data::{DataReport, Example};
use linear::{Candidate, Labels, Loss, Search, Split, search};
use model::{Card, answers, labels, prepared, texts};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Beside the model: what was searched, and for which configuration and rows.
const SEARCH: &str = "search.json";

/// Machines to be fitted, or fitted.
pub struct Svm {
    /// Of the run as it is configured now.
    training_rows: String,
    fitted: Option<(Model, Searched)>,
}

/// A search that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Searched {
    candidates: Vec<Tried>,
    /// Which was chosen.
    best: usize,
    seconds: f64,
    /// Metric points recorded by then.
    metric_position: u64,
    /// A run does not go on with another configuration or other rows.
    config: String,
    training_rows: String,
}

/// One combination of settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tried {
    c: f64,
    loss: Loss,
    max_features: Option<usize>,
    score: f64,
    converged: bool,
}

impl Learner for Svm {
    fn prepare(config: &mut Config, _: &Device, rows: &Rows) -> Result<(Self, DataReport)> {
        let Rows { dataset, classes, schema } = rows;
        if let Classes::Multi(count) = *classes {
            let lacks = |class: &usize| !dataset.train.iter().any(|row| row.labels[0] == *class);
            if let Some(class) = (0..count).find(lacks) {
                bail!("no training row is of class `{}`", schema.labels.names[class]);
            }
        }
        if let ClassWeights::Given(weights) = &config.svm.class_weights
            && weights.len() != classes.count()
        {
            bail!(
                "svm.class_weights has {} weights, but there are {} classes",
                weights.len(),
                classes.count()
            );
        }
        let training_rows = format!("{:016x}", fingerprint(&dataset.train));
        Ok((Svm { training_rows, fitted: None }, DataReport::of_rows(dataset)))
    }

    fn check(&self, _: &Config) -> Result<()> {
        Ok(())
    }

    fn resume(job: &mut Job<Svm>) -> Result<u64> {
        let best = job.folder.best();
        if !best.is_dir() {
            return Ok(0);
        }
        let searched: Searched = read_json(&best.join(SEARCH))?;
        if searched.config != job.config.to_toml() {
            bail!(
                "the configuration in {} is not the one its model was fitted with",
                job.folder.path().display()
            );
        }
        if searched.training_rows != job.learner.training_rows {
            bail!("the training rows are not those the model was fitted to");
        }
        if searched.best >= searched.candidates.len() {
            bail!("{} is damaged: it names no combination", best.join(SEARCH).display());
        }
        let position = searched.metric_position;
        job.learner.fitted = Some((Model::read(&best)?, searched));
        Ok(position)
    }

    fn train(job: &mut Job<Svm>, recorder: &mut Recorder) -> Result<End> {
        if let Some((_, searched)) = &job.learner.fitted {
            return Ok(End::Finished(format!("fitted already: {}", searched.best())));
        }
        let started = Instant::now();
        let found = match job.device.run(|| job.search()) {
            Err(error) if matches!(error.downcast_ref(), Some(linear::Error::Stopped)) => {
                return Ok(End::Interrupted);
            }
            found => found?,
        };
        let seconds = started.elapsed().as_secs_f64();
        let Search { candidates, best, model } = found;
        let mut searched = Searched {
            candidates: candidates.iter().map(Tried::from).collect(),
            best,
            seconds,
            metric_position: 0,
            config: job.config.to_toml(),
            training_rows: job.learner.training_rows.clone(),
        };
        for (number, candidate) in (1..).zip(&searched.candidates) {
            recorder.candidate(number, candidate.score)?;
        }
        let note = format!(
            "{} combinations fitted in {seconds:.2} s; best validation {}: {}",
            candidates.len(),
            job.config.svm.metric.name(),
            searched.best()
        );
        let (schema, loss) = (job.rows.schema.clone(), candidates[best].loss);
        let card = Card::new(schema, loss, job.config.svm.drop_last_word);
        let model = Model { machines: model, card };
        let validation = job.device.run(|| model.evaluate(&job.rows.dataset.validation));
        recorder.chosen(best + 1, &validation)?;
        recorder.sync()?;
        searched.metric_position = recorder.position();
        durable::replace_folder(&job.folder.best(), |folder| {
            model.write(folder)?;
            write_json(&folder.join(SEARCH), &searched)
        })?;
        job.learner.fitted = Some((model, searched));
        if job.interrupt.requested() {
            return Ok(End::Interrupted);
        }
        Ok(End::Finished(note))
    }

    fn test(job: &mut Job<Svm>) -> Result<Tests> {
        let (model, searched) = job.learner.fitted()?;
        let (classes, seed) = (job.rows.classes, job.config.seed);
        let test = &job.rows.dataset.test;
        let tested = job.device.run(|| {
            let truth = targets(test, classes);
            Tested::new(model.evaluate(test), &truth, classes, seed)
        });
        job.interrupt.check()?;
        let name = format!("best model ({})", searched.best());
        Ok(Tests { best: (name, searched.best + 1, tested), tuned: None, last: None })
    }

    fn learned(job: &Job<Svm>, _: &Recorder) -> Result<Learned> {
        let (Model { machines, card }, searched) = job.learner.fitted()?;
        let (weights, terms) = (machines.classifier().weights(), machines.vectorizer().terms());
        let parameters = (weights.len() + machines.classifier().intercepts().len()) as u64;
        let [shortest, longest] = job.config.svm.ngram_range;
        let c = searched.candidates[searched.best].c;
        Ok(Learned {
            model: format!("TF-IDF of {} n-grams of {shortest} to {longest} words", terms.len()),
            method: format!("linear SVM, C {c}, {}", card.loss.name()),
            selected_by: format!("validation {}", job.config.svm.metric.name()),
            candidates: searched.shown(),
            parameters: report::Parameters {
                trainable: parameters,
                total: parameters,
                new_layers: Vec::new(),
            },
            timing: report::Timing {
                training_seconds: Some(searched.seconds),
                ..report::Timing::default()
            },
            precision: "64-bit floats".to_owned(),
            ..Learned::default()
        })
    }

    /// There is no format of others for it.
    fn export(_: &Job<Svm>, _: &mut Recorder) -> Result<()> {
        Ok(())
    }
}

impl Svm {
    fn fitted(&self) -> Result<&(Model, Searched)> {
        self.fitted.as_ref().context("what was not fitted cannot be tested")
    }
}

impl Job<Svm> {
    /// Fits every combination, unless someone asks to end.
    fn search(&self) -> Result<Search> {
        let Rows { dataset, classes, .. } = &self.rows;
        let settings = &self.config.svm;
        let grid = settings.grid();
        let combinations = grid.c.len() * grid.loss.len() * grid.max_features.len();
        let rows = dataset.train.len();
        tell(format_args!("fitting {combinations} combinations of settings to {rows} rows"));
        let (train, validation) = (texts(&dataset.train), texts(&dataset.validation));
        let train = prepared(&train, settings.drop_last_word);
        let validation = prepared(&validation, settings.drop_last_word);
        let truth = labels(&dataset.validation, *classes);
        let score = |truth: &Labels, predicted: &Labels| {
            let mut counts = Counts::none(*classes);
            counts.add(&answers(truth), &answers(predicted));
            selection_value(settings.metric, f64::NAN, &Scores::of(counts, *classes))
        };
        Ok(search(
            &Split { texts: &train, labels: &labels(&dataset.train, *classes) },
            &Split { texts: &validation, labels: &truth },
            &settings.vectorizer(),
            &settings.machines(self.config.seed)?,
            &grid,
            score,
            &|| self.interrupt.requested(),
        )?)
    }
}

impl Searched {
    /// The chosen settings in words.
    fn best(&self) -> String {
        let Tried { c, loss, max_features, .. } = &self.candidates[self.best];
        let features = max_features.map_or(String::new(), |n| format!(", max_features {n}"));
        format!("C {c}, {}{features}", loss.name())
    }

    /// As the report has them.
    fn shown(&self) -> Vec<report::Candidate> {
        let setting = |name: &str, value: String| (name.to_owned(), value);
        let shown = |(number, tried): (usize, &Tried)| report::Candidate {
            settings: vec![
                setting("C", tried.c.to_string()),
                setting("loss", tried.loss.name().to_owned()),
                setting("max_features", tried.max_features.map_or("all".into(), |n| n.to_string())),
            ],
            score: tried.score,
            converged: tried.converged,
            best: number == self.best,
        };
        self.candidates.iter().enumerate().map(shown).collect()
    }
}

impl From<&Candidate> for Tried {
    fn from(candidate: &Candidate) -> Tried {
        let &Candidate { max_features, c, loss, score, converged } = candidate;
        Tried { c, loss, max_features, score, converged }
    }
}

/// A number that changes with any text or label (FNV-1a), to tell whether data was edited.
fn fingerprint(rows: &[Example]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    rows.iter().fold(0xcbf2_9ce4_8422_2325, |hash, row| {
        let labels = row.labels.iter().flat_map(|label| (*label as u64).to_le_bytes());
        // No text holds the byte 0xFF.
        row.text.bytes().chain([0xFF]).chain(labels).chain([0xFF]).fold(hash, step)
    })
}
