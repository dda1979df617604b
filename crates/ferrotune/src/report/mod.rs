//! The report of a run: one HTML page that needs nothing but itself, and the same in Markdown.
//!
//! The caller fills [`Report`]; [`html()`] and [`markdown()`] turn it into text and touch no file. What
//! is missing or not finite is shown as missing, never as zero. Text of the data set is hostile by
//! assumption: it is escaped, isolated from the page's text direction, and cut when very long.
mod chart;
mod curves;
mod markdown;
#[cfg(test)]
mod tests;
mod view;

pub use chart::whiskers;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment as Templates};
use serde::Serialize;

/// Everything a report shows.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Name of the run, the page's title.
    pub run_name: String,
    /// The pretrained model as the user named it, or what else answers.
    pub model: String,
    /// What was trained, in words: "LoRA r 8, alpha 32 on query and value".
    pub method: String,
    /// The task in words: "binary, positive class: unfair".
    pub task: String,
    /// When the run ended, as it is to be read.
    pub date: String,
    /// Why training ended: "early stopping after epoch 7".
    pub ending: String,
    /// The epoch whose model is the best one.
    pub best_epoch: Option<u32>,
    /// The validation metric that chose it.
    pub selected_by: String,
    /// The test of the last and the best model; `None` if the run was not tested.
    pub test: Option<Test>,
    /// One entry per finished epoch, in order.
    pub epochs: Vec<Epoch>,
    /// Per optimizer step; may be empty.
    pub steps: Vec<Step>,
    /// The settings that were tried on the validation rows, in order; of methods that search.
    pub candidates: Vec<Candidate>,
    /// What was found in the data before training.
    pub data: Option<Data>,
    /// Sizes, and what the checkpoint did not hold.
    pub parameters: Parameters,
    /// Run time and throughput.
    pub timing: Timing,
    /// Where it ran.
    pub environment: Environment,
    /// The resolved configuration, as TOML.
    pub config: String,
}

/// Figures of one whole test split.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Test {
    /// Rows tested.
    pub rows: u64,
    /// Headline figures, in the order to be shown; the first is the one to lead with.
    pub scores: Vec<Score>,
    /// What the numbers are that models answer with: "probability".
    pub scale: String,
    /// The best model per label; for more than two labels or multi-label tasks, else empty.
    pub labels: Vec<LabelScore>,
    /// What thresholds tuned on validation rows change, if they were.
    pub thresholds: Option<TunedThresholds>,
    /// The best model's confusion matrix; not of multi-label tasks.
    pub confusion: Option<Confusion>,
    /// The best model's precision-recall curve, for binary tasks.
    pub precision_recall: Option<PrecisionRecall>,
    /// The best model's most confident mistakes, worst first.
    pub mistakes: Vec<Mistake>,
    /// How many mistakes there are in all.
    pub mistakes_in_all: u64,
}

/// One figure for both models.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Score {
    /// Its name, such as "F1".
    pub name: String,
    /// Of the best model.
    pub best: Option<Estimate>,
    /// Of the last model, where there is another than the best.
    pub last: Option<Estimate>,
}

/// A figure between 0 and 1 and its 95 % interval.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Estimate {
    /// The figure over the whole split.
    pub value: f64,
    /// Both ends of the interval.
    pub interval: Option<(f64, f64)>,
}

/// Figures of one label.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LabelScore {
    /// The label's name.
    pub name: String,
    /// Of those predicted, the share that is right.
    pub precision: f64,
    /// Of those present, the share that was found.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
    /// Rows that carry the label.
    pub rows: u64,
}

/// The best model at one half and at thresholds tuned on validation rows.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TunedThresholds {
    /// Headline figures: name, at one half, at the tuned thresholds.
    pub scores: Vec<(String, Estimate, Estimate)>,
    /// Each label's threshold and figures.
    pub labels: Vec<TunedLabel>,
}

/// A label whose threshold was tuned.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TunedLabel {
    /// The label is given where its probability is above.
    pub threshold: f64,
    /// Validation rows that have the label.
    pub validation_rows: u64,
    /// Figures on the test rows at one half.
    pub half: LabelScore,
    /// Figures there at the threshold.
    pub tuned: LabelScore,
}

/// Counts of true label (row) by predicted label (column).
#[derive(Debug, Clone, Default, Serialize)]
pub struct Confusion {
    /// Names of rows and columns.
    pub labels: Vec<String>,
    /// `counts[truth][predicted]`.
    pub counts: Vec<Vec<u64>>,
}

/// A precision-recall curve.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PrecisionRecall {
    /// From the highest threshold to the lowest.
    pub points: Vec<PrecisionRecallPoint>,
    /// The threshold that was used for the figures; marked on the curve.
    pub threshold: f64,
    /// Share of positive rows: what guessing would reach.
    pub positive_share: f64,
}

