//! The report as it is read: every figure formatted once, for the page and the Markdown alike.
use serde::Serialize;

use super::curves::{self, Curve};
use super::{Confusion, Data, Epoch, Estimate, Report, Test, TunedThresholds, chart};

/// Longer texts are folded, and these much longer ones cut.
const FOLDED: usize = 220;
const CUT: usize = 4000;
/// What stands where a figure is missing.
pub(super) const MISSING: &str = "–";

#[derive(Serialize)]
pub(super) struct View<'a> {
    pub(super) report: &'a Report,
    pub(super) best_epoch: Option<String>,
    pub(super) last_epoch: Option<String>,
    pub(super) scores: Vec<ScoreView<'a>>,
    /// Whether there is a last model beside the best.
    pub(super) has_last: bool,
    pub(super) interval_scale: [String; 2],
    pub(super) test_rows: String,
    pub(super) charts: Vec<Curve>,
    pub(super) step_charts: Vec<Curve>,
    /// Names of the figures by epoch.
    pub(super) epoch_head: Vec<&'static str>,
    pub(super) epochs: Vec<Vec<String>>,
    /// Names of the settings that were tried, and rows of their values.
    pub(super) candidate_head: Vec<&'a str>,
    pub(super) candidates: Vec<Vec<String>>,
    pub(super) labels: Vec<[String; 5]>,
    pub(super) thresholds: Option<ThresholdsView<'a>>,
    pub(super) confusion: Option<ConfusionView<'a>>,
    pub(super) precision_recall: Option<Curve>,
    /// What the numbers are that models answer with.
    pub(super) scale: &'a str,
    pub(super) mistakes: Vec<MistakeView<'a>>,
    pub(super) mistakes_in_all: String,
    pub(super) mistakes_hidden: bool,
    pub(super) data: Option<DataView<'a>>,
    /// Name and value: sizes, time, machine.
    pub(super) facts: Vec<(&'static str, Vec<(&'static str, String)>)>,
}

#[derive(Serialize)]
pub(super) struct ScoreView<'a> {
    pub(super) name: &'a str,
    pub(super) best: Figure,
    pub(super) last: Figure,
    pub(super) plot: String,
}

#[derive(Serialize)]
pub(super) struct Figure {
    pub(super) value: String,
    pub(super) interval: String,
}

#[derive(Serialize)]
pub(super) struct ThresholdsView<'a> {
    /// Name, at one half, tuned.
    pub(super) scores: Vec<(&'a str, Figure, Figure)>,
    /// Label, threshold, validation rows; then precision, recall and F1 at one half, and tuned.
    pub(super) labels: Vec<[String; 9]>,
}

#[derive(Serialize)]
pub(super) struct ConfusionView<'a> {
    pub(super) labels: &'a [String],
    pub(super) rows: Vec<ConfusionRow<'a>>,
}

#[derive(Serialize)]
pub(super) struct ConfusionRow<'a> {
    pub(super) label: &'a str,
    pub(super) total: String,
    pub(super) cells: Vec<Cell>,
}

#[derive(Serialize)]
pub(super) struct Cell {
    pub(super) count: String,
    pub(super) share: String,
    /// Whole percent, for the depth of the tint.
    pub(super) tint: u32,
    pub(super) right: bool,
}

#[derive(Serialize)]
pub(super) struct MistakeView<'a> {
    pub(super) row: u64,
    pub(super) truth: &'a str,
    pub(super) predicted: &'a str,
    pub(super) confidence: String,
    pub(super) opening: String,
    /// The whole text, if the opening is not all of it.
    pub(super) whole: Option<String>,
}

#[derive(Serialize)]
pub(super) struct DataView<'a> {
    pub(super) names: Vec<&'a str>,
    pub(super) warnings: &'a [String],
    pub(super) rows: Vec<(String, Vec<String>)>,
    pub(super) balance: Vec<(&'a str, Vec<Share>)>,
}

#[derive(Serialize)]
pub(super) struct Share {
    pub(super) rows: String,
    pub(super) share: String,
    pub(super) width: u32,
}

