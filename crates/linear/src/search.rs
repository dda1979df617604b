//! Grid search on a validation set: every combination of `max_features`, C and loss is fitted on the
//! training rows and scored on the validation rows; the first of the best is kept, as it was fitted.
//!
//! This is `GridSearchCV` over a `PredefinedSplit` with `refit=False`, followed by a fit on the
//! training rows alone, as LexGLUE has it. Combinations are ordered as scikit-learn's
//! `ParameterGrid` orders them: by C, then loss, then `max_features`. Values of `max_features` that
//! leave the same vocabulary share their fits.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::analyzer::Document;
use crate::{
    Error, Labels, LinearClassifier, Loss, Model, Result, SvmConfig, Vectorizer, VectorizerConfig,
    vocabulary,
};

/// The values that are combined.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// How many n-grams are kept at most.
    pub max_features: Vec<Option<usize>>,
    /// C of the machines.
    pub c: Vec<f64>,
    /// Their loss.
    pub loss: Vec<Loss>,
}

impl Default for Grid {
    /// LexGLUE's.
    fn default() -> Self {
        Self {
            max_features: vec![Some(10_000), Some(20_000), Some(40_000)],
            c: vec![0.1, 1.0, 10.0],
            loss: vec![Loss::Hinge, Loss::SquaredHinge],
        }
    }
}

/// Texts and what they are labelled with.
#[derive(Debug, Clone, Copy)]
pub struct Split<'a, T> {
    /// The texts.
    pub texts: &'a [T],
    /// As many rows of labels.
    pub labels: &'a Labels,
}

/// One combination and how it did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// How many n-grams were to be kept at most.
    pub max_features: Option<usize>,
    /// C of the machines.
    pub c: f64,
    /// Their loss.
    pub loss: Loss,
    /// What the score made of the predictions on the validation rows.
    pub score: f64,
    /// Whether every machine reached its tolerance.
    pub converged: bool,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// All combinations, in order.
    pub candidates: Vec<Candidate>,
    /// Which of them is the first with the greatest score.
    pub best: usize,
    /// The model of that one.
    pub model: Model,
}

/// Searches `grid`, whose values stand in for those of `vectorizer` and `svm`; `score` is given the
/// true and the predicted labels of the validation rows, and greater is better. LexGLUE's score is
/// [`exact_match`](crate::exact_match). `stop` is asked often, from any thread, whether to give up.
///
/// # Errors
/// An empty grid, what a fit refuses, validation labels of another task, a score that is not finite,
/// [`Error::Stopped`].
pub fn search<T: AsRef<str> + Sync>(
    train: &Split<T>,
    validation: &Split<T>,
    vectorizer: &VectorizerConfig,
    svm: &SvmConfig,
    grid: &Grid,
    score: impl Fn(&Labels, &Labels) -> f64 + Sync,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Search> {
    let settings = grid.settings(svm);
    check(train, validation, vectorizer, grid, &settings)?;
    let documents = Document::all(train.texts, vectorizer.stop_words);
    let held_out = Document::all(validation.texts, vectorizer.stop_words);
    let terms = vocabulary::count(&documents, vectorizer)?;

    // How many terms each `max_features` leaves: as many are the same.
    let sizes: Vec<usize> = grid
        .max_features
        .iter()
        .map(|limit| limit.map_or(terms.len(), |n| n.min(terms.len())))
        .collect();
    let mut outcomes: BTreeMap<usize, Vec<Outcome>> = BTreeMap::new();
    let mut kept: Option<(usize, f64, Model)> = None;
    for (first, &size) in sizes.iter().enumerate() {
        if outcomes.contains_key(&size) {
            continue;
        }
        if stop() {
            return Err(Error::Stopped);
        }
        let max_features = grid.max_features[first];
        let config = VectorizerConfig { max_features, ..vectorizer.clone() };
        let vectorizer = Vectorizer::of_terms(&terms, documents.len(), &config);
        let rows = vectorizer.transform_documents(&documents);
        let held_out = vectorizer.transform_documents(&held_out);
        let fit = |svm: &SvmConfig| {
            let (classifier, solves) =
                LinearClassifier::fit_unless(stop, &rows, train.labels, svm)?;
            let score = score(validation.labels, &classifier.predict(&held_out)?);
            if !score.is_finite() {
                let (c, loss) = (svm.c, svm.loss.name());
                return Err(Error::Score { c, loss, max_features, score });
            }
            let converged = solves.iter().all(|solve| solve.converged);
            Ok((classifier, Outcome { score, converged }))
        };
        let fits: Vec<Result<_>> = settings.par_iter().map(fit).collect();
        for (setting, fit) in fits.into_iter().enumerate() {
            let (classifier, outcome) = fit?;
            outcomes.entry(size).or_default().push(outcome);
            let position = setting * sizes.len() + first;
            let is_better = kept.as_ref().is_none_or(|&(other, score, _)| {
                outcome.score > score || (outcome.score == score && position < other)
            });
            if is_better {
                kept = Some((position, outcome.score, Model::new(vectorizer.clone(), classifier)));
            }
        }
    }
    let candidates = settings.iter().enumerate().flat_map(|(setting, svm)| {
        let of_size = |(size, &max_features): (&usize, &Option<usize>)| {
            let Outcome { score, converged } = outcomes[size][setting];
            Candidate { max_features, c: svm.c, loss: svm.loss, score, converged }
        };
        sizes.iter().zip(&grid.max_features).map(of_size).collect::<Vec<_>>()
    });
    let candidates = candidates.collect();
    let (best, _, model) = kept.ok_or(Error::Nothing { what: "combinations in the grid" })?;
    Ok(Search { candidates, best, model })
}

/// How a fit did on the validation rows.
#[derive(Clone, Copy)]
struct Outcome {
    score: f64,
    converged: bool,
}

impl Grid {
    /// The settings of the machines, in order.
    fn settings(&self, svm: &SvmConfig) -> Vec<SvmConfig> {
        let with = |c: f64| self.loss.iter().map(move |&loss| SvmConfig { c, loss, ..svm.clone() });
        self.c.iter().flat_map(|&c| with(c)).collect()
    }
}

/// Refuses before anything is fitted what would be refused after hours.
fn check<T>(
    train: &Split<T>,
    validation: &Split<T>,
    vectorizer: &VectorizerConfig,
    grid: &Grid,
    settings: &[SvmConfig],
) -> Result<()> {
    train.labels.check_count(train.texts.len())?;
    validation.labels.check_count(validation.texts.len())?;
    let (task, found) = (train.labels.task()?, validation.labels.task()?);
    if task != found {
        return Err(Error::Task { found: found.to_string(), expected: task.to_string() });
    }
    for &max_features in &grid.max_features {
        VectorizerConfig { max_features, ..vectorizer.clone() }.check()?;
    }
    settings.iter().try_for_each(|svm| svm.check(task))
}
