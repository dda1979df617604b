//! What a binary classifier would do at every threshold: the precision-recall curve and the area
//! under its steps (average precision), without interpolation. Rows of equal probability cannot be
//! told apart by a threshold, so they enter together.
use std::cmp::Ordering;

/// No curve holds more points than this.
pub const CURVE_POINTS: usize = 200;

/// Precision and recall of calling positive what is at least as probable as the threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurvePoint {
    /// Probability of class 1.
    pub threshold: f32,
    /// Of the rows called positive, the share that is.
    pub precision: f64,
    /// Of the positive rows, the share that was called so.
    pub recall: f64,
}

/// The precision-recall curve from the highest threshold to the lowest, given the probabilities of
/// class 1. Points within a stretch of equal recall are left out, and of what remains at most
/// [`CURVE_POINTS`] are kept, evenly, with both ends. Without positive rows there is no curve.
///
/// # Panics
/// If there is not one probability per label.
#[must_use]
pub fn precision_recall_curve(probabilities: &[f32], labels: &[u32]) -> Vec<CurvePoint> {
    assert_eq!(probabilities.len(), labels.len(), "one probability per label");
    let Ranking { ties, thresholds, .. } = Ranking::new(probabilities.iter().copied(), labels);
    let positives: u64 = ties.iter().map(|tie| tie.positive).sum();
    if positives == 0 {
        return Vec::new();
    }
    let (mut found, mut called) = (0, 0);
    let mut points = Vec::with_capacity(ties.len());
    for (at, (tie, &threshold)) in ties.iter().zip(&thresholds).enumerate() {
        found += tie.positive;
        called += tie.positive + tie.negative;
        let bends = tie.positive > 0 || ties.get(at + 1).is_none_or(|next| next.positive > 0);
        if at == 0 || bends {
            let precision = found as f64 / called as f64;
            points.push(CurvePoint {
                threshold,
                precision,
                recall: found as f64 / positives as f64,
            });
        }
    }
    thinned(points)
}

fn thinned(points: Vec<CurvePoint>) -> Vec<CurvePoint> {
    if points.len() <= CURVE_POINTS {
        return points;
    }
    let last = points.len() - 1;
    (0..CURVE_POINTS).map(|kept| points[kept * last / (CURVE_POINTS - 1)]).collect()
}

/// Rows of one probability, by truth.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tie {
    pub(super) positive: u64,
    pub(super) negative: u64,
}

impl Tie {
    pub(super) fn add(&mut self, label: u32) {
        match label {
            1 => self.positive += 1,
            _ => self.negative += 1,
        }
    }
}

/// All rows by falling probability of class 1.
pub(super) struct Ranking {
    pub(super) ties: Vec<Tie>,
    /// The probability of each tie.
    pub(super) thresholds: Vec<f32>,
    /// The tie that each row belongs to.
    pub(super) tie_of_row: Vec<usize>,
}

impl Ranking {
    pub(super) fn new(probabilities: impl Iterator<Item = f32>, labels: &[u32]) -> Self {
        let lowest_if_nan = |p: f32| if p.is_nan() { f32::NEG_INFINITY } else { p };
        let probabilities: Vec<f32> = probabilities.map(lowest_if_nan).collect();
        let mut rows: Vec<usize> = (0..labels.len()).collect();
        // Not total_cmp: 0 and -0 are a tie.
        rows.sort_unstable_by(|&a, &b| {
            probabilities[b].partial_cmp(&probabilities[a]).unwrap_or(Ordering::Equal)
        });
        let mut ranking =
            Self { ties: Vec::new(), thresholds: Vec::new(), tie_of_row: vec![0; labels.len()] };
        for row in rows {
            if ranking.thresholds.last() != Some(&probabilities[row]) {
                ranking.thresholds.push(probabilities[row]);
                ranking.ties.push(Tie::default());
            }
            ranking.tie_of_row[row] = ranking.ties.len() - 1;
            if let Some(tie) = ranking.ties.last_mut() {
                tie.add(labels[row]);
            }
        }
        ranking
    }
}

/// Σ (rise of recall × precision) over the ties, the most probable first; 0 without positive rows.
pub(super) fn average_precision(ties: &[Tie]) -> f64 {
    let positives: u64 = ties.iter().map(|tie| tie.positive).sum();
    let (mut found, mut called, mut area) = (0, 0, 0.0);
    for tie in ties.iter().filter(|tie| tie.positive + tie.negative > 0) {
        found += tie.positive;
        called += tie.positive + tie.negative;
        area += tie.positive as f64 * (found as f64 / called as f64);
    }
    if positives == 0 { 0.0 } else { area / positives as f64 }
}
