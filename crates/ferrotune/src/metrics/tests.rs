//! Golden values are those of scikit-learn 1.9.1 on the same float32 probabilities:
//! `accuracy_score`, `precision_recall_fscore_support(.., zero_division=0)` (of class 1, or
//! `average="macro"`), `average_precision_score(labels, p[:, 1])`,
//! `precision_recall_curve(.., drop_intermediate=True)`, `compute_class_weight("balanced", ..)`.
use proptest::prelude::*;

use super::curve::CURVE_POINTS;
use super::*;

fn two(positive: &[f32]) -> Vec<f32> {
    positive.iter().flat_map(|&p| [1.0 - p, p]).collect()
}

fn scores(probabilities: &[f32], labels: &[u32], classes: Classes) -> Scores {
    super::scores(probabilities, labels, classes, &[])
}

fn bootstrap(probabilities: &[f32], labels: &[u32], classes: Classes, seed: u64) -> Intervals {
    super::bootstrap(probabilities, labels, classes, &[], seed)
}

/// The confusion matrix behind the figures.
fn confusion(scores: &Scores) -> &[Vec<u64>] {
    let Counts::Confusion(confusion) = &scores.counts else { panic!("one class per row") };
    confusion
}

fn close(ours: f64, golden: f64) {
    assert!((ours - golden).abs() < 1e-12, "{ours} instead of {golden}");
}

/// Accuracy, precision, recall, F1.
fn agrees(scores: &Scores, golden: [f64; 4], average_precision: Option<f64>) {
    close(scores.accuracy, golden[0]);
    close(scores.precision, golden[1]);
    close(scores.recall, golden[2]);
    close(scores.f1, golden[3]);
    assert_eq!(scores.average_precision.is_some(), average_precision.is_some());
    if let (Some(ours), Some(golden)) = (scores.average_precision, average_precision) {
        close(ours, golden);
    }
}

fn binary(positive: &[f32], labels: &[u32]) -> Scores {
    scores(&two(positive), labels, Classes::Binary)
}

const TIES: ([f32; 10], [u32; 10]) =
    ([0.9, 0.9, 0.9, 0.5, 0.5, 0.4, 0.4, 0.4, 0.1, 0.1], [1, 0, 1, 1, 0, 0, 1, 0, 0, 1]);

/// 400 rows in 97 ties; in NumPy: `p = ((i * 7919) % 97 / 97).astype(float32)`,
/// `y = (((i * 31) % 11 < 3) | (p > 0.7)) * (i % 5 > 0)`.
fn large() -> (Vec<f32>, Vec<u32>) {
    let p = |i: u32| (f64::from((i * 7919) % 97) / 97.0) as f32;
    let label = |i: u32| u32::from(((i * 31) % 11 < 3 || p(i) > 0.7) && !i.is_multiple_of(5));
    ((0..400).map(p).collect(), (0..400).map(label).collect())
}

#[test]
fn binary_scores_equal_scikit_learns() {
    let ties = binary(&TIES.0, &TIES.1);
    agrees(&ties, [0.6, 0.6666666666666666, 0.4, 0.5], Some(0.5866666666666667));
    assert_eq!(confusion(&ties), [[4, 1], [3, 2]]);

    let perfect = binary(&[0.9, 0.8, 0.2, 0.1], &[1, 1, 0, 0]);
    agrees(&perfect, [1.0; 4], Some(1.0));

    let (p, labels) = large();
    let large = binary(&p, &labels);
    let golden = [0.6625, 0.5532994923857868, 0.6987179487179487, 0.6175637393767706];
    agrees(&large, golden, Some(0.667365093472162));
    assert_eq!(confusion(&large), [[156, 88], [47, 109]]);
}

#[test]
fn one_class_only_is_scored_as_scikit_learn_does() {
    let negative = binary(&[0.9, 0.3, 0.2], &[0, 0, 0]);
    agrees(&negative, [0.6666666666666666, 0.0, 0.0, 0.0], Some(0.0));
    assert_eq!(confusion(&negative), [[2, 1], [0, 0]]);

    let positive = binary(&[0.9, 0.3, 0.2], &[1, 1, 1]);
    agrees(&positive, [0.3333333333333333, 1.0, 0.3333333333333333, 0.5], Some(1.0));

    let never_predicted = binary(&[0.4, 0.3, 0.2, 0.1], &[0, 1, 0, 1]);
    agrees(&never_predicted, [0.5, 0.0, 0.0, 0.0], Some(0.5));
}

