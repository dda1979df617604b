//! Metrics of a whole split: computed once from all its rows, never averaged over batches.
//!
//! Every figure equals scikit-learn's with `zero_division=0`; the tests hold its values. Where a
//! figure is not defined it is 0, as there: a split without rows scores 0 throughout. A NaN
//! probability counts as the lowest there is. Refused, as errors of the calling code: slices whose
//! lengths disagree, and labels that are no class.
mod bootstrap;
mod curve;
#[cfg(test)]
mod tests;

pub use bootstrap::{Interval, Intervals, bootstrap};
pub use curve::precision_recall_curve;

use serde::{Deserialize, Serialize};

use curve::Ranking;

/// The classes of a task, and with them what precision, recall and F1 speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Classes {
    /// Two classes; the figures are those of class 1.
    Binary,
    /// So many classes; the figures are unweighted means over those that occur, be it only as a
    /// prediction ("macro" averages).
    Multi(usize),
}

impl Classes {
    /// How many there are.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::Binary => 2,
            Self::Multi(count) => count,
        }
    }
}

/// The figures of a split, all between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Share of rows whose predicted class is the true one.
    pub accuracy: f64,
    /// Of the rows predicted positive, the share that is; or its mean over the classes.
    pub precision: f64,
    /// Of the positive rows, the share that was found; or its mean over the classes.
    pub recall: f64,
    /// Harmonic mean of both; or the mean of the classes' F1.
    pub f1: f64,
    /// Area under the precision-recall steps; binary tasks with at least one row only.
    pub average_precision: Option<f64>,
    /// Rows by `[truth][predicted]`.
    pub confusion: Vec<Vec<u64>>,
}

/// The figures of one class against all others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// Of the rows predicted so, the share that is.
    pub precision: f64,
    /// Of the rows that are, the share that was predicted so.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
    /// Rows whose true class this is.
    pub rows: u64,
}

/// Scores `probabilities`, `[N, C]` row by row, against the true classes. The prediction is the
/// most probable class, the first of equals.
///
/// # Panics
/// If there are not `C` probabilities per label, or a label is `C` or more.
#[must_use]
pub fn scores(probabilities: &[f32], labels: &[u32], classes: Classes) -> Scores {
    let mut confusion = no_rows(classes);
    for (truth, predicted) in outcomes(probabilities, labels, classes) {
        confusion[truth][predicted] += 1;
    }
    let ranking = (classes == Classes::Binary && !labels.is_empty())
        .then(|| Ranking::new(positive(probabilities), labels));
    let headline = Headline::of(&confusion, classes);
    Scores {
        accuracy: headline.accuracy,
        precision: headline.precision,
        recall: headline.recall,
        f1: headline.f1,
        average_precision: ranking.map(|ranking| curve::average_precision(&ranking.ties)),
        confusion,
    }
}

/// The figures that a confusion matrix `[truth][predicted]` alone gives: all but the average
/// precision.
#[must_use]
pub fn scores_of_confusion(confusion: Vec<Vec<u64>>, classes: Classes) -> Scores {
    let Headline { accuracy, precision, recall, f1 } = Headline::of(&confusion, classes);
    Scores { accuracy, precision, recall, f1, average_precision: None, confusion }
}

/// The figures of each class of a confusion matrix `[truth][predicted]`.
#[must_use]
pub fn per_class(confusion: &[Vec<u64>]) -> Vec<ClassScores> {
    tallies(confusion).map(|tally| tally.scores()).collect()
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

/// What a confusion matrix says in four figures.
struct Headline {
    accuracy: f64,
    precision: f64,
    recall: f64,
    f1: f64,
}

impl Headline {
    fn of(confusion: &[Vec<u64>], classes: Classes) -> Self {
        let tallies: Vec<Tally> = tallies(confusion).collect();
        let rows = tallies.iter().map(|tally| tally.rows).sum();
        let hits = tallies.iter().map(|tally| tally.hits).sum();
        let averaged: Vec<ClassScores> = match classes {
            Classes::Binary => vec![tallies[1].scores()],
            Classes::Multi(_) => {
                let occurs = |tally: &&Tally| tally.rows + tally.predicted > 0;
                tallies.iter().filter(occurs).map(Tally::scores).collect()
            }
        };
        let mean = |figure: fn(&ClassScores) -> f64| {
            // `sum()` of no floats is -0.
            let sum = averaged.iter().map(figure).fold(0.0, |sum, figure| sum + figure);
            sum / averaged.len().max(1) as f64
        };
        Self {
            accuracy: share(hits, rows),
            precision: mean(|class| class.precision),
            recall: mean(|class| class.recall),
            f1: mean(|class| class.f1),
        }
    }
}

/// One class in a confusion matrix: right predictions, its row's sum and its column's.
struct Tally {
    hits: u64,
    rows: u64,
    predicted: u64,
}

impl Tally {
    fn scores(&self) -> ClassScores {
        ClassScores {
            precision: share(self.hits, self.predicted),
            recall: share(self.hits, self.rows),
            f1: share(2 * self.hits, self.predicted + self.rows),
            rows: self.rows,
        }
    }
}

fn tallies(confusion: &[Vec<u64>]) -> impl Iterator<Item = Tally> {
    confusion.iter().enumerate().map(move |(class, row)| Tally {
        hits: row[class],
        rows: row.iter().sum(),
        predicted: confusion.iter().map(|row| row[class]).sum(),
    })
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn no_rows(classes: Classes) -> Vec<Vec<u64>> {
    vec![vec![0; classes.count()]; classes.count()]
}

/// The true and the predicted class of each row.
fn outcomes(
    probabilities: &[f32],
    labels: &[u32],
    classes: Classes,
) -> impl Iterator<Item = (usize, usize)> {
    let count = classes.count();
    assert!(count > 0, "there must be a class");
    assert_eq!(probabilities.len(), labels.len() * count, "{count} probabilities per label");
    probabilities.chunks_exact(count).zip(labels).map(move |(row, &label)| {
        let truth = label as usize;
        assert!(truth < count, "label {label} is none of {count} classes");
        (truth, most_probable(row))
    })
}

fn most_probable(row: &[f32]) -> usize {
    let (mut best, mut highest) = (0, f32::NEG_INFINITY);
    for (class, &probability) in row.iter().enumerate() {
        // False for NaN, which therefore never wins.
        if probability > highest {
            (best, highest) = (class, probability);
        }
    }
    best
}

/// The probabilities of class 1 of two.
fn positive(probabilities: &[f32]) -> impl Iterator<Item = f32> {
    probabilities.chunks_exact(2).map(|row| row[1])
}
