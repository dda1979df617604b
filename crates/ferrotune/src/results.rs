//! What people see at the end: the table on the terminal, and the report's content, of whatever
//! method.

use crate::config::Config;
use crate::evaluation::{Evaluation, targets};
use crate::memory::{self, Bytes};
use crate::metrics::{self, Classes, Counts, Interval, Intervals, Tally};
use crate::report::{self, Report};
use crate::thresholds::Thresholds;
use crate::trainer::EpochRecord;
use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use data::{DataReport, Example, LabelScheme};
use std::time::SystemTime;

/// A tested model: its name, answers and intervals.
#[derive(Debug)]
pub struct Tested {
    /// Figures and answers.
    pub evaluation: Evaluation,
    /// 95 % bootstrap intervals.
    pub intervals: Intervals,
}

impl Tested {
    /// Adds intervals to an evaluation.
    pub fn new(evaluation: Evaluation, labels: &[u32], classes: Classes, seed: u64) -> Tested {
        let (outputs, thresholds) = (&evaluation.outputs, evaluation.scale.thresholds(classes));
        let intervals = metrics::bootstrap(outputs, labels, classes, &thresholds, seed);
        Tested { evaluation, intervals }
    }

    /// The same answers under other thresholds.
    pub fn at(&self, thresholds: &[f32], labels: &[u32], classes: Classes, seed: u64) -> Tested {
        let evaluation = self.evaluation.clone();
        let intervals = metrics::bootstrap(&evaluation.outputs, labels, classes, thresholds, seed);
        let scores = metrics::scores(&evaluation.outputs, labels, classes, thresholds);
        Tested { evaluation: Evaluation { scores, ..evaluation }, intervals }
    }

    /// Figures with their intervals, in the order shown.
    pub fn figures(&self, classes: Classes) -> Vec<(&'static str, f64, Interval)> {
        let (s, i) = (&self.evaluation.scores, &self.intervals);
        let [f1, precision, recall] = match classes {
            Classes::Binary => ["F1", "precision", "recall"],
            Classes::Multi(_) | Classes::MultiLabel(_) => {
                ["macro-F1", "macro precision", "macro recall"]
            }
        };
        let accuracy = match classes {
            Classes::Binary | Classes::Multi(_) => "accuracy",
            Classes::MultiLabel(_) => "exact match",
        };
        let mut figures = Vec::new();
        if let (Some(value), Some(interval)) = (s.micro_f1, i.micro_f1) {
            figures.push(("micro-F1", value, interval));
        }
        figures.extend([
            (f1, s.f1, i.f1),
            (precision, s.precision, i.precision),
            (recall, s.recall, i.recall),
            (accuracy, s.accuracy, i.accuracy),
        ]);
        if let (Some(value), Some(interval)) = (s.average_precision, i.average_precision) {
            figures.push(("average precision", value, interval));
        }
        figures
    }
}

/// The table at the end: one column per model, each figure with its 95 % interval.
pub fn table(
    rows: usize,
    labels: &LabelScheme,
    classes: Classes,
    models: &[(String, &Tested)],
) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    let of = match classes {
        Classes::Binary => format!("; positive: {}", labels.names[1]),
        Classes::Multi(_) | Classes::MultiLabel(_) => String::new(),
    };
    let mut header = vec![format!("test, {rows} rows{of}")];
    header.extend(models.iter().map(|(name, _)| name.clone()));
    table.set_header(header);
    let columns: Vec<_> = models.iter().map(|(_, tested)| tested.figures(classes)).collect();
    let cell = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    for (index, (name, ..)) in columns.first().into_iter().flatten().enumerate() {
        let mut row = vec![Cell::new(name)];
        row.extend(columns.iter().map(|figures| {
            let (_, value, Interval { low, high }) = figures[index];
            cell(format!("{value:.3} [{low:.3}, {high:.3}]"))
        }));
        table.add_row(row);
    }
    let mut row = vec![Cell::new("loss")];
    row.extend(models.iter().map(|(_, tested)| cell(format!("{:.4}", tested.evaluation.loss))));
    table.add_row(row);
    table.to_string()
}

