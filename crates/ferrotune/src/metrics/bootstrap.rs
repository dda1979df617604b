//! How sure a figure is: 95 % intervals by the percentile bootstrap. Each resample draws as many
//! rows as there are, with replacement, from its own stream of ChaCha8, so the intervals depend on
//! the seed alone and not on the number of threads.
//!
//! Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::counts::{Counts, Headline};
use super::curve::{Ranking, Tie, average_precision};
use super::{Classes, checked_answers, positive};

/// Resamples per interval.
pub const RESAMPLES: u64 = 1000;

/// Both ends of a 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// 2.5 % of the resamples lie below.
    pub low: f64,
    /// 2.5 % of the resamples lie above.
    pub high: f64,
}

/// The intervals of the figures in [`Scores`](super::Scores).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intervals {
    /// Of the accuracy.
    pub accuracy: Interval,
    /// Of the precision.
    pub precision: Interval,
    /// Of the recall.
    pub recall: Interval,
    /// Of the F1.
    pub f1: Interval,
    /// Of the micro-F1; multi-label tasks only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_f1: Option<Interval>,
    /// Of the average precision; binary tasks with at least one row only.
    pub average_precision: Option<Interval>,
}

/// The intervals of what [`scores`](super::scores) says of the same rows.
///
/// # Panics
/// As [`scores`](super::scores).
#[must_use]
pub fn bootstrap(
    probabilities: &[f32],
    labels: &[u32],
    classes: Classes,
    thresholds: &[f32],
    seed: u64,
) -> Intervals {
    let answers = checked_answers(probabilities, labels, classes, thresholds);
    let width = classes.width();
    let rows = labels.len() / width;
    // Sorted once: a resample only changes how often each row stands in its place.
    let ranking = (classes == Classes::Binary && !labels.is_empty())
        .then(|| Ranking::new(positive(probabilities), labels));

    let resample = |stream: u64| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(stream);
        let mut counts = Counts::none(classes);
        let mut ties = ranking.as_ref().map(|r| vec![Tie::default(); r.ties.len()]);
        for _ in 0..rows {
            let row = below(rows, &mut random);
            let of_row = row * width..(row + 1) * width;
            counts.add(&labels[of_row.clone()], &answers[of_row]);
            if let (Some(ties), Some(ranking)) = (&mut ties, &ranking) {
                ties[ranking.tie_of_row[row]].add(labels[row]);
            }
        }
        (Headline::of(&counts, classes), ties.as_deref().map(average_precision))
    };
    let resamples: Vec<(Headline, Option<f64>)> =
        (0..RESAMPLES).into_par_iter().map(resample).collect();

    let of = |figure: fn(&Headline) -> f64| {
        interval(resamples.iter().map(|(headline, _)| figure(headline)).collect())
    };
    Intervals {
        accuracy: of(|h| h.accuracy),
        precision: of(|h| h.precision),
        recall: of(|h| h.recall),
        f1: of(|h| h.f1),
        micro_f1: matches!(classes, Classes::MultiLabel(_))
            .then(|| of(|h| h.micro_f1.unwrap_or_default())),
        average_precision: ranking
            .is_some()
            .then(|| interval(resamples.iter().filter_map(|(_, area)| *area).collect())),
    }
}

/// A row number; the 64 bits of a draw leave no bias that a split could show.
fn below(rows: usize, random: &mut ChaCha8Rng) -> usize {
    ((u128::from(random.next_u64()) * rows as u128) >> 64) as usize
}

fn interval(mut figures: Vec<f64>) -> Interval {
    figures.sort_unstable_by(f64::total_cmp);
    Interval { low: percentile(&figures, 0.025), high: percentile(&figures, 0.975) }
}

/// Linear between the two nearest of the sorted `figures`, as NumPy's default.
fn percentile(figures: &[f64], share: f64) -> f64 {
    let place = share * (figures.len() - 1) as f64;
    let (below, above) = (figures[place.floor() as usize], figures[place.ceil() as usize]);
    below + (above - below) * place.fract()
}