impl<'a> View<'a> {
    pub(super) fn of(report: &'a Report) -> View<'a> {
        let test = report.test.as_ref();
        let (scores, interval_scale) = scores(test);
        let shown = test.map_or(0, |t| t.mistakes.len() as u64);
        View {
            report,
            best_epoch: report.best_epoch.map(|e| format!("epoch {e}")),
            last_epoch: report.epochs.last().map(|e| format!("epoch {}", e.epoch)),
            scores,
            has_last: report.has_last(),
            interval_scale,
            test_rows: test.map_or_else(String::new, |t| count(t.rows)),
            charts: curves::by_epoch(report),
            step_charts: curves::by_step(&report.steps),
            epoch_head: epoch_head(report.has_micro_f1()),
            epochs: report.epochs.iter().map(|e| epoch_row(e, report.has_micro_f1())).collect(),
            candidate_head: candidate_head(report),
            candidates: report.candidates.iter().map(candidate_row).collect(),
            labels: test.map_or_else(Vec::new, label_rows),
            thresholds: test.and_then(|t| t.thresholds.as_ref()).map(thresholds),
            confusion: test.and_then(|t| t.confusion.as_ref()).and_then(confusion),
            precision_recall: test
                .and_then(|t| t.precision_recall.as_ref())
                .filter(|curve| !curve.points.is_empty())
                .map(curves::precision_recall),
            scale: test.map_or("", |t| &t.scale),
            mistakes: test.map_or_else(Vec::new, mistakes),
            mistakes_in_all: test.map_or_else(String::new, |t| count(t.mistakes_in_all)),
            mistakes_hidden: test.is_some_and(|t| t.mistakes_in_all > shown),
            data: report.data.as_ref().map(data),
            facts: facts(report),
        }
    }
}

fn scores(test: Option<&Test>) -> (Vec<ScoreView<'_>>, [String; 2]) {
    let scores = test.map_or(&[][..], |t| &t.scores);
    let lowest = scores
        .iter()
        .flat_map(|s| [s.best, s.last])
        .flatten()
        .flat_map(|e| [Some(e.value), e.interval.map(|i| i.0)])
        .flatten()
        .filter(|v| v.is_finite())
        .fold(1.0, f64::min);
    let start = ((lowest * 10.0).floor() / 10.0).clamp(0.0, 0.9);
    let views = scores
        .iter()
        .map(|s| ScoreView {
            name: &s.name,
            best: figure(s.best),
            last: figure(s.last),
            plot: chart::whiskers(
                [s.best, s.last].map(|e| e.map(|e| (e.value, e.interval))),
                start,
            ),
        })
        .collect();
    (views, [format!("{start:.1}"), "1.0".to_owned()])
}

fn figure(estimate: Option<Estimate>) -> Figure {
    let interval = estimate
        .and_then(|e| e.interval)
        .filter(|(low, high)| low.is_finite() && high.is_finite())
        .map_or_else(String::new, |(low, high)| format!("{low:.3} – {high:.3}"));
    Figure { value: share(estimate.map(|e| e.value)), interval }
}

fn epoch_head(micro: bool) -> Vec<&'static str> {
    let mut head =
        vec!["epoch", "train loss", "validation loss", "train accuracy", "validation accuracy"];
    match micro {
        true => head.extend([
            "train micro-F1",
            "validation micro-F1",
            "train macro-F1",
            "validation macro-F1",
        ]),
        false => head.extend(["train F1", "validation F1"]),
    }
    head
}

fn epoch_row(e: &Epoch, micro: bool) -> Vec<String> {
    let loss =
        |v: Option<f64>| v.filter(|v| v.is_finite()).map_or(MISSING.into(), |v| format!("{v:.4}"));
    let mut row = vec![
        e.epoch.to_string(),
        loss(e.train.loss),
        loss(e.validation.loss),
        share(e.train.accuracy),
        share(e.validation.accuracy),
    ];
    if micro {
        row.extend([e.train.micro_f1, e.validation.micro_f1].map(share));
    }
    row.extend([e.train.f1, e.validation.f1].map(share));
    row
}

