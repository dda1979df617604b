//! `thresholds.json` beside a model: above which probability each label, or the positive class of a
//! binary task, is given, where the run was asked to tune that on its validation rows. `test` and
//! `predict` go by it. Test rows have no part in it.

use crate::artifact::{read_json, write_json};
use crate::evaluation::{Evaluation, Split, classes_of};
use crate::metrics::{self, Classes};
use anyhow::{Result, bail};
use data::LabelScheme;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file's name.
pub const FILE: &str = "thresholds.json";

/// What a model's thresholds are, and what they were worth where they were found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// The rows they were found on.
    tuned_on: String,
    /// The figure that each makes as large as it can be there.
    maximises: String,
    /// By index of the label; of a binary task, the positive class alone.
    labels: Vec<Threshold>,
}

/// One label's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Threshold {
    label: String,
    /// The label is given where its probability is above.
    threshold: f32,
    /// F1 on the rows tuned on.
    f1: f64,
    /// F1 there at one half.
    f1_at_half: f64,
    /// How many of those rows have the label: of few, chance decides.
    rows: u64,
}

impl Thresholds {
    /// The thresholds with the highest F1 on the validation rows that `evaluation` is of.
    pub fn tune(evaluation: &Evaluation, validation: &Split, labels: &LabelScheme) -> Thresholds {
        let (names, classes) = (&labels.names, classes_of(labels));
        let (count, width) = (classes.count(), classes.width());
        let first = count - tuned_labels(names, classes).len();
        let values: Vec<f32> = (first..count)
            .map(|label| {
                let rows = evaluation.outputs.chunks(count).map(|row| row[label]);
                let truth = validation.labels.chunks(width).map(|row| match classes {
                    Classes::MultiLabel(_) => row[label],
                    Classes::Binary | Classes::Multi(_) => u32::from(row[0] as usize == label),
                });
                metrics::best_threshold(&rows.collect::<Vec<_>>(), &truth.collect::<Vec<_>>())
            })
            .collect();
        let (p, truth) = (&evaluation.outputs, &validation.labels);
        let tuned = metrics::scores(p, truth, classes, &values).counts.tallies();
        let half = evaluation.scores.counts.tallies();
        let labels = (first..count).zip(values).map(|(label, threshold)| Threshold {
            label: names[label].clone(),
            threshold,
            f1: tuned[label].scores().f1,
            f1_at_half: half[label].scores().f1,
            rows: tuned[label].rows,
        });
        Thresholds {
            tuned_on: "validation".to_owned(),
            maximises: "f1".to_owned(),
            labels: labels.collect(),
        }
    }

    /// Label, threshold, and how many rows it was tuned on.
    pub fn each(&self) -> impl Iterator<Item = (&str, f32, u64)> {
        self.labels.iter().map(|label| (label.label.as_str(), label.threshold, label.rows))
    }

    /// As [`metrics::answers`] takes them.
    pub fn values(&self) -> Vec<f32> {
        self.labels.iter().map(|label| label.threshold).collect()
    }

    /// Writes them beside a model.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json(&folder.join(FILE), self)
    }

    /// The thresholds of the model in a folder, if it has any.
    ///
    /// # Errors
    /// The file is damaged, or of a model with other labels.
    pub fn read(folder: &Path, labels: &LabelScheme) -> Result<Option<Thresholds>> {
        let path = folder.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let thresholds: Thresholds = read_json(&path)?;
        let names = tuned_labels(&labels.names, classes_of(labels));
        let found: Vec<&String> = thresholds.labels.iter().map(|label| &label.label).collect();
        if found != names.iter().collect::<Vec<_>>() {
            bail!("{} has thresholds for {found:?}, but the model tells {names:?}", path.display());
        }
        if let Some(bad) = thresholds.labels.iter().find(|l| !(0.0..=1.0).contains(&l.threshold)) {
            let (path, Threshold { label, threshold, .. }) = (path.display(), bad);
            bail!("{path}: the threshold of `{label}` is {threshold}, but must be in 0..=1");
        }
        Ok(Some(thresholds))
    }
}

/// The labels that a threshold decides on.
fn tuned_labels(names: &[String], classes: Classes) -> &[String] {
    match classes {
        Classes::Binary => &names[1..],
        Classes::Multi(_) => &[],
        Classes::MultiLabel(_) => names,
    }
}
