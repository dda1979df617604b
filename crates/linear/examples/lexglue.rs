//! LexGLUE's TF-IDF baseline on a folder of JSON lines (`train.jsonl`, `validation.jsonl`,
//! `test.jsonl`, each line with `text` and a list `labels`):
//! `cargo run --release -p linear --example lexglue -- FOLDER LABELS`
//!
//! Follows `models/tfidf_svm.py` of coastalcph/lex-glue (multi-label branch, seed 1). Two of its
//! traits are easily missed: its `text_limit` of −1 drops the last word of every text, which
//! `--whole-texts` undoes; and the grid search chooses by the share of rows whose labels are all
//! right. F1 counts a row without labels as one of a further class "none".

use std::path::Path;
use std::time::Instant;

use linear::{
    Grid, Labels, Split, SvmConfig, VectorizerConfig, exact_match, search, without_last_word,
};
use serde_json::Value;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let start = Instant::now();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, labels, whole_texts) = match arguments.as_slice() {
        [folder, labels] => (folder, labels.parse()?, false),
        [folder, labels, flag] if flag == "--whole-texts" => (folder, labels.parse()?, true),
        _ => return Err("usage: lexglue FOLDER LABELS [--whole-texts]".into()),
    };
    let read = |split: &str| rows(&Path::new(folder).join(split), labels, whole_texts);
    let (train, truth) = read("train.jsonl")?;
    let (validation, validation_truth) = read("validation.jsonl")?;
    let (test, test_truth) = read("test.jsonl")?;

    let found = search(
        &Split { texts: &train, labels: &truth },
        &Split { texts: &validation, labels: &validation_truth },
        &VectorizerConfig::default(),
        &SvmConfig::default(),
        &Grid::default(),
        exact_match,
        &|| false,
    )?;
    for (number, candidate) in found.candidates.iter().enumerate() {
        println!(
            "C {:<4} {:<13} max_features {:<6} exact match {:.5}{}{}",
            candidate.c,
            candidate.loss.name(),
            candidate.max_features.map_or("all".into(), |limit| limit.to_string()),
            candidate.score,
            if candidate.converged { "" } else { "  (not converged)" },
            if number == found.best { "  <- best" } else { "" },
        );
    }
    println!("{} features", found.model.vectorizer().terms().len());
    for (name, texts, truth) in
        [("validation", &validation, &validation_truth), ("test", &test, &test_truth)]
    {
        let (micro, macro_) = f1(truth, &found.model.predict(texts));
        println!("{name}: micro-F1 {:.2}  macro-F1 {:.2}", micro * 100.0, macro_ * 100.0);
    }
    println!("{:.3} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn rows(path: &Path, labels: usize, whole_texts: bool) -> Result<(Vec<String>, Labels), Failure> {
    let mut texts = Vec::new();
    let mut indicators = Vec::new();
    for (number, line) in std::fs::read_to_string(path)?.lines().enumerate() {
        let wrong = || format!("{}, line {}: no `text` and `labels`", path.display(), number + 1);
        let row: Value = serde_json::from_str(line)?;
        let text = row["text"].as_str().ok_or_else(wrong)?;
        texts.push(if whole_texts { text.to_owned() } else { without_last_word(text) });
        let mut indicator = vec![false; labels];
        for label in row["labels"].as_array().ok_or_else(wrong)? {
            let label = label.as_u64().and_then(|label| usize::try_from(label).ok());
            *label.and_then(|label| indicator.get_mut(label)).ok_or_else(wrong)? = true;
        }
        indicators.push(indicator);
    }
    Ok((texts, Labels::MultiLabel(indicators)))
}

/// Micro- and macro-F1 over the labels and "none".
fn f1(truth: &Labels, predicted: &Labels) -> (f64, f64) {
    let (Labels::MultiLabel(truth), Labels::MultiLabel(predicted)) = (truth, predicted) else {
        return (0.0, 0.0);
    };
    let classes = truth.first().map_or(0, Vec::len) + 1;
    // Per class: right predictions, and true and predicted ones together.
    let mut tallies = vec![(0, 0); classes];
    for (truth, predicted) in truth.iter().zip(predicted) {
        for (class, (hits, all)) in tallies.iter_mut().enumerate() {
            let has = |row: &[bool]| row.get(class).copied().unwrap_or(!row.contains(&true));
            let (is, was) = (has(truth), has(predicted));
            *hits += usize::from(is && was);
            *all += usize::from(is) + usize::from(was);
        }
    }
    let f1 =
        |&(hits, all): &(usize, usize)| if all == 0 { 0.0 } else { 2.0 * hits as f64 / all as f64 };
    let sum = tallies.iter().fold((0, 0), |sum, tally| (sum.0 + tally.0, sum.1 + tally.1));
    (f1(&sum), tallies.iter().map(f1).sum::<f64>() / classes as f64)
}