#[test]
fn macro_averages_are_over_the_classes_that_occur() {
    // The fourth class occurs nowhere.
    #[rustfmt::skip]
    let p = [
        0.7, 0.2, 0.1, 0.0,   0.4, 0.3, 0.3, 0.0,   0.1, 0.8, 0.1, 0.0,   0.2, 0.3, 0.5, 0.0,
        0.4, 0.4, 0.2, 0.0,   0.1, 0.2, 0.7, 0.0,   0.5, 0.1, 0.4, 0.0,
    ];
    let four = scores(&p, &[0, 0, 1, 1, 2, 2, 2], Classes::Multi(4));
    let golden = [0.5714285714285714, 0.6666666666666666, 0.611111111111111, 0.5777777777777778];
    agrees(&four, golden, None);
    assert_eq!(confusion(&four), [[2, 0, 0, 0], [0, 1, 1, 0], [2, 0, 1, 0], [0, 0, 0, 0]]);

    let p = [0.7, 0.2, 0.1, 0.6, 0.2, 0.2, 0.1, 0.8, 0.1, 0.3, 0.6, 0.1];
    let never_predicted = scores(&p, &[0, 2, 1, 2], Classes::Multi(3));
    let golden = [0.5, 0.3333333333333333, 0.6666666666666666, 0.4444444444444444];
    agrees(&never_predicted, golden, None);

    let p = [0.1, 0.2, 0.7, 0.9, 0.05, 0.05, 0.2, 0.7, 0.1];
    let only_predicted = scores(&p, &[0, 0, 1], Classes::Multi(3));
    let golden = [0.6666666666666666, 0.6666666666666666, 0.5, 0.5555555555555555];
    agrees(&only_predicted, golden, None);

    let p = [1.0, 0.0, 0.0, 0.9, 0.1, 0.0, 0.8, 0.0, 0.2];
    agrees(&scores(&p, &[0, 0, 0], Classes::Multi(3)), [1.0; 4], None);
}

/// 300 rows of 4 labels, of which the last is on no row; in NumPy:
/// `p = (((i * 7919 + k * 104729) % 97) / 97).astype(float32)`,
/// `y = (((i * 31 + k * 17) % 11 < 1) | (p > 0.8)) & ((i + k) % 5 > 0) & (k < 3)`.
fn multi_label() -> (Vec<f32>, Vec<u32>) {
    let cells = (0..300u32).flat_map(|i| (0..4u32).map(move |k| (i, k)));
    let p = |i: u32, k: u32| (f64::from((i * 7919 + k * 104_729) % 97) / 97.0) as f32;
    let label = |i: u32, k: u32| {
        let on = (i * 31 + k * 17).is_multiple_of(11) || p(i, k) > 0.8;
        u32::from(on && !(i + k).is_multiple_of(5) && k < 3)
    };
    cells.map(|(i, k)| (p(i, k), label(i, k))).unzip()
}

/// The goldens are `f1_score(average="micro")`, `precision_recall_fscore_support(average="macro")`
/// and that of each label on rows with a further column "none" (`m.sum(1) == 0`), and
/// `accuracy_score` without it.
#[test]
fn multi_label_scores_equal_scikit_learns_with_none_as_a_label() {
    let (p, labels) = multi_label();
    let classes = Classes::MultiLabel(4);
    let half = scores(&p, &labels, classes);
    let golden = [0.06, 0.21931531531531528, 0.4992647058823529, 0.3046908573182599];
    agrees(&half, golden, None);
    close(half.micro_f1.unwrap(), 0.35628415300546445);

    let tuned = super::scores(&p, &labels, classes, &[0.8, 0.7, 0.9, 0.99]);
    let golden = [0.6266666666666667, 0.5769588640196329, 0.503071631878558, 0.516573147388117];
    agrees(&tuned, golden, None);
    close(tuned.micro_f1.unwrap(), 0.6548387096774193);
    let each = tuned.counts.tallies();
    let golden = [
        (0.813559, 0.705882, 0.755906, 68),
        (0.555556, 0.78125, 0.649351, 64),
        (0.857143, 0.375, 0.521739, 64),
        (0.0, 0.0, 0.0, 0),
        (0.658537, 0.653226, 0.65587, 124),
    ];
    assert_eq!(each.len(), golden.len());
    for (tally, (precision, recall, f1, rows)) in each.iter().zip(golden) {
        let ours = tally.scores();
        assert!((ours.precision - precision).abs() < 1e-6, "{ours:?}");
        assert!((ours.recall - recall).abs() < 1e-6 && (ours.f1 - f1).abs() < 1e-6, "{ours:?}");
        assert_eq!(ours.rows, rows);
    }
}

