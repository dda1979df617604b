//! Vocabularies, rows, machines and searches against scikit-learn's: the fixtures are written by
//! `tests/parity/linear_fixtures.py`.

use linear::{
    ClassWeight, Grid, Labels, LinearClassifier, Loss, SparseRows, Split, SvmConfig, Vectorizer,
    VectorizerConfig, exact_match, search,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

type Row = Vec<(u32, f64)>;

fn fixture<T: DeserializeOwned>(name: &str) -> T {
    let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::read_to_string(&path).expect(&path);
    serde_json::from_str(&file).expect(&path)
}

/// The largest difference, relative to the largest expected number.
fn difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f64, |largest, number| largest.max(number.abs()));
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f64::max) / largest.max(f64::MIN_POSITIVE)
}

fn indicators(rows: &[Vec<u8>]) -> Labels {
    Labels::MultiLabel(rows.iter().map(|row| row.iter().map(|&is| is == 1).collect()).collect())
}

mod vectorizer {
    use super::*;

    #[derive(Deserialize)]
    struct Fixture {
        train: Vec<String>,
        other: Vec<String>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        config: VectorizerConfig,
        terms: Vec<String>,
        idf: Vec<f64>,
        /// Rows of the first training texts.
        train: Vec<Row>,
        other: Vec<Row>,
    }

    fn assert_rows(found: &SparseRows, expected: &[Row]) {
        assert_eq!(found.len(), expected.len());
        for (index, expected) in expected.iter().enumerate() {
            let (columns, values) = found.row(index);
            let (expected_columns, expected): (Vec<u32>, Vec<f64>) =
                expected.iter().copied().unzip();
            assert_eq!(columns, expected_columns, "row {index}");
            assert!(difference(values, &expected) <= 1e-14, "row {index}");
        }
    }

    #[test]
    fn vocabulary_weights_and_rows_are_equal() {
        let Fixture { train, other, cases } = fixture("vectorizer.json");
        assert_eq!(cases.len(), 4);
        for case in cases {
            let vectorizer = Vectorizer::fit(&train, &case.config).expect("the texts have terms");
            assert_eq!(vectorizer.terms(), case.terms, "{:?}", case.config);
            assert!(difference(vectorizer.idf(), &case.idf) <= 1e-15, "{:?}", case.config);
            assert_rows(&vectorizer.transform(&train[..case.train.len()]), &case.train);
            assert_rows(&vectorizer.transform(&other), &case.other);
        }
    }
}

mod classifier {
    use super::*;