fn candidate_head(report: &Report) -> Vec<&str> {
    let Some(first) = report.candidates.first() else { return Vec::new() };
    let names = first.settings.iter().map(|(name, _)| name.as_str());
    names.chain([report.selected_by.as_str(), "converged", "chosen"]).collect()
}

fn candidate_row(candidate: &super::Candidate) -> Vec<String> {
    let values = candidate.settings.iter().map(|(_, value)| value.clone());
    let yes = |is: bool| if is { "yes" } else { "" }.to_owned();
    let score = format!("{:.5}", candidate.score);
    values.chain([score, yes(candidate.converged), yes(candidate.best)]).collect()
}

fn thresholds(tuned: &TunedThresholds) -> ThresholdsView<'_> {
    let scores = tuned
        .scores
        .iter()
        .map(|(name, half, tuned)| (name.as_str(), figure(Some(*half)), figure(Some(*tuned))));
    let label = |label: &super::TunedLabel| {
        let of = |l: &super::LabelScore| [l.precision, l.recall, l.f1].map(|v| share(Some(v)));
        let ([a, b, c], [d, e, f]) = (of(&label.half), of(&label.tuned));
        let name = label.half.name.clone();
        [name, share(Some(label.threshold)), count(label.validation_rows), a, b, c, d, e, f]
    };
    ThresholdsView { scores: scores.collect(), labels: tuned.labels.iter().map(label).collect() }
}

fn label_rows(test: &Test) -> Vec<[String; 5]> {
    let row = |l: &super::LabelScore| {
        let [p, r, f] = [l.precision, l.recall, l.f1].map(|v| share(Some(v)));
        [l.name.clone(), p, r, f, count(l.rows)]
    };
    test.labels.iter().map(row).collect()
}

fn confusion(confusion: &Confusion) -> Option<ConfusionView<'_>> {
    if confusion.labels.is_empty() {
        return None;
    }
    let mut rows = Vec::new();
    for (truth, (label, counts)) in confusion.labels.iter().zip(&confusion.counts).enumerate() {
        let total = counts.iter().sum();
        let cell = |(predicted, &n): (usize, &u64)| Cell {
            count: count(n),
            share: percent(n, total),
            tint: (n * 100).checked_div(total).unwrap_or(0) as u32,
            right: predicted == truth,
        };
        let cells = counts.iter().enumerate().map(cell).collect();
        rows.push(ConfusionRow { label, total: count(total), cells });
    }
    Some(ConfusionView { labels: &confusion.labels, rows })
}

fn mistakes(test: &Test) -> Vec<MistakeView<'_>> {
    let view = |m: &'_ super::Mistake| {
        let length = m.text.chars().count();
        let mut whole = printable(m.text.chars().take(CUT));
        if length > CUT {
            whole.push_str(&format!(" … ({} more characters)", count((length - CUT) as u64)));
        }
        let folded = length > FOLDED;
        let mut opening = whole.clone();
        if folded {
            opening = printable(m.text.chars().take(FOLDED - 40));
            opening.push('…');
        }
        (share(Some(m.confidence)), opening, folded.then_some(whole))
    };
    let all = test.mistakes.iter().map(|m| {
        let (confidence, opening, whole) = view(m);
        let (truth, predicted) = (m.truth.as_str(), m.predicted.as_str());
        MistakeView { row: m.row, truth, predicted, confidence, opening, whole }
    });
    all.collect()
}