#[test]
fn multi_label_counts_come_back_from_json_and_intervals_agree_with_numpys() {
    let (p, labels) = multi_label();
    let classes = Classes::MultiLabel(4);
    let ours = scores(&p, &labels, classes);
    let text = serde_json::to_string(&ours).unwrap();
    assert_eq!(serde_json::from_str::<Scores>(&text).unwrap(), ours);
    let binary = binary(&TIES.0, &TIES.1);
    let text = serde_json::to_string(&binary).unwrap();
    assert!(text.contains(r#""confusion":[[4,1],[3,2]]"#), "{text}");
    assert_eq!(serde_json::from_str::<Scores>(&text).unwrap(), binary);

    let ours = bootstrap(&p, &labels, classes, 7);
    for (ours, golden) in [
        (ours.micro_f1.unwrap(), (0.3213, 0.3917)),
        (ours.f1, (0.2813, 0.3263)),
        (ours.accuracy, (0.0333, 0.09)),
    ] {
        assert!((ours.low - golden.0).abs() < 0.01, "{ours:?} instead of {golden:?}");
        assert!((ours.high - golden.1).abs() < 0.01, "{ours:?} instead of {golden:?}");
    }
}

#[test]
fn rows_without_labels_are_right_where_none_is_given() {
    let none = scores(&[0.5, 0.2, 0.1, 0.4], &[0; 4], Classes::MultiLabel(2));
    // Of the labels and "none", only "none" occurs: macro figures are a third.
    agrees(&none, [1.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0], None);
    close(none.micro_f1.unwrap(), 1.0);
    let empty = scores(&[], &[], Classes::MultiLabel(2));
    agrees(&empty, [0.0; 4], None);
    let nothing = bootstrap(&[], &[], Classes::MultiLabel(2), 0);
    assert_eq!(nothing.micro_f1, Some(Interval { low: 0.0, high: 0.0 }));
}

#[test]
fn the_best_threshold_is_that_of_a_search_by_hand() {
    let (p, labels) = multi_label();
    let column =
        |k: usize| -> (Vec<f32>, Vec<u32>) { p.iter().zip(&labels).skip(k).step_by(4).unzip() };
    // Of scikit-learn's F1 at every threshold between two probabilities.
    for (k, golden) in [(0, 0.7559055118110236), (1, 0.7804878048780488), (2, 0.7642276422764228)] {
        let (p, labels) = column(k);
        let threshold = best_threshold(&p, &labels);
        assert!((threshold - 0.798_969).abs() < 1e-5, "{threshold}");
        let at = super::scores(&two(&p), &labels, Classes::Binary, &[threshold]);
        close(at.f1, golden);
    }
    let (p, labels) = column(3);
    assert_eq!(best_threshold(&p, &labels), HALF, "nothing to find");
    assert_eq!(best_threshold(&[], &[]), HALF);
    // Neighbouring floats, NaN and 0 are told apart or left out.
    let above = f32::from_bits(0.5f32.to_bits() + 1);
    assert_eq!(best_threshold(&[above, 0.5], &[1, 0]), 0.5);
    assert_eq!(best_threshold(&[f32::NAN, 0.8], &[1, 1]), 0.4);
    assert_eq!(best_threshold(&[0.0, 0.9], &[1, 0]), HALF);
    assert_eq!(best_threshold(&[0.875, 0.75, 0.625, 0.25], &[1, 1, 0, 0]), 0.6875);
    // Of equally good ones the nearest to one half.
    assert_eq!(best_threshold(&[0.5, 0.375, 0.25, 0.125], &[1, 0, 0, 1]), 0.4375);
    assert_eq!(best_threshold(&[1.0, 0.875, 0.8125, 0.75], &[1, 0, 0, 1]), 0.375);
}

#[test]
#[should_panic(expected = "3 thresholds for MultiLabel(2)")]
fn thresholds_are_as_many_as_labels() {
    let _ = answers(&[0.1, 0.2], Classes::MultiLabel(2), &[0.1; 3]);
}

#[test]
fn no_rows_and_no_numbers_score_without_a_panic() {
    for classes in [Classes::Binary, Classes::Multi(3)] {
        let empty = scores(&[], &[], classes);
        agrees(&empty, [0.0; 4], None);
        assert!(!empty.f1.is_sign_negative());
        assert_eq!(confusion(&empty).len(), classes.count());
        let nothing = bootstrap(&[], &[], classes, 0);
        assert_eq!(nothing.f1, Interval { low: 0.0, high: 0.0 });
        assert_eq!(nothing.average_precision, None);
    }
    assert!(precision_recall_curve(&[], &[]).is_empty());
    assert!(class_weights(&[]).is_empty());
    assert!(Counts::default().tallies().is_empty());

    // A NaN never wins and ranks last.
    let nan = scores(&[f32::NAN; 4], &[0, 1], Classes::Binary);
    assert_eq!(confusion(&nan), [[1, 0], [1, 0]]);
    let one_nan = [f32::NAN, 0.6, 0.4, f32::NAN];
    agrees(&scores(&one_nan, &[1, 0], Classes::Binary), [1.0; 4], Some(1.0));
    let _ = bootstrap(&one_nan, &[1, 0], Classes::Binary, 1);
}

#[test]
fn classes_are_scored_one_by_one() {
    let tallies = Counts::Confusion(vec![vec![4, 1], vec![3, 2]]).tallies();
    let [fair, unfair] = [tallies[0].scores(), tallies[1].scores()];
    close(fair.precision, 4.0 / 7.0);
    close(fair.recall, 0.8);
    close(fair.f1, 2.0 / 3.0);
    assert_eq!((fair.rows, unfair.rows), (5, 5));
    close(unfair.f1, 0.5);
}

#[test]
fn class_weights_equal_scikit_learns() {
    let agrees = |counts: &[usize], golden: &[f32]| {
        let weights = class_weights(counts);
        assert_eq!(weights.len(), golden.len());
        for (ours, golden) in weights.iter().zip(golden) {
            assert!((ours - golden).abs() < 1e-6, "{ours} instead of {golden}");
        }
    };
    agrees(&[4906, 626], &[0.563_799_4, 4.418_530_5]);
    agrees(&[5, 3, 2], &[0.666_666_7, 1.111_111, 1.666_666_6]);
    agrees(&[4906, 0, 626], &[0.563_799_4, 1.0, 4.418_530_5]);
    agrees(&[0, 0], &[1.0, 1.0]);
    assert_eq!(positive_weights(&[68, 0, 300, 150], 300), [232.0 / 68.0, 1.0, 1.0, 1.0]);
}

#[test]
fn the_curve_equals_scikit_learns() {
    let curve = precision_recall_curve(&TIES.0, &TIES.1);
    let golden = [(0.9, 2.0 / 3.0, 0.4), (0.5, 0.6, 0.6), (0.4, 0.5, 0.8), (0.1, 0.5, 1.0)];
    assert_eq!(curve.len(), golden.len());
    for (point, (threshold, precision, recall)) in curve.iter().zip(golden) {
        assert_eq!(point.threshold, threshold);
        close(point.precision, precision);
        close(point.recall, recall);
    }

    // Within equal recall only the ends stay.
    let p = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2];
    let curve = precision_recall_curve(&p, &[0, 0, 1, 0, 0, 0, 1, 0]);
    let thresholds: Vec<f32> = curve.iter().map(|point| point.threshold).collect();
    assert_eq!(thresholds, [0.9, 0.8, 0.7, 0.4, 0.3, 0.2]);
    assert!(precision_recall_curve(&p, &[0; 8]).is_empty());
}

#[test]
fn a_long_curve_is_thinned_and_keeps_its_ends() {
    let p: Vec<f32> = (0..1607u16).map(|row| f32::from(row) / 1607.0).collect();
    let labels: Vec<u32> = (0..1607).map(|row| row % 2).collect();
    let curve = precision_recall_curve(&p, &labels);
    assert_eq!(curve.len(), CURVE_POINTS);
    assert_eq!(curve[0].threshold, p[1606]);
    assert_eq!(curve[CURVE_POINTS - 1].threshold, p[0]);
    assert!(
        curve.windows(2).all(|w| w[0].threshold > w[1].threshold && w[0].recall <= w[1].recall)
    );
}

/// NumPy's percentile bootstrap of the same rows, 20,000 resamples (5,000 for the average
/// precision); 1,000 resamples stray from it by about 0.003.
#[test]
fn intervals_agree_with_numpys() {
    let (p, labels) = large();
    let ours = bootstrap(&two(&p), &labels, Classes::Binary, 7);
    for (ours, golden) in [
        (ours.accuracy, (0.6175, 0.7076)),
        (ours.precision, (0.4840, 0.6230)),
        (ours.recall, (0.6265, 0.7707)),
        (ours.f1, (0.5562, 0.6753)),
        (ours.average_precision.expect("binary"), (0.5878, 0.7537)),
    ] {
        assert!((ours.low - golden.0).abs() < 0.012, "{ours:?} instead of {golden:?}");
        assert!((ours.high - golden.1).abs() < 0.012, "{ours:?} instead of {golden:?}");
    }
}

#[test]
fn intervals_depend_on_the_seed_and_not_on_the_threads() {
    let (p, labels) = large();
    let with = |threads, seed| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("pool");
        pool.install(|| bootstrap(&two(&p), &labels, Classes::Binary, seed))
    };
    let one = with(1, 3);
    assert_eq!(one, with(3, 3));
    assert_ne!(one, with(1, 4));
}

