//! Rows and settings that cannot be fitted, and what is said of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use linear::{
    ClassWeight, Error, Grid, Labels, LinearClassifier, Loss, Model, SparseRows, Split, StopWords,
    SvmConfig, VectorizerConfig, exact_match, search,
};

const TEXTS: [&str; 3] = ["ab cd", "cd ef", "ef ab cd"];

fn vectorizer() -> VectorizerConfig {
    VectorizerConfig { min_df: 1, ..VectorizerConfig::default() }
}

fn classes(count: usize, rows: &[usize]) -> Labels {
    Labels::Classes { count, rows: rows.to_vec() }
}

fn refusal(labels: &Labels, vectorizer: &VectorizerConfig, svm: &SvmConfig) -> String {
    Model::fit(&TEXTS, labels, vectorizer, svm).expect_err("it is refused").to_string()
}

#[test]
fn labels_that_do_not_fit_are_refused() {
    let cases = [
        (classes(2, &[0, 1]), "3 texts with 2 rows of labels"),
        (classes(2, &[0, 1, 2]), "row 2 is of class 2; there are 2, counted from 0"),
        (classes(1, &[0, 0, 0]), "the number of classes is 1; it must be 2 or more"),
        (classes(2, &[1, 1, 1]), "class 0 of 2 has no training row"),
        (classes(3, &[0, 2, 0]), "class 1 of 3 has no training row"),
        (Labels::MultiLabel(vec![vec![]; 3]), "there are no labels"),
        (
            Labels::MultiLabel(vec![vec![true], vec![true], vec![]]),
            "row 2 has 0 labels where the first has 1",
        ),
    ];
    for (labels, expected) in cases {
        assert_eq!(refusal(&labels, &vectorizer(), &SvmConfig::default()), expected);
    }
    let none: [&str; 0] = [];
    let error = Model::fit(&none, &classes(2, &[]), &vectorizer(), &SvmConfig::default());
    assert_eq!(error.expect_err("it is refused").to_string(), "there are no rows");
}

#[test]
fn settings_out_of_range_are_refused() {
    let labels = classes(2, &[0, 1, 0]);
    let svm = SvmConfig::default();
    let vectorizers = [
        (VectorizerConfig { min_df: 0, ..vectorizer() }, "min_df is 0"),
        (VectorizerConfig { min_df: 4, ..vectorizer() }, "occurs in 4 of them"),
        (VectorizerConfig { max_features: Some(0), ..vectorizer() }, "max_features is 0"),
        (VectorizerConfig { ngram_range: (0, 1), ..vectorizer() }, "ngram_range is 0 to 1"),
        (VectorizerConfig { ngram_range: (3, 2), ..vectorizer() }, "ngram_range is 3 to 2"),
        (VectorizerConfig { ngram_range: (4, usize::MAX), ..vectorizer() }, "no n-gram of the 3"),
    ];
    for (vectorizer, expected) in vectorizers {
        let refusal = refusal(&labels, &vectorizer, &svm);
        assert!(refusal.contains(expected), "{refusal}");
    }
    let given = |weights: &[f64]| ClassWeight::Given(weights.to_vec());
    let machines = [
        (SvmConfig { c: 0.0, ..svm.clone() }, "C is 0; it must be a finite number above 0"),
        (SvmConfig { c: f64::NAN, ..svm.clone() }, "C is NaN"),
        (SvmConfig { tolerance: -1.0, ..svm.clone() }, "tolerance is -1"),
        (SvmConfig { max_iterations: 0, ..svm.clone() }, "max_iterations is 0"),
        (SvmConfig { class_weight: given(&[1.0]), ..svm.clone() }, "class weights is 1"),
        (SvmConfig { class_weight: given(&[1.0, 0.0]), ..svm.clone() }, "a class weight is 0"),
        (
            SvmConfig { c: 1e200, class_weight: given(&[1.0, 1e200]), ..svm.clone() },
            "C times a class weight is inf",
        ),
    ];
    for (svm, expected) in machines {
        let refusal = refusal(&labels, &vectorizer(), &svm);
        assert!(refusal.contains(expected), "{refusal}");
    }
}