    #[derive(Deserialize)]
    struct Fixture {
        features: usize,
        train: Vec<Row>,
        other: Vec<Row>,
        labels: Vec<Vec<u8>>,
        classes: Vec<usize>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize, Debug)]
    struct Case {
        task: String,
        loss: Loss,
        c: f64,
        tolerance: f64,
        seed: u32,
        weight: String,
        /// `[outputs][features]`
        weights: Vec<Vec<f64>>,
        intercepts: Vec<f64>,
        /// Empty where they are not comparable, as are the objectives.
        iterations: Vec<usize>,
        objectives: Vec<f64>,
        /// `[rows][outputs]`
        decisions: Vec<Vec<f64>>,
        predicted: serde_json::Value,
    }

    impl Case {
        fn labels(&self, fixture: &Fixture) -> Labels {
            match self.task.as_str() {
                "labels" => indicators(&fixture.labels),
                "binary" => {
                    let rows = fixture.labels.iter().map(|row| usize::from(row[0])).collect();
                    Labels::Classes { count: 2, rows }
                }
                _ => Labels::Classes { count: 3, rows: fixture.classes.clone() },
            }
        }

        fn config(&self) -> SvmConfig {
            let &Case { c, loss, tolerance, seed, .. } = self;
            let class_weight = match self.weight.as_str() {
                "uniform" => ClassWeight::Uniform,
                "balanced" => ClassWeight::Balanced,
                _ => ClassWeight::Given(vec![0.5, 3.0]),
            };
            SvmConfig { c, loss, tolerance, seed, class_weight, max_iterations: 10_000_000 }
        }

        fn predicted(&self) -> Labels {
            let parse = "the fixture is valid";
            match self.task.as_str() {
                "labels" => {
                    let rows: Vec<Vec<u8>> =
                        serde_json::from_value(self.predicted.clone()).expect(parse);
                    indicators(&rows)
                }
                task => {
                    let rows = serde_json::from_value(self.predicted.clone()).expect(parse);
                    Labels::Classes { count: if task == "binary" { 2 } else { 3 }, rows }
                }
            }
        }
    }

    /// Not only the optimum: the way to it. Where the generator is not shared between machines, the
    /// steps, and with them the weights after any number of passes, are those of liblinear.
    #[test]
    fn machines_are_equal_step_for_step() {
        let fixture: Fixture = fixture("classifier.json");
        let train = SparseRows::new(fixture.features, &fixture.train).expect("valid rows");
        let other = SparseRows::new(fixture.features, &fixture.other).expect("valid rows");
        let (mut compared, mut steps) = (0, 0);
        for case in &fixture.cases {
            let (classifier, solves) =
                LinearClassifier::fit(&train, &case.labels(&fixture), &case.config())
                    .expect("the fixture can be fitted");
            assert!(solves.iter().all(|solve| solve.converged), "{case:?}");

            let outputs = case.weights.len();
            let weights: Vec<f64> = (0..fixture.features * outputs)
                .map(|i| case.weights[i % outputs][i / outputs])
                .collect();
            // Rounding aside, or as far as two optima of the tolerance 1e-9 are apart.
            let tolerance = if case.iterations.is_empty() { 1e-7 } else { 1e-12 };
            assert!(difference(classifier.weights(), &weights) <= tolerance, "{case:?}");
            assert!(difference(classifier.intercepts(), &case.intercepts) <= tolerance, "{case:?}");
            let decisions = classifier.decision_values(&other).expect("as many features");
            assert!(difference(&decisions, &case.decisions.concat()) <= tolerance, "{case:?}");
            assert_eq!(classifier.predict(&other).expect("as many features"), case.predicted());

            for (solve, iterations) in solves.iter().zip(&case.iterations) {
                assert_eq!(solve.iterations, *iterations, "{case:?}");
                (compared, steps) = (compared + 1, steps + iterations);
            }
            for (solve, objective) in solves.iter().zip(&case.objectives) {
                assert!((solve.primal - objective).abs() <= 1e-12 * objective, "{case:?}");
                if case.tolerance < 1e-8 {
                    let gap = (solve.primal - solve.dual) / solve.primal;
                    assert!((-1e-12..1e-6).contains(&gap), "gap {gap}: {case:?}");
                }
            }
        }
        assert_eq!(compared, 72);
        assert!(steps > 10_000);
    }
}

mod grid {
    use super::*;

    #[derive(Deserialize)]
    struct Fixture {
        train: Vec<String>,
        labels: Vec<Vec<u8>>,
        validation: Vec<String>,
        truth: Vec<Vec<u8>>,
        limits: Vec<usize>,
        scores: Vec<f64>,
        best: usize,
        decisions: Vec<Vec<f64>>,
        predicted: Vec<Vec<u8>>,
    }

    #[test]
    fn a_search_scores_and_chooses_alike() {
        let fixture: Fixture = fixture("search.json");
        let (labels, truth) = (indicators(&fixture.labels), indicators(&fixture.truth));
        let grid = Grid {
            max_features: fixture.limits.iter().copied().map(Some).collect(),
            ..Grid::default()
        };
        let vectorizer = VectorizerConfig { min_df: 3, ..VectorizerConfig::default() };
        let svm = SvmConfig { max_iterations: 10_000_000, ..SvmConfig::default() };
        let with_threads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.expect("threads can be started").install(|| {
                let train = Split { texts: &fixture.train, labels: &labels };
                let validation = Split { texts: &fixture.validation, labels: &truth };
                search(&train, &validation, &vectorizer, &svm, &grid, exact_match, &|| false)
                    .expect("the fixture can be searched")
            })
        };
        let found = with_threads(1);
        let scores: Vec<f64> = found.candidates.iter().map(|candidate| candidate.score).collect();
        assert!(difference(&scores, &fixture.scores) <= 1e-15, "{scores:?}");
        assert!(found.candidates.iter().all(|candidate| candidate.converged));
        assert_eq!(found.best, fixture.best);
        assert_eq!(found.model.predict(&fixture.validation), indicators(&fixture.predicted));
        let decisions = found.model.decision_values(&fixture.validation);
        assert!(difference(&decisions, &fixture.decisions.concat()) <= 1e-11);

        assert_eq!(with_threads(3), found, "the number of threads changes no bit");
    }
}