/// One line about a finished epoch.
pub fn epoch_line(epoch: &EpochRecord, best: bool, seconds: f64) -> String {
    let v = &epoch.validation;
    let f1 = match v.micro_f1 {
        None => format!("F1 {:.4}", v.f1),
        Some(micro) => format!("micro-F1 {micro:.4}  macro-F1 {:.4}", v.f1),
    };
    format!(
        "epoch {:>2}  train loss {:.4}  validation loss {:.4}  {f1}  precision {:.4}  \
         recall {:.4}  accuracy {:.4}  {seconds:.0} s{}",
        epoch.epoch,
        epoch.train_loss,
        epoch.validation_loss,
        v.precision,
        v.recall,
        v.accuracy,
        if best { "  best" } else { "" }
    )
}

/// What the report needs besides the trainer's state.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Name of the run.
    pub run_name: &'a str,
    /// The configuration.
    pub config: &'a Config,
    /// Class names.
    pub labels: &'a LabelScheme,
    /// How figures are computed.
    pub classes: Classes,
    /// The report on the data.
    pub data: &'a DataReport,
    /// The test rows.
    pub test: &'a [Example],
    /// The best model's test.
    pub best: &'a Tested,
    /// The last model's, where there is another than the best.
    pub last: Option<&'a Tested>,
    /// Tuned thresholds and the best model's test under them, if there are any.
    pub tuned: Option<(&'a Thresholds, &'a Tested)>,
    /// Number of threads.
    pub threads: usize,
    /// Seconds since the program started.
    pub seconds: f64,
    /// Why training ended.
    pub note: &'a str,
}

/// What a method tells of itself and of its training.
#[derive(Debug, Default)]
pub struct Learned {
    /// The model, as the user knows it.
    pub model: String,
    /// What was trained, in words.
    pub method: String,
    /// The epoch whose model is the best one, where there are epochs.
    pub best_epoch: Option<u32>,
    /// The validation metric that chose the best model.
    pub selected_by: String,
    /// By epoch.
    pub epochs: Vec<report::Epoch>,
    /// By optimizer step.
    pub steps: Vec<report::Step>,
    /// By combination of settings that was tried.
    pub candidates: Vec<report::Candidate>,
    /// Sizes.
    pub parameters: report::Parameters,
    /// Times, but for those of the whole process.
    pub timing: report::Timing,
    /// Instruction set of the kernels, where they matter.
    pub instruction_set: String,
    /// Arithmetic.
    pub precision: String,
}

/// What a row without labels is called.
const NONE: &str = "none";
/// At most so many mistakes are shown.
const MISTAKES: usize = 20;

/// Fills the report.
pub fn report(facts: &Facts<'_>, learned: Learned) -> Report {
    let Facts { config, labels, .. } = facts;
    Report {
        run_name: facts.run_name.to_owned(),
        model: learned.model,
        method: learned.method,
        task: match facts.classes {
            Classes::Binary => format!("binary, positive class: {}", labels.names[1]),
            Classes::Multi(count) => format!("{count} classes"),
            Classes::MultiLabel(count) => format!("{count} labels, any number per row"),
        },
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        ending: facts.note.to_owned(),
        best_epoch: learned.best_epoch,
        selected_by: learned.selected_by,
        test: (!facts.test.is_empty()).then(|| test(facts)),
        epochs: learned.epochs,
        steps: learned.steps,
        candidates: learned.candidates,
        data: Some(data(facts)),
        parameters: learned.parameters,
        timing: report::Timing {
            total_seconds: facts.seconds,
            peak_memory_bytes: memory::peak().map(|Bytes(bytes)| bytes),
            ..learned.timing
        },
        environment: report::Environment {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cpu: cpu_name(),
            threads: facts.threads,
            instruction_set: learned.instruction_set,
            precision: learned.precision,
            seed: config.seed,
        },
        config: config.to_toml(),
    }
}

/// A finished epoch, as the report has it.
pub fn epoch(record: &EpochRecord) -> report::Epoch {
    let figures = |loss: f64, scores: &metrics::Scores| report::Figures {
        loss: Some(loss),
        accuracy: Some(scores.accuracy),
        f1: Some(scores.f1),
        micro_f1: scores.micro_f1,
    };
    report::Epoch {
        epoch: record.epoch as u32,
        train: figures(record.train_loss, &record.train),
        validation: figures(record.validation_loss, &record.validation),
    }
}

