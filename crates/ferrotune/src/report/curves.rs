//! Which curves a report has: loss, accuracy and F1 by epoch, loss and learning rate by step, and
//! precision by recall. Long curves are thinned so that a page stays small, and say so.
use serde::Serialize;

use super::chart::{self, Axis, Chart, Mark, Series};
use super::{Epoch, PrecisionRecall, Report, Step};

/// A step curve is averaged down to at most this many points.
const STEP_POINTS: usize = 240;
/// Points kept of a precision-recall curve.
const CURVE_POINTS: usize = 200;
/// Widths of a chart in a row of three and of two.
const THIRD: f64 = 340.0;
const HALF: f64 = 480.0;

/// A drawn chart with the words around it.
#[derive(Serialize)]
pub(super) struct Curve {
    title: String,
    note: String,
    svg: String,
}

pub(super) fn by_epoch(report: &Report) -> Vec<Curve> {
    let epochs = &report.epochs;
    let chart = |title: &str, pick: fn(&Epoch) -> [Option<f64>; 2]| {
        let points = |side: usize| -> Vec<(f64, f64)> {
            let point = |e: &Epoch| (f64::from(e.epoch), pick(e)[side].unwrap_or(f64::NAN));
            epochs.iter().map(point).collect()
        };
        let series = [("train", points(0)), ("validation", points(1))]
            .into_iter()
            .map(|(name, points)| Series { name, points })
            .collect();
        let mark = report
            .best_epoch
            .map(|e| Mark::Line { x: f64::from(e), text: format!("best: epoch {e}") });
        let svg = chart::draw(&Chart {
            width: THIRD,
            title: &format!("{title} per epoch, train and validation"),
            x: Axis { name: "epoch", range: None, whole: true },
            y: Axis { name: "", range: None, whole: false },
            series,
            mark,
        });
        Curve { title: title.to_owned(), note: String::new(), svg }
    };
    if epochs.is_empty() {
        return Vec::new();
    }
    let mut charts = vec![
        chart("Loss", |e| [e.train.loss, e.validation.loss]),
        chart("Accuracy", |e| [e.train.accuracy, e.validation.accuracy]),
    ];
    if report.has_micro_f1() {
        charts.push(chart("Micro-F1", |e| [e.train.micro_f1, e.validation.micro_f1]));
        charts.push(chart("Macro-F1", |e| [e.train.f1, e.validation.f1]));
    } else {
        charts.push(chart("F1", |e| [e.train.f1, e.validation.f1]));
    }
    charts
}

pub(super) fn by_step(steps: &[Step]) -> Vec<Curve> {
    if steps.is_empty() {
        return Vec::new();
    }
    let width = steps.len().div_ceil(STEP_POINTS);
    let averaged = |pick: fn(&Step) -> f64| -> Vec<(f64, f64)> {
        let mean = |chunk: &[Step]| chunk.iter().map(pick).sum::<f64>() / chunk.len() as f64;
        let last = |chunk: &[Step]| chunk[chunk.len() - 1].step as f64;
        steps.chunks(width).map(|chunk| (last(chunk), mean(chunk))).collect()
    };
    let chart = |title: &str, points| {
        let note = match width {
            1 => String::new(),
            n => format!("Each point is the mean of {n} steps."),
        };
        let svg = chart::draw(&Chart {
            width: HALF,
            title: &format!("{title} per optimizer step"),
            x: Axis { name: "step", range: None, whole: true },
            y: Axis { name: "", range: None, whole: false },
            series: vec![Series { name: title, points }],
            mark: None,
        });
        Curve { title: title.to_owned(), note, svg }
    };
    let mut charts = vec![chart("Training loss per step", averaged(|s| s.loss))];
    if steps.iter().any(|s| s.learning_rate.is_some()) {
        let rate = |s: &Step| s.learning_rate.unwrap_or(f64::NAN);
        charts.push(chart("Learning rate", averaged(rate)));
    }
    charts
}

pub(super) fn precision_recall(curve: &PrecisionRecall) -> Curve {
    // Between two thresholds the average precision counts the lower one's precision: draw steps.
    let stride = curve.points.len().div_ceil(CURVE_POINTS);
    let last = curve.points.len() - 1;
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (_, p) in curve.points.iter().enumerate().filter(|(i, _)| i % stride == 0 || *i == last) {
        let before = points.last().map_or(0.0, |b| b.0);
        points.push((before, p.precision));
        points.push((p.recall, p.precision));
    }
    let threshold = curve.threshold;
    let mark = curve.points.iter().rev().find(|p| p.threshold >= threshold).map(|p| Mark::Point {
        x: p.recall,
        y: p.precision,
        text: format!(
            "threshold {threshold}: precision {:.3}, recall {:.3}",
            p.precision, p.recall
        ),
    });
    let chance = curve.positive_share;
    let svg = chart::draw(&Chart {
        width: HALF,
        title: "Precision by recall of the best model on the test split",
        x: Axis { name: "recall", range: Some((0.0, 1.0)), whole: false },
        y: Axis { name: "precision", range: Some((0.0, 1.0)), whole: false },
        series: vec![
            Series { name: "best model", points },
            Series { name: "guessing", points: vec![(0.0, chance), (1.0, chance)] },
        ],
        mark,
    });
    Curve { title: "Precision and recall".to_owned(), note: String::new(), svg }
}