/// Control characters become visible, so that a text cannot hide a part of itself.
fn printable(text: impl Iterator<Item = char>) -> String {
    text.map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

fn data(data: &Data) -> DataView<'_> {
    let splits = &data.splits;
    let row = |name: &str, cell: &dyn Fn(&super::Split) -> String| {
        (name.to_owned(), splits.iter().map(cell).collect::<Vec<_>>())
    };
    let part = |n: u64, of: u64| match n {
        0 => "0".to_owned(),
        n => format!("{} ({})", count(n), percent(n, of)),
    };
    let mut rows = vec![row("Rows", &|s| count(s.rows))];
    if let Some(max_length) = data.max_length {
        rows.extend([
            row("Tokens per row, median", &|s| count(s.tokens_median)),
            row("Tokens per row, 95th percentile", &|s| count(s.tokens_p95)),
            row("Tokens in the longest row", &|s| count(s.tokens_max)),
            row(&format!("Rows longer than {max_length} tokens"), &|s| {
                part(s.truncated_rows, s.rows)
            }),
            row("Tokens cut off", &|s| count(s.tokens_lost)),
        ]);
    }
    rows.extend([
        row("Texts repeated within the split", &|s| part(s.duplicate_rows, s.rows)),
        row("Texts that also occur in train", &|s| match s.name.as_str() {
            "train" => MISSING.to_owned(),
            _ => part(s.rows_also_in_train, s.rows),
        }),
    ]);
    let balance = data.labels.iter().enumerate().map(|(i, label)| {
        let share = |s: &super::Split| {
            let n = s.label_rows.get(i).copied().unwrap_or(0);
            let width = (n * 100).checked_div(s.rows).unwrap_or(0).min(100) as u32;
            Share { rows: count(n), share: percent(n, s.rows), width }
        };
        (label.as_str(), splits.iter().map(share).collect())
    });
    DataView {
        names: splits.iter().map(|s| s.name.as_str()).collect(),
        warnings: &data.warnings,
        rows,
        balance: balance.collect(),
    }
}

fn facts(report: &Report) -> Vec<(&'static str, Vec<(&'static str, String)>)> {
    let (p, t, e) = (&report.parameters, &report.timing, &report.environment);
    let rate = |v: Option<f64>| match v {
        Some(v) if v.is_finite() => format!("{} per second", count(v.round().max(0.0) as u64)),
        _ => MISSING.to_owned(),
    };
    let memory = |bytes: u64| match bytes as f64 / f64::from(1 << 20) {
        mebibytes if mebibytes >= 1024.0 => format!("{:.2} GiB", mebibytes / 1024.0),
        mebibytes => format!("{mebibytes:.0} MiB"),
    };
    let trained = format!("{} ({})", count(p.trainable), percent(p.trainable, p.total));
    let mut time = vec![
        ("Run time", duration(Some(t.total_seconds))),
        ("In training", duration(t.training_seconds)),
    ];
    if let Some(steps) = t.steps {
        time.extend([
            ("Optimizer steps", count(steps)),
            ("Tokens", rate(t.tokens_per_second)),
            ("Examples", rate(t.examples_per_second)),
        ]);
    }
    time.push(("Peak memory", t.peak_memory_bytes.map_or(MISSING.to_owned(), memory)));
    vec![
        (
            "Model",
            vec![
                ("Model", report.model.clone()),
                ("Method", report.method.clone()),
                ("Parameters", count(p.total)),
                ("Trained", trained),
            ],
        ),
        ("Time", time),
        (
            "Environment",
            vec![
                ("ferrotune", e.version.clone()),
                ("Processor", e.cpu.clone()),
                ("Threads", e.threads.to_string()),
                (
                    "Instruction set",
                    if e.instruction_set.is_empty() { MISSING } else { &e.instruction_set }
                        .to_owned(),
                ),
                ("Precision", e.precision.clone()),
                ("Seed", e.seed.to_string()),
            ],
        ),
    ]
}

fn share(value: Option<f64>) -> String {
    value.filter(|v| v.is_finite()).map_or_else(|| MISSING.to_owned(), |v| format!("{v:.3}"))
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return MISSING.to_owned();
    }
    format!("{:.1} %", part as f64 * 100.0 / whole as f64)
}

/// A whole number with thousands set apart by commas.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn duration(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds.filter(|s| s.is_finite() && *s >= 0.0) else {
        return MISSING.to_owned();
    };
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}
