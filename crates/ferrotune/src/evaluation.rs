//! A model on a whole split: every row counts once, none is dropped, nothing is averaged over
//! batches.

use crate::metrics::{self, Classes, Scores};
use anyhow::{Result, bail};
use architectures::{Batch, Cpu, SequenceClassifier};
use data::{Encoded, Example, LabelScheme, Task, Tokenizer};

/// Tokens computed at a time where nothing is trained.
pub const TOKEN_BUDGET: usize = 4096;

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
    /// The tokens of labelled rows; `name` is what an error calls the split.
    ///
    /// # Errors
    /// A text that the tokenizer refuses, with its row.
    pub fn encode(tokenizer: &Tokenizer, examples: &[Example], name: &str) -> Result<Split> {
        let texts: Vec<&str> = examples.iter().map(|e| e.text.as_str()).collect();
        let labels = examples.iter().map(|e| e.labels[0] as u32).collect();
        match tokenizer.encode_batch(&texts) {
            Ok(encoded) => Ok(Split::new(encoded, labels)),
            Err(data::Error::Encode { index, problem }) => bail!(
                "cannot tokenize the {name} text in row {} of its file: {problem}",
                examples[index].row
            ),
            Err(error) => Err(error.into()),
        }
    }

    /// Encoded rows and their classes; `labels` may be empty.
    pub fn new(encoded: Vec<Encoded>, labels: Vec<u32>) -> Split {
        let lengths = encoded.iter().map(|e| e.ids.len() as u32).collect();
        Split { encoded, labels, lengths }
    }

    /// A number that changes with any token or class (FNV-1a), to tell whether data was edited.
    pub fn fingerprint(&self) -> u64 {
        let numbers = self
            .encoded
            .iter()
            .zip(&self.labels)
            .flat_map(|(encoded, &label)| encoded.ids.iter().copied().chain([u32::MAX, label]));
        numbers.fold(0xcbf2_9ce4_8422_2325, |hash, number| {
            (hash ^ u64::from(number)).wrapping_mul(0x0100_0000_01b3)
        })
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

/// The logits of each class by row, [N, C], in the split's order. `progress` is told of each batch's
/// rows, and ends the work by an error.
///
/// # Errors
/// A logit is not finite: training diverged, or the weights are damaged. What `progress` answers.
pub fn logits(
    backend: &Cpu,
    model: &SequenceClassifier<Cpu>,
    split: &Split,
    token_budget: usize,
    mut progress: impl FnMut(usize) -> Result<()>,
) -> Result<Vec<f32>> {
    let classes = model.labels;
    let mut all = vec![0.0; split.rows() * classes];
    for rows in data::by_length(&split.lengths, token_budget) {
        let packed = data::pack(&split.encoded, &[], &rows);
        let batch = Batch::new(backend, &packed.ids, &packed.cu_seqlens);
        let logits = model.predict(backend, &batch);
        for (&row, logits) in rows.iter().zip(logits.chunks(classes)) {
            if let Some(logit) = logits.iter().find(|logit| !logit.is_finite()) {
                bail!("the model answers row {} with a logit of {logit}", row + 1);
            }
            all[row as usize * classes..][..classes].copy_from_slice(logits);
        }
        progress(rows.len())?;
    }
    Ok(all)
}

/// Logits [N, C] become probabilities.
pub fn softmax(logits: &mut [f32], classes: usize) {
    for row in logits.chunks_mut(classes) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|x| *x = (*x - max).exp());
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= sum);
    }
}

/// The mean of `−log softmax(x)[y]` over the rows of `logits` [N, C]; 0 without rows.
fn mean_loss(logits: &[f32], labels: &[u32], classes: usize) -> f64 {
    let losses = logits.chunks(classes).zip(labels).map(|(row, &label)| {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
        sum.ln() + f64::from(max) - f64::from(row[label as usize])
    });
    losses.sum::<f64>() / labels.len().max(1) as f64
}

/// How a task's figures are computed.
pub fn classes_of(labels: &LabelScheme) -> Classes {
    match labels.task {
        Task::Binary => Classes::Binary,
        Task::Multiclass | Task::MultiLabel => Classes::Multi(labels.names.len()),
    }
}

/// Evaluates a model on a labelled split.
///
/// # Errors
/// As [`logits`].
pub fn evaluate(
    backend: &Cpu,
    model: &SequenceClassifier<Cpu>,
    split: &Split,
    classes: Classes,
    token_budget: usize,
    progress: impl FnMut(usize) -> Result<()>,
) -> Result<Evaluation> {
    let mut answers = logits(backend, model, split, token_budget, progress)?;
    let loss = mean_loss(&answers, &split.labels, classes.count());
    softmax(&mut answers, classes.count());
    let scores = metrics::scores(&answers, &split.labels, classes);
    Ok(Evaluation { probabilities: answers, loss, scores })
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