#[test]
fn texts_of_stop_words_alone_have_no_vocabulary() {
    let texts = ["the", "of the", "and"];
    let labels = classes(2, &[0, 1, 0]);
    let fit = |stop_words| {
        let vectorizer = VectorizerConfig { stop_words, ..vectorizer() };
        Model::fit(&texts, &labels, &vectorizer, &SvmConfig::default())
    };
    let error = fit(StopWords::Nltk).expect_err("nothing is left").to_string();
    assert_eq!(error, "no n-gram of the 3 training texts occurs in 1 of them (min_df)");
    assert!(fit(StopWords::None).is_ok());
}

#[test]
fn rows_out_of_order_are_refused() {
    for row in
        [vec![(2, 1.0)], vec![(1, 1.0), (0, 1.0)], vec![(0, 1.0), (0, 1.0)], vec![(0, f64::NAN)]]
    {
        assert!(SparseRows::new(2, &[vec![], row]).is_err());
    }
    let rows =
        |features| SparseRows::new(features, &[vec![(0, 1.0)], vec![(1, 1.0)]]).expect("valid");
    let (classifier, _) =
        LinearClassifier::fit(&rows(2), &classes(2, &[0, 1]), &SvmConfig::default())
            .expect("valid");
    let error = classifier.predict(&rows(3)).expect_err("other features").to_string();
    assert_eq!(error, "rows have 3 features where the classifier has 2");
}

#[test]
fn a_machine_that_is_given_up_says_so() {
    let hasty = SvmConfig { max_iterations: 1, loss: Loss::Hinge, ..SvmConfig::default() };
    let (_, solves) =
        Model::fit(&TEXTS, &classes(3, &[0, 1, 2]), &vectorizer(), &hasty).expect("it fits");
    assert!(solves.iter().all(|solve| !solve.converged && solve.iterations == 1));
}

#[test]
fn a_search_is_given_up_wherever_it_is() {
    let labels = classes(2, &[0, 1, 0]);
    let split = Split { texts: &TEXTS, labels: &labels };
    let stopped_after = |questions: usize| {
        let asked = AtomicUsize::new(0);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) >= questions;
        let (vectorizer, svm) = (vectorizer(), SvmConfig::default());
        search(&split, &split, &vectorizer, &svm, &Grid::default(), exact_match, &stop)
    };
    let whole = (0..100_000).find_map(|questions| match stopped_after(questions) {
        Err(Error::Stopped) => None,
        found => Some((questions, found.expect("a model"))),
    });
    let (questions, found) = whole.expect("it ends");
    assert!(questions > found.candidates.len(), "within fits, too: {questions}");
}

#[test]
fn searches_that_cannot_choose_are_refused() {
    let (labels, other) = (classes(2, &[0, 1, 0]), Labels::MultiLabel(vec![vec![true]; 3]));
    let find = |validation: &Labels, grid: Grid, score: fn(&Labels, &Labels) -> f64| {
        let train = Split { texts: &TEXTS, labels: &labels };
        let validation = Split { texts: &TEXTS, labels: validation };
        let (vectorizer, svm) = (vectorizer(), SvmConfig::default());
        search(&train, &validation, &vectorizer, &svm, &grid, score, &|| false)
            .map_err(|error| error.to_string())
    };
    let refusal = |validation, grid, score| find(validation, grid, score).expect_err("refused");
    let grid = Grid::default();
    assert_eq!(
        refusal(&other, grid.clone(), exact_match),
        "the validation rows have 1 labels, the training rows 2 classes"
    );
    assert_eq!(
        refusal(&labels, Grid { c: vec![], ..grid.clone() }, exact_match),
        "there are no combinations in the grid"
    );
    assert_eq!(
        refusal(&labels, Grid { c: vec![1.0, -1.0], ..grid.clone() }, exact_match),
        "C is -1; it must be a finite number above 0"
    );
    assert_eq!(
        refusal(&labels, Grid { max_features: vec![Some(0)], ..grid.clone() }, exact_match),
        "max_features is 0; it must be 1 or more"
    );
    assert_eq!(
        refusal(&labels, grid.clone(), |_, _| f64::NAN),
        "the score of C = 0.1, hinge, max_features = Some(10000) is NaN"
    );
    // Of equals the first is taken.
    assert_eq!(find(&labels, grid, |_, _| 0.5).expect("it chooses").best, 0);
}