/// What counting as positive every probability at or above `threshold` gives.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct PrecisionRecallPoint {
    /// The threshold.
    pub threshold: f64,
    /// Precision there.
    pub precision: f64,
    /// Recall there.
    pub recall: f64,
}

/// A test row the best model got wrong.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Mistake {
    /// Its place in the test file, as the user counts.
    pub row: u64,
    /// The text.
    pub text: String,
    /// Its label in the data.
    pub truth: String,
    /// The label predicted.
    pub predicted: String,
    /// What the model gave its wrong answer, on [`Test::scale`].
    pub confidence: f64,
}

/// Figures of one epoch.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: u32,
    /// On the training rows, as they were trained.
    pub train: Figures,
    /// On the whole validation split.
    pub validation: Figures,
}

/// The figures that have a curve.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Figures {
    /// Mean loss.
    pub loss: Option<f64>,
    /// Accuracy.
    pub accuracy: Option<f64>,
    /// F1 (macro for more than two labels).
    pub f1: Option<f64>,
    /// Micro-F1, of multi-label tasks.
    pub micro_f1: Option<f64>,
}

/// Settings that were tried.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Candidate {
    /// Names and values, the same names in each.
    pub settings: Vec<(String, String)>,
    /// What they scored on the validation rows.
    pub score: f64,
    /// Whether the optimisation reached its tolerance.
    pub converged: bool,
    /// Whether they were chosen.
    pub best: bool,
}

/// One optimizer step.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Step {
    /// Counted from 1.
    pub step: u64,
    /// Loss of its batch.
    pub loss: f64,
    /// Learning rate it took.
    pub learning_rate: Option<f64>,
}

/// What the data report found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Data {
    /// Train, validation, test, as far as they exist.
    pub splits: Vec<Split>,
    /// Names for [`Split::label_rows`].
    pub labels: Vec<String>,
    /// Longest sequence kept, in tokens; none of texts that were not tokenized.
    pub max_length: Option<u32>,
    /// Everything worth a warning: leakage, missing classes, truncation.
    pub warnings: Vec<String>,
}

/// One split of the data.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Split {
    /// "train", "validation", "test".
    pub name: String,
    /// Rows in it.
    pub rows: u64,
    /// Rows per label.
    pub label_rows: Vec<u64>,
    /// Median length in tokens, before truncation.
    pub tokens_median: u64,
    /// 95th percentile of the length.
    pub tokens_p95: u64,
    /// Longest row.
    pub tokens_max: u64,
    /// Rows cut to the longest length kept.
    pub truncated_rows: u64,
    /// Tokens that were cut off.
    pub tokens_lost: u64,
    /// Rows whose text occurred before in the same split.
    pub duplicate_rows: u64,
    /// Rows whose text also occurs in train (for train itself: 0).
    pub rows_also_in_train: u64,
}

/// Sizes of the model.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Parameters {
    /// Parameters that were trained.
    pub trainable: u64,
    /// All parameters.
    pub total: u64,
    /// Layers the checkpoint did not hold: initialised, trained and saved.
    pub new_layers: Vec<String>,
}

/// Run time and throughput.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Timing {
    /// From the start of the program to the report.
    pub total_seconds: f64,
    /// Of these, in training steps.
    pub training_seconds: Option<f64>,
    /// Optimizer steps taken, of methods that take any.
    pub steps: Option<u64>,
    /// Real tokens trained per second.
    pub tokens_per_second: Option<f64>,
    /// Examples trained per second.
    pub examples_per_second: Option<f64>,
    /// Highest resident memory.
    pub peak_memory_bytes: Option<u64>,
}

/// Where a run took place.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Environment {
    /// ferrotune's version.
    pub version: String,
    /// The processor's name.
    pub cpu: String,
    /// Threads used.
    pub threads: usize,
    /// Instruction set of the kernels; empty where they have no part.
    pub instruction_set: String,
    /// Arithmetic: "32-true" or "bf16-mixed".
    pub precision: String,
    /// The seed.
    pub seed: u64,
}

impl Report {
    /// Whether a last model was tested beside the best.
    fn has_last(&self) -> bool {
        self.test.iter().flat_map(|test| &test.scores).any(|score| score.last.is_some())
    }

    /// Whether the task has a micro-F1 beside the macro-F1.
    fn has_micro_f1(&self) -> bool {
        self.epochs.iter().any(|epoch| epoch.validation.micro_f1.is_some())
    }
}

/// The report as one self-contained HTML page.
///
/// # Errors
/// The template engine's answer, if it cannot render; no content of a report should cause that.
pub fn html(report: &Report) -> Result<String, minijinja::Error> {
    let mut templates = Templates::new();
    templates.set_auto_escape_callback(|_| AutoEscape::Html);
    templates.add_template("report.html", include_str!("template.html"))?;
    templates.get_template("report.html")?.render(Serde(view::View::of(report)))
}

/// The report as Markdown, without the curves.
#[must_use]
pub fn markdown(report: &Report) -> String {
    markdown::write(&view::View::of(report))
}
