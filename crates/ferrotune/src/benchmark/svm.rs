//! The baseline without a network: TF-IDF and linear SVMs as LexGLUE has them (`models/tfidf_svm.py`
//! in coastalcph/lex-glue), searched, fitted and tested in this process. As there, the last word of
//! every text is left out, by its `text_limit` of −1, and the search goes by exact match.

use super::outcome::{Outcome, RESULT, Score};
use super::{Job, Settings};
use crate::artifact::{read_json, write_json};
use crate::evaluation::{classes_of, targets};
use crate::metrics::{self, Interval};
use crate::prepared::split_files;
use crate::progress::Downloads;
use crate::svm::{answers, labels, prepared, texts};
use anyhow::{Context, Result};
use data::Dataset;
use linear::{Grid, Split, SvmConfig, VectorizerConfig, exact_match, search};
use std::time::Instant;

/// What the baseline came to, if it was computed before.
///
/// # Errors
/// The file is damaged.
pub fn finished(job: &Job) -> Result<Option<Outcome>> {
    let path = job.folder.join(RESULT);
    if path.is_file() { Ok(Some(read_json(&path)?)) } else { Ok(None) }
}

/// What the baseline comes to with the job's seed.
///
/// # Errors
/// The data cannot be read or the vocabulary is empty; the file system refuses.
pub fn outcome(settings: &Settings, job: &Job) -> Result<Outcome> {
    // Any model's name does: no model is read.
    let mut config = settings.config(super::SVM, job.seed, &job.folder, 1)?;
    let files = split_files(&mut config, &Downloads::default())?;
    let dataset = data::load(&config.data, &files, job.seed)?;
    let outcome = fitted(&dataset, job.seed)?;
    durable::create_folder(&job.folder)?;
    write_json(&job.folder.join(RESULT), &outcome)?;
    Ok(outcome)
}

fn fitted(dataset: &Dataset, seed: u64) -> Result<Outcome> {
    let started = Instant::now();
    let classes = classes_of(&dataset.labels);
    let [train, validation, test] =
        [&dataset.train, &dataset.validation, &dataset.test].map(|rows| texts(rows));
    let [train, validation, test] = [&train, &validation, &test].map(|texts| prepared(texts, true));
    let (labels, truth) = (labels(&dataset.train, classes), labels(&dataset.validation, classes));
    let seed_of_solver = u32::try_from(seed).context("the baseline takes seeds of 32 bits")?;
    let svm = SvmConfig { seed: seed_of_solver, ..SvmConfig::default() };
    let found = search(
        &Split { texts: &train, labels: &labels },
        &Split { texts: &validation, labels: &truth },
        &VectorizerConfig::default(),
        &svm,
        &Grid::default(),
        exact_match,
    )?;
    let seconds = started.elapsed().as_secs_f64();
    let answers: Vec<f32> =
        answers(&found.model.predict(&test)).into_iter().map(|given| given as f32).collect();
    let truth = targets(&dataset.test, classes);
    let scores = metrics::scores(&answers, &truth, classes, &[]);
    let intervals = metrics::bootstrap(&answers, &truth, classes, &[], seed);
    let score = |value, interval: Option<Interval>| {
        let Interval { low, high } = interval.unwrap_or(Interval { low: value, high: value });
        Score { value, interval: (low, high) }
    };
    Ok(Outcome {
        micro_f1: score(scores.micro_f1.unwrap_or_default(), intervals.micro_f1),
        macro_f1: score(scores.f1, Some(intervals.f1)),
        seconds,
        peak_memory_bytes: None,
    })
}