fn test(facts: &Facts<'_>) -> report::Test {
    let best = facts.best;
    let mut last = facts.last.map(|last| estimates(last, facts.classes));
    let scores = estimates(best, facts.classes).map(|(name, best)| report::Score {
        name: name.to_owned(),
        best: Some(best),
        last: last.as_mut().and_then(|last| last.next()).map(|(_, last)| last),
    });
    let names = &facts.labels.names;
    let counts = &best.evaluation.scores.counts;
    let labels = match facts.classes {
        Classes::Binary => Vec::new(),
        Classes::Multi(_) | Classes::MultiLabel(_) => label_scores(counts, names),
    };
    let confusion = match counts {
        Counts::Confusion(counts) => {
            Some(report::Confusion { labels: names.clone(), counts: counts.clone() })
        }
        Counts::Labels(_) => None,
    };
    let mistakes = mistakes(facts, &best.evaluation);
    report::Test {
        rows: facts.test.len() as u64,
        scores: scores.collect(),
        scale: best.evaluation.scale.name().to_owned(),
        labels,
        thresholds: facts
            .tuned
            .map(|(thresholds, tuned)| tuned_thresholds(facts, thresholds, best, tuned)),
        confusion,
        precision_recall: (facts.classes == Classes::Binary)
            .then(|| precision_recall(facts.test, &best.evaluation)),
        mistakes_in_all: mistakes.len() as u64,
        mistakes: mistakes.into_iter().take(MISTAKES).collect(),
    }
}

/// The figures of a test, as the report has them.
fn estimates(
    tested: &Tested,
    classes: Classes,
) -> impl Iterator<Item = (&'static str, report::Estimate)> {
    tested.figures(classes).into_iter().map(|(name, value, Interval { low, high })| {
        (name, report::Estimate { value, interval: Some((low, high)) })
    })
}

/// Each class, or each label and "none".
fn label_scores(counts: &Counts, names: &[String]) -> Vec<report::LabelScore> {
    let names = names.iter().map(String::as_str).chain([NONE]);
    let score = |(tally, name): (Tally, &str)| {
        let class = tally.scores();
        report::LabelScore {
            name: name.to_owned(),
            precision: class.precision,
            recall: class.recall,
            f1: class.f1,
            rows: class.rows,
        }
    };
    counts.tallies().into_iter().zip(names).map(score).collect()
}

/// What thresholds tuned on validation rows change on the test rows.
fn tuned_thresholds(
    facts: &Facts<'_>,
    thresholds: &Thresholds,
    half: &Tested,
    tuned: &Tested,
) -> report::TunedThresholds {
    let names = &facts.labels.names;
    let scores = |tested: &Tested| {
        let mut scores = label_scores(&tested.evaluation.scores.counts, names);
        if facts.classes == Classes::Binary {
            scores.remove(0);
        }
        scores
    };
    let labels = thresholds.each().zip(scores(half).into_iter().zip(scores(tuned)));
    let label = |((_, threshold, rows), (half, tuned))| report::TunedLabel {
        threshold: f64::from(threshold),
        validation_rows: rows,
        half,
        tuned,
    };
    let figures = estimates(half, facts.classes).zip(estimates(tuned, facts.classes));
    report::TunedThresholds {
        // Ranks have no threshold.
        scores: figures
            .filter(|((name, _), _)| *name != "average precision")
            .map(|((name, half), (_, tuned))| (name.to_owned(), half, tuned))
            .collect(),
        labels: labels.map(label).collect(),
    }
}

/// The class of a row, or the labels that it has.
pub fn in_words(row: &[u32], names: &[String], classes: Classes) -> String {
    match classes {
        Classes::Binary | Classes::Multi(_) => names[row[0] as usize].clone(),
        Classes::MultiLabel(_) => {
            let given = row.iter().zip(names).filter(|&(&has, _)| has == 1);
            let given: Vec<&str> = given.map(|(_, name)| name.as_str()).collect();
            if given.is_empty() { NONE.to_owned() } else { given.join(", ") }
        }
    }
}

