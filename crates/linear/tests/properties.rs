//! What holds for any texts, rows and settings.

use std::collections::{BTreeMap, BTreeSet};

use linear::{
    ClassWeight, Labels, LinearClassifier, Loss, Model, Solve, SparseRows, StopWords, SvmConfig,
    Vectorizer, VectorizerConfig,
};
use proptest::prelude::*;

/// Texts of few different words, some of one letter.
fn texts() -> impl Strategy<Value = Vec<String>> {
    let word = prop_oneof!["[a-c]{2}", "[ab]{1,3}", Just("ab".to_owned())];
    let text = prop::collection::vec(word, 0..12).prop_map(|words| words.join(" "));
    prop::collection::vec(text, 1..12)
}

fn config() -> impl Strategy<Value = VectorizerConfig> {
    (1_usize..3, 0_usize..3, 1_usize..5, prop::option::of(1_usize..12)).prop_map(
        |(shortest, more, min_df, max_features)| VectorizerConfig {
            stop_words: StopWords::None,
            ngram_range: (shortest, shortest + more),
            min_df,
            max_features,
        },
    )
}

/// Dense rows, mostly zeros, and which are positive: at least one of each.
fn problem() -> impl Strategy<Value = (Vec<Vec<(u32, f64)>>, Vec<bool>)> {
    let value = prop_oneof![3 => Just(0.0), 2 => -2.0..2.0_f64];
    let row = prop::collection::vec(value, 6).prop_map(|row| {
        (0..).zip(row).filter(|&(_, value)| value != 0.0).collect::<Vec<(u32, f64)>>()
    });
    prop::collection::vec((row, any::<bool>()), 2..25).prop_map(|rows| {
        let (rows, mut positive): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        (positive[0], positive[1]) = (true, false);
        (rows, positive)
    })
}

fn svm() -> impl Strategy<Value = SvmConfig> {
    let loss = prop_oneof![Just(Loss::Hinge), Just(Loss::SquaredHinge)];
    let weight = prop_oneof![
        Just(ClassWeight::Uniform),
        Just(ClassWeight::Balanced),
        (0.2..5.0_f64, 0.2..5.0_f64).prop_map(|(a, b)| ClassWeight::Given(vec![a, b])),
    ];
    (0.05..5.0_f64, loss, weight, any::<u32>()).prop_map(|(c, loss, class_weight, seed)| {
        let (tolerance, max_iterations) = (1e-8, 20_000);
        SvmConfig { c, loss, class_weight, tolerance, max_iterations, seed }
    })
}

fn classes(positive: &[bool]) -> Labels {
    Labels::Classes { count: 2, rows: positive.iter().map(|&is| usize::from(is)).collect() }
}

/// Every n-gram of a text, by the definition.
fn ngrams(text: &str, (shortest, longest): (usize, usize)) -> Vec<String> {
    let tokens: Vec<&str> = text.split(' ').filter(|token| token.len() >= 2).collect();
    (shortest..=longest).flat_map(|n| tokens.windows(n)).map(|window| window.join(" ")).collect()
}

/// The vocabulary by the definition: every n-gram is counted, then the rare are dropped.
fn vocabulary(texts: &[String], config: &VectorizerConfig) -> Vec<String> {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for text in texts {
        let all = ngrams(text, config.ngram_range);
        for gram in &all {
            counts.entry(gram.clone()).or_default().1 += 1;
        }
        for gram in all.into_iter().collect::<BTreeSet<_>>() {
            counts.entry(gram).or_default().0 += 1;
        }
    }
    let mut kept: Vec<(usize, String)> = counts
        .into_iter()
        .filter(|(_, (documents, _))| *documents >= config.min_df)
        .map(|(gram, (_, occurrences))| (occurrences, gram))
        .collect();
    kept.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    kept.truncate(config.max_features.unwrap_or(usize::MAX));
    let mut terms: Vec<String> = kept.into_iter().map(|(_, gram)| gram).collect();
    terms.sort();
    terms
}

