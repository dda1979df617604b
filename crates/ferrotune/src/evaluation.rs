//! A model on a whole split: every row counts once, none is dropped, nothing is averaged over
//! batches.

use crate::metrics::{self, Classes, Scores};
use anyhow::{Result, bail};
use architectures::{Batch, Cpu, SequenceClassifier};
use data::{Encoded, Example, LabelScheme, Task, Tokenizer};

/// Tokens computed at a time where nothing is trained: so few that what a layer hands on may be in a cache
/// still, so many that each of these threads has enough rows for a weight that it reads.
pub fn token_budget(threads: usize) -> usize {
    (256 * threads).clamp(2048, 4096)
}

/// One split as the engine reads it.
#[derive(Debug)]
pub struct Split {
    /// Token ids, by row.
    pub encoded: Vec<Encoded>,
    /// Class of each row, or 0 or 1 for each label of each row.
    pub labels: Vec<u32>,
    /// Tokens of each row, after truncation.
    pub lengths: Vec<u32>,
}

impl Split {
    /// The tokens of labelled rows; `name` is what an error calls the split.
    ///
    /// # Errors
    /// A text that the tokenizer refuses, with its row.
    pub fn encode(
        tokenizer: &Tokenizer,
        examples: &[Example],
        classes: Classes,
        name: &str,
    ) -> Result<Split> {
        let texts: Vec<&str> = examples.iter().map(|e| e.text.as_str()).collect();
        match tokenizer.encode_batch(&texts) {
            Ok(encoded) => Ok(Split::new(encoded, targets(examples, classes))),
            Err(data::Error::Encode { index, problem }) => bail!(
                "cannot tokenize the {name} text in row {} of its file: {problem}",
                examples[index].row
            ),
            Err(error) => Err(error.into()),
        }
    }

    /// Encoded rows and their labels, which may be empty.
    pub fn new(encoded: Vec<Encoded>, labels: Vec<u32>) -> Split {
        let lengths = encoded.iter().map(|e| e.ids.len() as u32).collect();
        Split { encoded, labels, lengths }
    }

    /// A number that changes with any token or label (FNV-1a), to tell whether data was edited.
    pub fn fingerprint(&self) -> u64 {
        let width = (self.labels.len() / self.rows().max(1)).max(1);
        let numbers =
            self.encoded.iter().zip(self.labels.chunks(width)).flat_map(|(encoded, labels)| {
                encoded.ids.iter().chain([&u32::MAX]).chain(labels).copied()
            });
        numbers.fold(0xcbf2_9ce4_8422_2325, |hash, number| {
            (hash ^ u64::from(number)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.encoded.len()
    }
}

/// What the engine is told of each row: its class, or 0 or 1 for each label.
pub fn targets(examples: &[Example], classes: Classes) -> Vec<u32> {
    let mut targets = vec![0; examples.len() * classes.width()];
    for (example, row) in examples.iter().zip(targets.chunks_mut(classes.width())) {
        match classes {
            Classes::Binary | Classes::Multi(_) => row[0] = example.labels[0] as u32,
            Classes::MultiLabel(_) => example.labels.iter().for_each(|&label| row[label] = 1),
        }
    }
    targets
}

/// What the numbers are that a model gives a class or label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Probabilities, by a network.
    Probability,
    /// Signed distances from a hyperplane in units of its margin, by linear machines. They rank and
    /// decide as probabilities do, and are none.
    DecisionValue,
}

impl Scale {
    /// Above which a label, or the positive class of a binary task, is given.
    pub fn threshold(self) -> f32 {
        match self {
            Scale::Probability => metrics::HALF,
            Scale::DecisionValue => 0.0,
        }
    }

    /// The same, as [`metrics::answers`] takes it.
    pub fn thresholds(self, classes: Classes) -> Vec<f32> {
        match (self, classes) {
            (Scale::DecisionValue, Classes::MultiLabel(labels)) => vec![self.threshold(); labels],
            // One half; or the greater of two numbers that lie alike on both sides of the threshold.
            _ => Vec::new(),
        }
    }

    /// How much speaks against a label for which `value` speaks.
    pub fn against(self, value: f32) -> f32 {
        2.0 * self.threshold() - value
    }

    /// What one of them is called.
    pub fn name(self) -> &'static str {
        match self {
            Scale::Probability => "probability",
            Scale::DecisionValue => "decision value",
        }
    }
}

/// A model's answers on a split, and how good they are.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// What the model gives each class or label by row, [N, C].
    pub outputs: Vec<f32>,
    /// What these numbers are.
    pub scale: Scale,
    /// Mean of the loss that training makes small, unweighted.
    pub loss: f64,
    /// Figures of the whole split.
    pub scores: Scores,
}