/// All wrong answers at the usual threshold, the most confident first.
fn mistakes(facts: &Facts<'_>, evaluation: &Evaluation) -> Vec<report::Mistake> {
    let (names, classes) = (&facts.labels.names, facts.classes);
    let Evaluation { outputs, scale, .. } = evaluation;
    let truth = targets(facts.test, classes);
    let answers = metrics::answers(outputs, classes, &scale.thresholds(classes));
    let width = classes.width();
    // That of the wrong class; or of the label whose answer is most wrong.
    let confidence = |row: &[f32], truth: &[u32], answer: &[u32]| match classes {
        Classes::Binary | Classes::Multi(_) => row[answer[0] as usize],
        Classes::MultiLabel(_) => {
            let wrong = row.iter().zip(truth.iter().zip(answer)).filter(|(_, (t, a))| t != a);
            let certain = wrong.map(|(&x, (_, a))| if *a == 1 { x } else { scale.against(x) });
            certain.fold(0.0, f32::max)
        }
    };
    let rows = outputs.chunks(names.len()).zip(truth.chunks(width).zip(answers.chunks(width)));
    let mut mistakes: Vec<report::Mistake> = facts
        .test
        .iter()
        .zip(rows)
        .filter(|(_, (_, (truth, answer)))| truth != answer)
        .map(|(example, (row, (truth, answer)))| report::Mistake {
            row: example.row as u64,
            text: example.text.clone(),
            truth: in_words(truth, names, classes),
            predicted: in_words(answer, names, classes),
            confidence: f64::from(confidence(row, truth, answer)),
        })
        .collect();
    mistakes.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    mistakes
}

fn precision_recall(test: &[Example], evaluation: &Evaluation) -> report::PrecisionRecall {
    let threshold = f64::from(evaluation.scale.threshold());
    let positive: Vec<f32> = evaluation.outputs.chunks(2).map(|row| row[1]).collect();
    let labels: Vec<u32> = test.iter().map(|example| example.labels[0] as u32).collect();
    let mut points: Vec<_> = metrics::precision_recall_curve(&positive, &labels)
        .into_iter()
        .map(|point| report::PrecisionRecallPoint {
            threshold: f64::from(point.threshold),
            precision: point.precision,
            recall: point.recall,
        })
        .collect();
    // The curve is thinned; the point that the figures belong to must be on it.
    let scores = &evaluation.scores;
    let (precision, recall) = (scores.precision, scores.recall);
    let place = points.partition_point(|point| point.threshold > threshold);
    points.insert(place, report::PrecisionRecallPoint { threshold, precision, recall });
    report::PrecisionRecall {
        points,
        threshold,
        positive_share: labels.iter().sum::<u32>() as f64 / labels.len() as f64,
    }
}

fn data(facts: &Facts<'_>) -> report::Data {
    let also_in_train = |name: &str| {
        let pair = facts.data.shared.iter().find(|s| s.splits == ["train", name]);
        pair.map_or(0, |pair| pair.texts as u64)
    };
    let splits = facts.data.splits.iter().map(|split| report::Split {
        name: split.name.to_owned(),
        rows: split.rows as u64,
        label_rows: split
            .classes
            .iter()
            .map(|class| class.rows)
            .chain(split.unlabelled)
            .map(|rows| rows as u64)
            .collect(),
        tokens_median: split.tokens.p50 as u64,
        tokens_p95: split.tokens.p95 as u64,
        tokens_max: split.tokens.max as u64,
        truncated_rows: split.truncated_rows as u64,
        tokens_lost: split.lost_tokens as u64,
        duplicate_rows: split.repeats as u64,
        rows_also_in_train: also_in_train(split.name),
    });
    let mut labels = facts.labels.names.clone();
    if let Classes::MultiLabel(_) = facts.classes {
        labels.push(NONE.to_owned());
    }
    report::Data {
        splits: splits.collect(),
        labels,
        max_length: facts.data.max_length.map(|length| length as u32),
        warnings: facts.data.warnings.clone(),
    }
}

/// The processor's name, as far as the system tells.
fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
