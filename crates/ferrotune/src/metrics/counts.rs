//! Answers counted against the truth, and the figures that the counts alone give.

use serde::{Deserialize, Serialize};

use super::Classes;

/// Rows by truth and answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Counts {
    /// Where a row is of one class: rows by `[truth][predicted]`.
    #[serde(rename = "confusion")]
    Confusion(Vec<Vec<u64>>),
    /// Where a row has any number of labels.
    #[serde(rename = "labels")]
    Labels(LabelCounts),
}

/// Rows that have a label, that were given it, and both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelCounts {
    /// Of each label, and last of "none", which a row has that has no other.
    pub tallies: Vec<Tally>,
    /// Rows whose labels are all as they should be.
    pub exact: u64,
    /// Rows in all.
    pub rows: u64,
}

/// One class or label against all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Rows rightly predicted to be of it.
    pub hits: u64,
    /// Rows that are.
    pub rows: u64,
    /// Rows predicted to be.
    pub predicted: u64,
}

/// The figures of one class or label against all others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// Of the rows predicted so, the share that is.
    pub precision: f64,
    /// Of the rows that are, the share that was predicted so.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
    /// Rows whose true class or label this is.
    pub rows: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self::Confusion(Vec::new())
    }
}

impl Counts {
    /// No rows.
    pub fn none(classes: Classes) -> Self {
        match classes {
            Classes::Binary | Classes::Multi(_) => {
                Self::Confusion(vec![vec![0; classes.count()]; classes.count()])
            }
            Classes::MultiLabel(labels) => Self::Labels(LabelCounts {
                tallies: vec![Tally::default(); labels + 1],
                exact: 0,
                rows: 0,
            }),
        }
    }

    /// Counts rows; truth and answers are as wide as [`Classes::width`] says.
    ///
    /// # Panics
    /// They are not, or name what is no class.
    pub fn add(&mut self, truth: &[u32], answers: &[u32]) {
        match self {
            Self::Confusion(confusion) => {
                let classes = confusion.len();
                for (&truth, &answer) in truth.iter().zip(answers) {
                    let truth = truth as usize;
                    assert!(truth < classes, "label {truth} is none of {classes} classes");
                    confusion[truth][answer as usize] += 1;
                }
            }
            Self::Labels(counts) => {
                let labels = counts.tallies.len() - 1;
                for (truth, answer) in truth.chunks(labels).zip(answers.chunks(labels)) {
                    counts.add(truth, answer);
                }
            }
        }
    }

    /// Rows in all.
    pub fn rows(&self) -> u64 {
        match self {
            Self::Confusion(confusion) => confusion.iter().flatten().sum(),
            Self::Labels(counts) => counts.rows,
        }
    }

    /// Each class, or each label and last "none".
    pub fn tallies(&self) -> Vec<Tally> {
        match self {
            Self::Confusion(confusion) => {
                let tally = |(class, row): (usize, &Vec<u64>)| Tally {
                    hits: row[class],
                    rows: row.iter().sum(),
                    predicted: confusion.iter().map(|row| row[class]).sum(),
                };
                confusion.iter().enumerate().map(tally).collect()
            }
            Self::Labels(counts) => counts.tallies.clone(),
        }
    }
}

impl LabelCounts {
    fn add(&mut self, truth: &[u32], answer: &[u32]) {
        let none = |row: &[u32]| u32::from(row.iter().all(|&has| has == 0));
        let truth_and_answer = truth.iter().copied().chain([none(truth)]);
        let pairs = truth_and_answer.zip(answer.iter().copied().chain([none(answer)]));
        for (tally, (truth, answer)) in self.tallies.iter_mut().zip(pairs) {
            assert!(truth < 2, "{truth} is neither 0 nor 1");
            tally.hits += u64::from(truth & answer);
            tally.rows += u64::from(truth);
            tally.predicted += u64::from(answer);
        }
        self.exact += u64::from(truth == answer);
        self.rows += 1;
    }
}

impl Tally {
    /// Its figures.
    pub fn scores(&self) -> ClassScores {
        ClassScores {
            precision: share(self.hits, self.predicted),
            recall: share(self.hits, self.rows),
            f1: share(2 * self.hits, self.predicted + self.rows),
            rows: self.rows,
        }
    }
}

/// What counts say in a few figures.
pub(super) struct Headline {
    pub(super) accuracy: f64,
    pub(super) precision: f64,
    pub(super) recall: f64,
    pub(super) f1: f64,
    /// Of multi-label tasks.
    pub(super) micro_f1: Option<f64>,
}

impl Headline {
    pub(super) fn of(counts: &Counts, classes: Classes) -> Self {
        let tallies = counts.tallies();
        let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum();
        let occurs = |tally: &&Tally| tally.rows + tally.predicted > 0;
        let averaged: Vec<ClassScores> = match classes {
            Classes::Binary => vec![tallies[1].scores()],
            Classes::Multi(_) => tallies.iter().filter(occurs).map(Tally::scores).collect(),
            Classes::MultiLabel(_) => tallies.iter().map(Tally::scores).collect(),
        };
        let mean = |figure: fn(&ClassScores) -> f64| {
            // `sum()` of no floats is -0.
            let sum = averaged.iter().map(figure).fold(0.0, |sum, figure| sum + figure);
            sum / averaged.len().max(1) as f64
        };
        let hits = sum(|tally| tally.hits);
        let (right, micro_f1) = match counts {
            Counts::Confusion(_) => (hits, None),
            Counts::Labels(counts) => {
                let all = sum(|tally| tally.rows + tally.predicted);
                (counts.exact, Some(share(2 * hits, all)))
            }
        };
        Self {
            accuracy: share(right, counts.rows()),
            precision: mean(|class| class.precision),
            recall: mean(|class| class.recall),
            f1: mean(|class| class.f1),
            micro_f1,
        }
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
