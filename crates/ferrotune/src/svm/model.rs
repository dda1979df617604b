//! Linear machines on disk and at work: `svm.safetensors`, and `ferrotune.json` with what it has no
//! place for.

use crate::artifact::{CARD, Schema, read_json, write_json};
use crate::evaluation::{Evaluation, Scale, classes_of, targets};
use crate::metrics::{self, Classes};
use anyhow::{Result, bail};
use data::Example;
use linear::{Labels, Loss, Task, without_last_word};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::Path;

const WEIGHTS: &str = "svm.safetensors";
/// What the card calls the method.
const METHOD: &str = "svm";

/// A fitted model, with how rows are read for it.
#[derive(Clone, Debug)]
pub struct Model {
    /// Vocabulary and machines.
    pub machines: linear::Model,
    /// What the weights do not say.
    pub card: Card,
}

/// What the weights do not say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// ferrotune's version that wrote it.
    version: String,
    method: String,
    /// What it tells of which rows.
    #[serde(flatten)]
    pub schema: Schema,
    /// What the machines were fitted to.
    pub loss: Loss,
    /// Whether the last word of every text is left out.
    drop_last_word: bool,
}

impl Card {
    /// Of a model that is fitted now.
    pub fn new(schema: Schema, loss: Loss, drop_last_word: bool) -> Card {
        let (version, method) = (env!("CARGO_PKG_VERSION").to_owned(), METHOD.to_owned());
        Card { version, method, schema, loss, drop_last_word }
    }
}

/// Whether a model folder holds linear machines.
///
/// # Errors
/// Its card cannot be read.
pub fn is_linear(folder: &Path) -> Result<bool> {
    let card: serde_json::Value = read_json(&folder.join(CARD))?;
    Ok(card["method"] == METHOD)
}

impl Model {
    /// Writes it into an existing folder.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write(&self, folder: &Path) -> Result<()> {
        self.machines.save(&folder.join(WEIGHTS))?;
        write_json(&folder.join(CARD), &self.card)
    }

    /// Reads what [`Model::write`] wrote.
    ///
    /// # Errors
    /// A file is missing or damaged, or they do not belong together.
    pub fn read(folder: &Path) -> Result<Model> {
        let card: Card = read_json(&folder.join(CARD))?;
        let machines = linear::Model::load(&folder.join(WEIGHTS))?;
        let expected = match classes_of(&card.schema.labels) {
            Classes::MultiLabel(labels) => Task::MultiLabel(labels),
            classes => Task::Classes(classes.count()),
        };
        if machines.task() != expected {
            bail!(
                "{} tells {}, but {CARD} beside it names {expected}",
                folder.join(WEIGHTS).display(),
                machines.task()
            );
        }
        Ok(Model { machines, card })
    }

    /// Decision values of each class or label, [N, C]: above 0 for a label that is there, the greatest
    /// for the class. Of two classes the first has the second's, negated.
    pub fn decision_values<T: AsRef<str>>(&self, texts: &[T]) -> Vec<f32> {
        let texts = prepared(texts, self.card.drop_last_word);
        let values = self.machines.decision_values(&texts).into_iter().map(|value| value as f32);
        match self.machines.task() {
            Task::Classes(2) => values.flat_map(|value| [-value, value]).collect(),
            Task::Classes(_) | Task::MultiLabel(_) => values.collect(),
        }
    }

    /// Its answers to labelled rows.
    pub fn evaluate(&self, examples: &[Example]) -> Evaluation {
        let classes = classes_of(&self.card.schema.labels);
        let scale = Scale::DecisionValue;
        let outputs = self.decision_values(&texts(examples));
        let truth = targets(examples, classes);
        let scores = metrics::scores(&outputs, &truth, classes, &scale.thresholds(classes));
        let loss = self.mean_loss(&outputs, &truth, classes);
        Evaluation { outputs, scale, loss, scores }
    }

    /// The mean over rows and machines of what the machines were fitted to; 0 without rows.
    fn mean_loss(&self, outputs: &[f32], truth: &[u32], classes: Classes) -> f64 {
        let cost = |value: f32, is_there: bool| {
            let value = f64::from(value);
            let distance = (1.0 - if is_there { value } else { -value }).max(0.0);
            match self.card.loss {
                Loss::Hinge => distance,
                Loss::SquaredHinge => distance * distance,
            }
        };
        let rows = outputs.chunks(classes.count()).zip(truth.chunks(classes.width()));
        // Of two classes there is one machine, but its two values cost the same.
        let costs = rows.flat_map(|(row, truth)| {
            row.iter().enumerate().map(move |(class, &value)| match classes {
                Classes::Binary | Classes::Multi(_) => cost(value, truth[0] as usize == class),
                Classes::MultiLabel(_) => cost(value, truth[class] == 1),
            })
        });
        costs.sum::<f64>() / outputs.len().max(1) as f64
    }
}

/// The texts of rows.
pub(super) fn texts(examples: &[Example]) -> Vec<&str> {
    examples.iter().map(|example| example.text.as_str()).collect()
}

/// Texts as the vectorizer gets them.
pub(super) fn prepared<T: AsRef<str>>(texts: &[T], drop_last_word: bool) -> Vec<Cow<'_, str>> {
    let prepare = |text| match drop_last_word {
        true => Cow::Owned(without_last_word(text)),
        false => Cow::Borrowed(text),
    };
    texts.iter().map(AsRef::as_ref).map(prepare).collect()
}

/// What rows are labelled with.
pub(super) fn labels(examples: &[Example], classes: Classes) -> Labels {
    let classes_of_rows = || examples.iter().map(|example| example.labels[0]).collect();
    match classes {
        Classes::Binary | Classes::Multi(_) => {
            Labels::Classes { count: classes.count(), rows: classes_of_rows() }
        }
        Classes::MultiLabel(count) => {
            let indicators = |example: &Example| {
                (0..count).map(|label| example.labels.contains(&label)).collect()
            };
            Labels::MultiLabel(examples.iter().map(indicators).collect())
        }
    }
}

/// Predictions as figures are computed of them: a class per row, or 0 or 1 for each label.
pub(super) fn answers(predicted: &Labels) -> Vec<u32> {
    match predicted {
        Labels::Classes { rows, .. } => rows.iter().map(|&class| class as u32).collect(),
        Labels::MultiLabel(rows) => rows.iter().flatten().map(|&given| u32::from(given)).collect(),
    }
}
