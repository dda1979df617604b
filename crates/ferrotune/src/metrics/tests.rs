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
    assert_eq!(ties.confusion, [[4, 1], [3, 2]]);

    let perfect = binary(&[0.9, 0.8, 0.2, 0.1], &[1, 1, 0, 0]);
    agrees(&perfect, [1.0; 4], Some(1.0));

    let (p, labels) = large();
    let large = binary(&p, &labels);
    let golden = [0.6625, 0.5532994923857868, 0.6987179487179487, 0.6175637393767706];
    agrees(&large, golden, Some(0.667365093472162));
    assert_eq!(large.confusion, [[156, 88], [47, 109]]);
}

#[test]
fn one_class_only_is_scored_as_scikit_learn_does() {
    let negative = binary(&[0.9, 0.3, 0.2], &[0, 0, 0]);
    agrees(&negative, [0.6666666666666666, 0.0, 0.0, 0.0], Some(0.0));
    assert_eq!(negative.confusion, [[2, 1], [0, 0]]);

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
    assert_eq!(four.confusion, [[2, 0, 0, 0], [0, 1, 1, 0], [2, 0, 1, 0], [0, 0, 0, 0]]);

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

#[test]
fn no_rows_and_no_numbers_score_without_a_panic() {
    for classes in [Classes::Binary, Classes::Multi(3)] {
        let empty = scores(&[], &[], classes);
        agrees(&empty, [0.0; 4], None);
        assert!(!empty.f1.is_sign_negative());
        assert_eq!(empty.confusion.len(), classes.count());
        let nothing = bootstrap(&[], &[], classes, 0);
        assert_eq!(nothing.f1, Interval { low: 0.0, high: 0.0 });
        assert_eq!(nothing.average_precision, None);
    }
    assert!(precision_recall_curve(&[], &[]).is_empty());
    assert!(class_weights(&[]).is_empty());
    assert!(per_class(&[]).is_empty());

    // A NaN never wins and ranks last.
    let nan = scores(&[f32::NAN; 4], &[0, 1], Classes::Binary);
    assert_eq!(nan.confusion, [[1, 0], [1, 0]]);
    let one_nan = [f32::NAN, 0.6, 0.4, f32::NAN];
    agrees(&scores(&one_nan, &[1, 0], Classes::Binary), [1.0; 4], Some(1.0));
    let _ = bootstrap(&one_nan, &[1, 0], Classes::Binary, 1);
}

#[test]
fn classes_are_scored_one_by_one() {
    let [fair, unfair] = per_class(&[vec![4, 1], vec![3, 2]])[..] else { panic!("two classes") };
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
        prop_assert_eq!(ours.confusion.iter().flatten().sum::<u64>(), rows.len() as u64);

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
        let confusion = &ours.confusion;
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
