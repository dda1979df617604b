//! Metrics of a whole split: computed once from all its rows, never averaged over batches.
//!
//! Every figure equals scikit-learn's with `zero_division=0`; the tests hold its values. Where a
//! figure is not defined it is 0, as there: a split without rows scores 0 throughout. A NaN
//! probability counts as the lowest there is. Multi-label tasks are scored as LexGLUE does
//! (Chalkidis et al. 2022): "none" is a further label, which a row has that has no other, among
//! the true labels and the predicted ones alike. Refused, as errors of the calling code: slices
//! whose lengths disagree, and labels that are no class.
mod bootstrap;
mod counts;
mod curve;
#[cfg(test)]
mod tests;
mod threshold;

pub use bootstrap::{Interval, Intervals, bootstrap};
pub use counts::{Counts, Tally};
pub use curve::precision_recall_curve;
pub use threshold::best_threshold;

use serde::{Deserialize, Serialize};

use counts::Headline;
use curve::Ranking;

/// Above this probability a label is given, unless another threshold is set.
pub const HALF: f32 = 0.5;

/// The classes of a task, and with them what precision, recall and F1 speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Classes {
    /// Two classes; the figures are those of class 1.
    Binary,
    /// So many classes; the figures are unweighted means over those that occur, be it only as a
    /// prediction ("macro" averages).
    Multi(usize),
    /// So many labels, any number of them per row; the figures are unweighted means over all of
    /// them and "none".
    MultiLabel(usize),
}

impl Classes {
    /// How many classes or labels there are.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::Binary => 2,
            Self::Multi(count) | Self::MultiLabel(count) => count,
        }
    }

    /// How many numbers say what a row is: one class, or 0 or 1 for each label.
    #[must_use]
    pub fn width(self) -> usize {
        match self {
            Self::Binary | Self::Multi(_) => 1,
            Self::MultiLabel(labels) => labels,
        }
    }
}

/// The figures of a split, all between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Share of rows whose predicted class, or all of whose labels, are the true ones.
    pub accuracy: f64,
    /// Of the rows predicted positive, the share that is; or its mean over the classes.
    pub precision: f64,
    /// Of the positive rows, the share that was found; or its mean over the classes.
    pub recall: f64,
    /// Harmonic mean of both; or the mean of the classes' F1.
    pub f1: f64,
    /// F1 of all decisions on labels together; multi-label tasks only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_f1: Option<f64>,
    /// Area under the precision-recall steps; binary tasks with at least one row only.
    pub average_precision: Option<f64>,
    /// Rows by truth and answer.
    #[serde(flatten)]
    pub counts: Counts,
}

impl Scores {
    /// The figures that counts alone give: all but the average precision.
    #[must_use]
    pub fn of(counts: Counts, classes: Classes) -> Self {
        let Headline { accuracy, precision, recall, f1, micro_f1 } = Headline::of(&counts, classes);
        Self { accuracy, precision, recall, f1, micro_f1, average_precision: None, counts }
    }
}

/// Scores `probabilities`, `[N, C]` row by row, against the truth, as many numbers for each row as
/// [`Classes::width`] says; `thresholds` as for [`answers`].
///
/// # Panics
/// If there are not `C` probabilities per row, or a label is none of the classes.
#[must_use]
pub fn scores(
    probabilities: &[f32],
    labels: &[u32],
    classes: Classes,
    thresholds: &[f32],
) -> Scores {
    let mut counts = Counts::none(classes);
    counts.add(labels, &checked_answers(probabilities, labels, classes, thresholds));
    let ranking = (classes == Classes::Binary && !labels.is_empty())
        .then(|| Ranking::new(positive(probabilities), labels));
    let average_precision = ranking.map(|ranking| curve::average_precision(&ranking.ties));
    Scores { average_precision, ..Scores::of(counts, classes) }
}

/// What a model answers, `[N, width]`: of each row the most probable class, the first of equals; or
/// for each label whether its probability is above one half. `thresholds` stand in for one half:
/// one for each label, or that of the positive class of a binary task; none where there are none.
///
/// # Panics
/// If there are not `C` probabilities per row, or another number of thresholds.
#[must_use]
pub fn answers(probabilities: &[f32], classes: Classes, thresholds: &[f32]) -> Vec<u32> {
    let count = classes.count();
    assert!(count > 0, "there must be a class");
    assert_eq!(probabilities.len() % count, 0, "{count} probabilities per row");
    match (classes, thresholds) {
        (Classes::Binary, &[threshold]) => {
            positive(probabilities).map(|p| u32::from(p > threshold)).collect()
        }
        (Classes::Binary | Classes::Multi(_), []) => {
            probabilities.chunks_exact(count).map(most_probable).collect()
        }
        (Classes::MultiLabel(_), []) => {
            probabilities.iter().map(|&p| u32::from(p > HALF)).collect()
        }
        (Classes::MultiLabel(_), thresholds) if thresholds.len() == count => {
            let pairs = probabilities.iter().zip(thresholds.iter().cycle());
            pairs.map(|(p, threshold)| u32::from(p > threshold)).collect()
        }
        _ => panic!("{} thresholds for {classes:?}", thresholds.len()),
    }
}

/// Loss weights that give every class the same say ("balanced"): rows / (classes × rows of the
/// class). A class without rows counts as no class and weighs 1.
#[must_use]
pub fn class_weights(counts: &[usize]) -> Vec<f32> {
    let rows: usize = counts.iter().sum();
    let classes = counts.iter().filter(|&&count| count > 0).count();
    let weight = |&count: &usize| match count {
        0 => 1.0,
        _ => (rows as f64 / (classes as f64 * count as f64)) as f32,
    };
    counts.iter().map(weight).collect()
}

/// Loss weights of the rows that have a label which give them the same say as those that have it
/// not: rows without it / rows with it. A label on all rows or on none weighs 1.
#[must_use]
pub fn positive_weights(counts: &[usize], rows: usize) -> Vec<f32> {
    let weight = |&count: &usize| match count {
        0 => 1.0,
        count if count >= rows => 1.0,
        count => ((rows - count) as f64 / count as f64) as f32,
    };
    counts.iter().map(weight).collect()
}

/// The answers to labelled rows.
fn checked_answers(
    probabilities: &[f32],
    labels: &[u32],
    classes: Classes,
    thresholds: &[f32],
) -> Vec<u32> {
    let (count, width) = (classes.count(), classes.width());
    assert_eq!(probabilities.len() * width, labels.len() * count, "{count} probabilities per row");
    answers(probabilities, classes, thresholds)
}

fn most_probable(row: &[f32]) -> u32 {
    let (mut best, mut highest) = (0, f32::NEG_INFINITY);
    for (class, &probability) in row.iter().enumerate() {
        // False for NaN, which therefore never wins.
        if probability > highest {
            (best, highest) = (class as u32, probability);
        }
    }
    best
}

/// The probabilities of class 1 of two.
fn positive(probabilities: &[f32]) -> impl Iterator<Item = f32> {
    probabilities.chunks_exact(2).map(|row| row[1])
}
