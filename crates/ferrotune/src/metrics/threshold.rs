//! The threshold at which one label's F1 is highest, to be looked for on validation rows: on the
//! rows that a figure is then quoted of, it would flatter the model.

use super::HALF;
use super::curve::Ranking;

/// The threshold above which giving the label has the highest F1 on these rows, in the middle
/// between two probabilities that occur. Of equals the one nearest to one half, which it also is
/// where no threshold finds a row. `labels` are 0 and 1.
///
/// # Panics
/// If there is not one probability per label.
#[must_use]
pub fn best_threshold(probabilities: &[f32], labels: &[u32]) -> f32 {
    assert_eq!(probabilities.len(), labels.len(), "one probability per label");
    let Ranking { ties, thresholds: levels, .. } =
        Ranking::new(probabilities.iter().copied(), labels);
    let positives: u64 = ties.iter().map(|tie| tie.positive).sum();
    let (mut found, mut called) = (0, 0);
    let (mut best, mut best_f1) = (HALF, 0.0);
    for (at, (tie, &level)) in ties.iter().zip(&levels).enumerate() {
        found += tie.positive;
        called += tie.positive + tie.negative;
        let next = levels.get(at + 1).copied().unwrap_or(0.0).max(0.0);
        // A threshold is a probability: below 0 there is none, and NaN is above none.
        if level <= 0.0 || !level.is_finite() {
            break;
        }
        let middle = next + (level - next) / 2.0;
        // Between neighbouring floats there is none; the lower one still parts them.
        let threshold = if middle < level { middle } else { next };
        let f1 = 2.0 * found as f64 / (called + positives) as f64;
        let nearer = (threshold - HALF).abs() < (best - HALF).abs();
        if f1 > best_f1 || (f1 == best_f1 && f1 > 0.0 && nearer) {
            (best, best_f1) = (threshold, f1);
        }
    }
    best
}
