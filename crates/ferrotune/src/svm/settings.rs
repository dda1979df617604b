//! The section `[svm]` of the configuration. Names are scikit-learn's; the defaults are LexGLUE's, but
//! that texts are taken whole.

use crate::config::{ClassWeighting, ClassWeights, SelectionMetric};
use anyhow::{Result, bail};
use data::Task;
use linear::{ClassWeight, Grid, Loss, StopWords, SvmConfig, VectorizerConfig};
use serde::{Deserialize, Serialize};

/// Features, and the settings that are searched. Of the lists `c`, `loss` and `max_features` every
/// combination is fitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What errors on the training rows cost.
    pub c: Vec<f64>,
    /// `hinge`, `squared_hinge`.
    pub loss: Vec<Loss>,
    /// How many n-grams are kept at most, those that occur most often; an empty list keeps all.
    pub max_features: Vec<usize>,
    /// Validation metric that chooses: as `early_stopping.metric`, but `loss` and `average_precision`.
    pub metric: SelectionMetric,
    /// `none`, `balanced`, or one weight per class or label, by which C is multiplied.
    pub class_weights: ClassWeights,
    /// Shortest and longest n-gram, in words.
    pub ngram_range: [usize; 2],
    /// In how many training texts an n-gram must occur.
    pub min_df: usize,
    /// Words that are left out: `nltk`, `scikit-learn` or `none`.
    pub stop_words: StopWords,
    /// Leave out the last word of every text, as the published baseline does.
    pub drop_last_word: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let (grid, vectorizer) = (Grid::default(), VectorizerConfig::default());
        Settings {
            c: grid.c,
            loss: grid.loss,
            max_features: grid.max_features.into_iter().flatten().collect(),
            metric: SelectionMetric::Accuracy,
            class_weights: ClassWeights::Named(ClassWeighting::None),
            ngram_range: vectorizer.ngram_range.into(),
            min_df: vectorizer.min_df,
            stop_words: vectorizer.stop_words,
            drop_last_word: false,
        }
    }
}

impl Settings {
    /// Checks what can be checked without the data. `seed` is the run's.
    ///
    /// # Errors
    /// A value out of range, with its key.
    pub fn check(&self, seed: u64, task: Task) -> Result<()> {
        if let Some(c) = self.c.iter().find(|c| !(c.is_finite() && **c > 0.0)) {
            bail!("svm.c holds {c}, but must hold positive numbers");
        }
        for (key, is_empty) in [("c", self.c.is_empty()), ("loss", self.loss.is_empty())] {
            if is_empty {
                bail!("svm.{key} is empty, but must hold a value to try");
            }
        }
        if self.max_features.contains(&0) {
            bail!("svm.max_features holds 0, but must hold numbers of at least 1");
        }
        let [shortest, longest] = self.ngram_range;
        if shortest == 0 || longest < shortest {
            bail!("svm.ngram_range is {:?}, but must ascend from 1 or more", self.ngram_range);
        }
        if self.min_df == 0 {
            bail!("svm.min_df is 0, but must be at least 1");
        }
        if let ClassWeights::Given(weights) = &self.class_weights
            && weights.iter().any(|w| !(w.is_finite() && *w > 0.0))
        {
            bail!("svm.class_weights is {weights:?}, but every weight must be positive");
        }
        match (self.metric, task) {
            (SelectionMetric::Loss | SelectionMetric::AveragePrecision, _) => bail!(
                "svm.metric is {}, but combinations are compared by their answers: f1, micro_f1, \
                 macro_f1, accuracy, precision or recall",
                self.metric.name()
            ),
            (SelectionMetric::MicroF1, Task::Binary | Task::Multiclass) => {
                bail!("svm.metric is micro_f1, which only a multi-label task has")
            }
            (SelectionMetric::MacroF1, Task::Binary) => {
                bail!("svm.metric is macro_f1, which only a task of several classes or labels has")
            }
            _ => {}
        }
        self.machines(seed)?;
        Ok(())
    }

    /// The combinations.
    pub fn grid(&self) -> Grid {
        let max_features = match self.max_features.is_empty() {
            true => vec![None],
            false => self.max_features.iter().copied().map(Some).collect(),
        };
        Grid { max_features, c: self.c.clone(), loss: self.loss.clone() }
    }

    /// How texts become rows.
    pub fn vectorizer(&self) -> VectorizerConfig {
        VectorizerConfig {
            stop_words: self.stop_words,
            ngram_range: self.ngram_range.into(),
            min_df: self.min_df,
            max_features: None,
        }
    }

    /// How machines are optimised.
    ///
    /// # Errors
    /// The seed is too large.
    pub fn machines(&self, seed: u64) -> Result<SvmConfig> {
        let Ok(seed) = u32::try_from(seed) else {
            bail!("seed is {seed}, but must be at most {} with method = \"svm\"", u32::MAX)
        };
        let class_weight = match &self.class_weights {
            ClassWeights::Named(ClassWeighting::None) => ClassWeight::Uniform,
            ClassWeights::Named(ClassWeighting::Balanced) => ClassWeight::Balanced,
            ClassWeights::Given(weights) => {
                ClassWeight::Given(weights.iter().map(|&weight| f64::from(weight)).collect())
            }
        };
        Ok(SvmConfig { seed, class_weight, ..SvmConfig::default() })
    }
}