#[test]
#[should_panic(expected = "label 2 is none of 2 classes")]
fn a_label_that_is_no_class_is_a_mistake_of_the_caller() {
    let _ = binary(&[0.1], &[2]);
}

/// Rows of a binary split: a probability, often tied or NaN, and a label.
fn rows() -> impl Strategy<Value = Vec<(f32, u32)>> {
    let probability = prop_oneof![
        (0..=8u8).prop_map(|eighth| f32::from(eighth) / 8.0),
        0.0..=1.0f32,
        Just(f32::NAN)
    ];
    prop::collection::vec((probability, 0..2u32), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn figures_lie_between_0_and_1_and_ignore_the_order(
        (rows, shuffled) in rows().prop_flat_map(|rows| (Just(rows.clone()), Just(rows).prop_shuffle()))
    ) {
        let split = |rows: &[(f32, u32)]| -> (Vec<f32>, Vec<u32>) { rows.iter().copied().unzip() };
        let (p, labels) = split(&rows);
        let ours = binary(&p, &labels);
        for figure in [ours.accuracy, ours.precision, ours.recall, ours.f1] {
            prop_assert!((0.0..=1.0).contains(&figure));
        }
        prop_assert!(ours.average_precision.is_none_or(|area| (0.0..=1.0).contains(&area)));
        prop_assert_eq!(ours.counts.rows(), rows.len() as u64);

        let (p, labels) = split(&shuffled);
        prop_assert_eq!(ours, binary(&p, &labels));
    }

    #[test]
    fn average_precision_is_the_area_under_the_curves_steps(rows in rows()) {
        let (p, labels): (Vec<f32>, Vec<u32>) = rows.into_iter().unzip();
        let (mut recall, mut area) = (0.0, 0.0);
        for point in precision_recall_curve(&p, &labels) {
            area += (point.recall - recall) * point.precision;
            recall = point.recall;
        }
        close(binary(&p, &labels).average_precision.unwrap_or_default(), area);
    }

    #[test]
    fn averages_follow_from_the_confusion_matrix(
        rows in prop::collection::vec((prop::array::uniform4(0.0..=1.0f32), 0..4u32), 0..40)
    ) {
        let (p, labels): (Vec<[f32; 4]>, Vec<u32>) = rows.into_iter().unzip();
        let ours = scores(&p.concat(), &labels, Classes::Multi(4));
        let confusion = confusion(&ours);
        let occurring: Vec<f64> = (0..4)
            .filter_map(|class| {
                let wrong: u64 = (0..4)
                    .filter(|&other| other != class)
                    .map(|other| confusion[class][other] + confusion[other][class])
                    .sum();
                let hits = confusion[class][class];
                (wrong + hits > 0).then(|| 2.0 * hits as f64 / (2 * hits + wrong) as f64)
            })
            .collect();
        let f1 = occurring.iter().sum::<f64>() / occurring.len().max(1) as f64;
        prop_assert!((ours.f1 - f1).abs() < 1e-12);
        let hits: u64 = (0..4).map(|class| confusion[class][class]).sum();
        prop_assert!((ours.accuracy - hits as f64 / labels.len().max(1) as f64).abs() < 1e-12);
    }
}