impl Evaluation {
    /// The answer that every row gets, where all get the same and not all should.
    pub fn only_answer(&self, labels: &[u32], classes: Classes) -> Option<Vec<u32>> {
        let width = classes.width();
        let alike = |rows: &[u32]| rows.chunks(width).all(|row| row == &rows[..width]);
        let mut answers = metrics::answers(&self.outputs, classes, &self.scale.thresholds(classes));
        let indifferent = !alike(labels) && alike(&answers);
        answers.truncate(width);
        indifferent.then_some(answers)
    }
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

/// Logits [N, C] become probabilities: of classes that exclude each other, or of each label.
pub fn probabilities(logits: &mut [f32], classes: Classes) {
    match classes {
        Classes::Binary | Classes::Multi(_) => {
            logits.chunks_mut(classes.count()).for_each(softmax);
        }
        Classes::MultiLabel(_) => logits.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
    }
}

fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}

/// The mean loss over the rows (and labels) of `logits` [N, C], unweighted; 0 without rows.
fn mean_loss(logits: &[f32], labels: &[u32], classes: Classes) -> f64 {
    let cross_entropy = |(row, &label): (&[f32], &u32)| {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
        sum.ln() + f64::from(max) - f64::from(row[label as usize])
    };
    let binary_cross_entropy = |(&x, &target): (&f32, &u32)| {
        let x = if target == 1 { f64::from(x) } else { -f64::from(x) };
        (-x).max(0.0) + (-x.abs()).exp().ln_1p()
    };
    let sum: f64 = match classes {
        Classes::Binary | Classes::Multi(_) => {
            logits.chunks(classes.count()).zip(labels).map(cross_entropy).sum()
        }
        Classes::MultiLabel(_) => logits.iter().zip(labels).map(binary_cross_entropy).sum(),
    };
    sum / labels.len().max(1) as f64
}

/// How a task's figures are computed.
pub fn classes_of(labels: &LabelScheme) -> Classes {
    match labels.task {
        Task::Binary => Classes::Binary,
        Task::Multiclass => Classes::Multi(labels.names.len()),
        Task::MultiLabel => Classes::MultiLabel(labels.names.len()),
    }
}

/// Evaluates a network on a labelled split.
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
    let loss = mean_loss(&answers, &split.labels, classes);
    probabilities(&mut answers, classes);
    let scores = metrics::scores(&answers, &split.labels, classes, &[]);
    Ok(Evaluation { outputs: answers, scale: Scale::Probability, loss, scores })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_answers_all_rows_alike_is_told_from_rows_that_are() {
        let of = |outputs: &[f32], labels: &[u32], classes| {
            let scores = metrics::scores(outputs, labels, classes, &[]);
            let scale = Scale::Probability;
            let evaluation = Evaluation { outputs: outputs.to_vec(), scale, loss: 0.0, scores };
            evaluation.only_answer(labels, classes)
        };
        assert_eq!(of(&[0.9, 0.1, 0.6, 0.4], &[0, 1], Classes::Binary), Some(vec![0]));
        assert_eq!(of(&[0.9, 0.1, 0.6, 0.4], &[0, 0], Classes::Binary), None);
        assert_eq!(of(&[0.9, 0.1, 0.4, 0.6], &[0, 1], Classes::Binary), None);
        let labels = Classes::MultiLabel(2);
        assert_eq!(of(&[0.9, 0.1, 0.6, 0.4], &[1, 0, 0, 1], labels), Some(vec![1, 0]));
        assert_eq!(of(&[], &[], labels), None);
    }

    /// `BCEWithLogitsLoss` and `CrossEntropyLoss` of PyTorch on the same numbers.
    #[test]
    fn losses_and_probabilities_are_those_of_pytorch() {
        let logits = [0.5, -1.5, 3.0, -0.25, 2.0, -4.0];
        let labels = Classes::MultiLabel(3);
        let loss = mean_loss(&logits, &[1, 0, 0, 0, 1, 0], labels);
        assert!((loss - 0.740_849_2).abs() < 1e-6, "{loss}");
        let mut p = logits;
        probabilities(&mut p, labels);
        let golden =
            [0.622_459_35, 0.182_425_52, 0.952_574_13, 0.437_823_5, 0.880_797, 0.017_986_21];
        assert!(p.iter().zip(golden).all(|(ours, golden)| (ours - golden).abs() < 1e-6), "{p:?}");

        let loss = mean_loss(&logits, &[0, 1], Classes::Multi(3));
        assert!((loss - 1.345_775_1).abs() < 1e-6, "{loss}");
        assert_eq!(mean_loss(&[], &[], labels), 0.0);
    }
}