proptest! {
    #[test]
    fn early_pruning_changes_no_vocabulary_and_no_count(texts in texts(), config in config()) {
        let expected = vocabulary(&texts, &config);
        let Ok(vectorizer) = Vectorizer::fit(&texts, &config) else {
            prop_assert!(expected.is_empty());
            return Ok(());
        };
        prop_assert_eq!(vectorizer.terms(), expected);
        let rows = vectorizer.transform(&texts);
        for (index, text) in texts.iter().enumerate() {
            let (columns, values) = rows.row(index);
            let all = ngrams(text, config.ngram_range);
            let mut length = 0.0;
            let mut unscaled = Vec::new();
            for (column, term) in vectorizer.terms().iter().enumerate() {
                let count = all.iter().filter(|gram| *gram == term).count();
                if count > 0 {
                    let value = count as f64 * vectorizer.idf()[column];
                    length += value * value;
                    unscaled.push((column as u32, value));
                }
            }
            prop_assert_eq!(columns, unscaled.iter().map(|&(column, _)| column).collect::<Vec<_>>());
            for (value, (_, expected)) in values.iter().zip(unscaled) {
                prop_assert!((value - expected / length.sqrt()).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn optima_are_certified_by_their_duals((rows, positive) in problem(), svm in svm()) {
        let rows = SparseRows::new(6, &rows).expect("valid rows");
        let (classifier, solves) =
            LinearClassifier::fit(&rows, &classes(&positive), &svm).expect("two classes");
        let solve = solves[0];
        let rounding = 1e-9 * solve.primal;
        prop_assert!(solve.primal - solve.dual >= -rounding, "{:?}", solve);
        // With the hinge, rows that are nearly parallel can take more passes than are given here, as
        // in liblinear; its square makes every direction curved.
        let must = svm.loss == Loss::SquaredHinge;
        prop_assert!(solve.converged || !must, "{:?}", solve);
        let is_tight = solve.primal - solve.dual <= 1e-5 * solve.primal;
        prop_assert!(is_tight || !solve.converged, "{:?}", solve);

        // Stopped early, it is no better, and still between its bounds.
        let hasty = SvmConfig { max_iterations: 2, ..svm.clone() };
        let (_, early) = LinearClassifier::fit(&rows, &classes(&positive), &hasty).expect("as above");
        prop_assert!(early[0].primal >= solve.dual - rounding);
        prop_assert!(early[0].dual <= solve.primal + rounding);

        // Neither the seed nor which class is called positive moves the optimum, from which weights
        // are no further away than the root of twice their gap: ½ w·w makes the problem so convex.
        let swapped: Vec<bool> = positive.iter().map(|is| !is).collect();
        let class_weight = match svm.class_weight.clone() {
            ClassWeight::Given(weights) => ClassWeight::Given(vec![weights[1], weights[0]]),
            other => other,
        };
        let svm = SvmConfig { seed: svm.seed.wrapping_add(1), class_weight, ..svm };
        let (other, again) =
            LinearClassifier::fit(&rows, &classes(&swapped), &svm).expect("as above");
        let away = |solve: Solve| (2.0 * (solve.primal - solve.dual).max(rounding)).sqrt();
        for (a, b) in classifier.weights().iter().zip(other.weights()) {
            prop_assert!((a + b).abs() <= away(solve) + away(again[0]), "{} {}", a, b);
        }
    }

    #[test]
    fn any_text_is_told_something(texts in prop::collection::vec(".{0,40}", 1..6), seed in any::<u32>()) {
        let train = ["ab cd ef", "cd ef gh", "ab", "gh ab"];
        let labels = Labels::MultiLabel(vec![
            vec![true, false, true], vec![false, true, true], vec![true, false, true], vec![false, false, true],
        ]);
        let vectorizer = VectorizerConfig { min_df: 1, ..VectorizerConfig::default() };
        let svm = SvmConfig { seed, ..SvmConfig::default() };
        let (model, _) = Model::fit(&train, &labels, &vectorizer, &svm).expect("a small fit");
        let decisions = model.decision_values(&texts);
        prop_assert_eq!(decisions.len(), texts.len() * 3);
        prop_assert!(decisions.iter().all(|value| value.is_finite()));
        // The third label is always there.
        prop_assert!(decisions.chunks_exact(3).all(|row| row[2] == 1.0));

        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        model.save(&path).expect("it can be saved");
        let loaded = Model::load(&path).expect("it can be loaded");
        prop_assert_eq!(&loaded, &model);
        prop_assert_eq!(loaded.decision_values(&texts), decisions);
    }
}
