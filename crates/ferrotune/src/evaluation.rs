//! A model on a whole split: every row counts once, none is dropped, nothing is averaged over
//! batches.

use crate::metrics::{self, Classes, Scores};
use architectures::{Batch, Cpu, SequenceClassifier};
use data::{Encoded, LabelScheme, Task};

/// One split as the engine reads it.
#[derive(Debug)]
pub struct Split {
    /// Token ids, by row.
    pub encoded: Vec<Encoded>,
    /// Class of each row.
    pub labels: Vec<u32>,
    /// Tokens of each row, after truncation.
    pub lengths: Vec<u32>,
}

impl Split {
    /// Encoded rows and their classes; `labels` may be empty.
    pub fn new(encoded: Vec<Encoded>, labels: Vec<u32>) -> Split {
        let lengths = encoded.iter().map(|e| e.ids.len() as u32).collect();
        Split { encoded, labels, lengths }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.encoded.len()
    }
}

/// A model's answers on a split, and how good they are.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Probability of each class by row, [N, C].
    pub probabilities: Vec<f32>,
    /// Mean loss, unweighted.
    pub loss: f64,
    /// Figures of the whole split.
    pub scores: Scores,
}

/// The probability of each class by row, [N, C], in the split's order.
pub fn probabilities(
    backend: &Cpu,
    model: &SequenceClassifier<Cpu>,
    split: &Split,
    token_budget: usize,
    mut progress: impl FnMut(usize),
) -> Vec<f32> {
    let classes = model.labels;
    let mut all = vec![0.0; split.rows() * classes];
    for rows in data::by_length(&split.lengths, token_budget) {
        let packed = data::pack(&split.encoded, &[], &rows);
        let batch = Batch::new(backend, &packed.ids, &packed.cu_seqlens);
        let logits = model.predict(backend, &batch);
        for (&row, logits) in rows.iter().zip(logits.chunks(classes)) {
            softmax(logits, &mut all[row as usize * classes..][..classes]);
        }
        progress(rows.len());
    }
    all
}

/// How a task's figures are computed.
pub fn classes_of(labels: &LabelScheme) -> Classes {
    match labels.task {
        Task::Binary => Classes::Binary,
        Task::Multiclass => Classes::Multi(labels.names.len()),
    }
}

/// Evaluates a model on a labelled split.
pub fn evaluate(
    backend: &Cpu,
    model: &SequenceClassifier<Cpu>,
    split: &Split,
    classes: Classes,
    token_budget: usize,
) -> Evaluation {
    let probabilities = probabilities(backend, model, split, token_budget, |_| ());
    let loss = probabilities
        .chunks(classes.count())
        .zip(&split.labels)
        .map(|(p, &label)| -f64::from(p[label as usize].max(f32::MIN_POSITIVE)).ln())
        .sum::<f64>()
        / split.rows() as f64;
    let scores = metrics::scores(&probabilities, &split.labels, classes);
    Evaluation { probabilities, loss, scores }
}

fn softmax(logits: &[f32], out: &mut [f32]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for (o, x) in out.iter_mut().zip(logits) {
        *o = (x - max).exp();
    }
    let sum: f32 = out.iter().sum();
    for o in out {
        *o /= sum;
    }
}

/// The most probable class, the first of equals.
pub fn predicted(probabilities: &[f32]) -> usize {
    let mut best = 0;
    for (class, p) in probabilities.iter().enumerate() {
        if *p > probabilities[best] {
            best = class;
        }
    }
    best
}
