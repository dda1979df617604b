//! One linear support vector machine, by coordinate descent on its dual problem (Hsieh et al.,
//! "A dual coordinate descent method for large-scale linear SVM", ICML 2008, algorithm 3: random
//! permutations and shrinking).
//!
//! The machine minimises ½ w·w + Σ cᵢ loss(1 − yᵢ w·xᵢ) over w, where every xᵢ has a last feature of
//! 1, whose weight is the intercept: it is regularised like the others. The dual minimises
//! ½ ‖Σ αᵢ yᵢ xᵢ‖² + Σ (½ dᵢ αᵢ² − αᵢ) over 0 ≤ αᵢ ≤ uᵢ, with dᵢ = 0 and uᵢ = cᵢ for the hinge, and
//! dᵢ = 1 / (2 cᵢ) and no uᵢ for its square.
//!
//! Rows are visited in the order in which liblinear inside scikit-learn visits them for the same
//! `random_state`: negative rows first, then shuffled by the same draws. Sums have its order, too.
//! So the steps are the same, and a solution differs from `LinearSVC(dual=True)` by rounding alone,
//! at any tolerance, but where that one stops too early (see `Bounds::are_within`).

use rand_mt::Mt;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, SparseRows};

/// What a row costs that is on the wrong side of its margin, by the distance ξ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// ξ ("L1 loss").
    Hinge,
    /// ξ² ("L2 loss").
    #[default]
    SquaredHinge,
}

impl Loss {
    /// The name of scikit-learn.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hinge => "hinge",
            Self::SquaredHinge => "squared_hinge",
        }
    }
}

/// How far one machine was optimised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Solve {
    /// Passes over the rows that were not shrunk away.
    pub iterations: usize,
    /// Whether the tolerance was reached; if not, `max_iterations` were spent.
    pub converged: bool,
    /// The objective ½ w·w + Σ cᵢ loss(ξᵢ) that was reached.
    pub primal: f64,
    /// The dual objective, negated: a lower bound of the least possible `primal`.
    pub dual: f64,
}

/// Rows of two classes and what is to be minimised.
pub(crate) struct Problem<'a> {
    pub rows: &'a SparseRows,
    /// Which rows have y = 1; the others have y = −1.
    pub positive: &'a [bool],
    /// c of the positive and of the negative rows.
    pub cost: [f64; 2],
    pub loss: Loss,
    /// Largest projected gradient, and largest difference of two, at the end.
    pub tolerance: f64,
    pub max_iterations: usize,
    pub seed: u32,
    /// Asked before every pass whether to give up.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// A hyperplane w·x + intercept.
pub(crate) struct Plane {
    pub weights: Vec<f64>,
    pub intercept: f64,
}

/// Projected gradients below this cause no step.
const NEGLIGIBLE: f64 = 1e-12;

impl Problem<'_> {
    pub(crate) fn solve(&self) -> Result<(Plane, Solve)> {
        let rows = self.positive.len();
        let mut descent = Descent {
            problem: self,
            plane: Plane { weights: vec![0.0; self.rows.features()], intercept: 0.0 },
            alphas: vec![0.0; rows],
            curvatures: (0..rows).map(|row| self.curvature(row)).collect(),
        };
        let (negative, positive): (Vec<usize>, Vec<usize>) =
            (0..rows).partition(|&row| !self.positive[row]);
        let mut order = [negative, positive].concat();
        let mut draws = Draws::new(self.seed);

        let mut active = rows;
        let mut bounds = Bounds::NONE;
        let (mut iterations, mut converged) = (0, false);
        while iterations < self.max_iterations {
            if (self.stop)() {
                return Err(Error::Stopped);
            }
            iterations += 1;
            draws.shuffle(&mut order[..active]);
            let seen = descent.pass(&mut order, &mut active, bounds);
            if !seen.are_within(self.tolerance) {
                bounds = seen.for_shrinking();
            } else if active < rows {
                // Reached on the rows that were left: once more on all of them.
                active = rows;
                bounds = Bounds::NONE;
            } else {
                converged = true;
                break;
            }
        }
        let (primal, dual) = descent.objectives();
        Ok((descent.plane, Solve { iterations, converged, primal, dual }))
    }

    /// y of a row.
    fn sign(&self, row: usize) -> f64 {
        if self.positive[row] { 1.0 } else { -1.0 }
    }

    fn cost(&self, row: usize) -> f64 {
        self.cost[usize::from(!self.positive[row])]
    }

    /// d of a row.
    fn diagonal(&self, row: usize) -> f64 {
        match self.loss {
            Loss::Hinge => 0.0,
            Loss::SquaredHinge => 0.5 / self.cost(row),
        }
    }

    /// u of a row.
    fn limit(&self, row: usize) -> f64 {
        match self.loss {
            Loss::Hinge => self.cost(row),
            Loss::SquaredHinge => f64::INFINITY,
        }
    }

    /// The second derivative of the dual along the α of a row.
    fn curvature(&self, row: usize) -> f64 {
        let squares = self.rows.row(row).1.iter().map(|value| value * value);
        squares.fold(self.diagonal(row), |sum, square| sum + square) + 1.0
    }
}

/// The point that the descent has come to: w = Σ αᵢ yᵢ xᵢ throughout.
struct Descent<'a> {
    problem: &'a Problem<'a>,
    plane: Plane,
    alphas: Vec<f64>,
    curvatures: Vec<f64>,
}

impl Descent<'_> {
    /// One step along each of the first `active` rows of `order`. Rows at a bound of their α whose
    /// gradient says that they stay there, judged by the pass before, are swapped behind them.
    /// Returns the range of the projected gradients.
    fn pass(&mut self, order: &mut [usize], active: &mut usize, shrink: Bounds) -> Bounds {
        let problem = self.problem;
        let mut seen = Bounds { lower: f64::INFINITY, upper: f64::NEG_INFINITY };
        let mut position = 0;
        while position < *active {
            let row = order[position];
            let (sign, limit, alpha) = (problem.sign(row), problem.limit(row), self.alphas[row]);
            let gradient = self.decision(row) * sign - 1.0 + alpha * problem.diagonal(row);
            let (at_zero, at_limit) = (alpha == 0.0, alpha == limit);
            if (at_zero && gradient > shrink.upper) || (at_limit && gradient < shrink.lower) {
                *active -= 1;
                order.swap(position, *active);
                continue;
            }
            position += 1;
            let projected = if at_zero {
                gradient.min(0.0)
            } else if at_limit {
                gradient.max(0.0)
            } else {
                gradient
            };
            seen.lower = seen.lower.min(projected);
            seen.upper = seen.upper.max(projected);
            if projected.abs() > NEGLIGIBLE {
                let stepped = (alpha - gradient / self.curvatures[row]).max(0.0).min(limit);
                self.alphas[row] = stepped;
                self.move_plane(row, (stepped - alpha) * sign);
            }
        }
        seen
    }

    /// w·x of a row.
    fn decision(&self, row: usize) -> f64 {
        let (columns, values) = self.problem.rows.row(row);
        let weights = &self.plane.weights;
        let terms = columns.iter().zip(values).map(|(&c, value)| weights[c as usize] * value);
        terms.fold(0.0, |sum, term| sum + term) + self.plane.intercept
    }

    /// Adds a multiple of a row to w.
    fn move_plane(&mut self, row: usize, factor: f64) {
        let (columns, values) = self.problem.rows.row(row);
        for (&column, value) in columns.iter().zip(values) {
            self.plane.weights[column as usize] += factor * value;
        }
        self.plane.intercept += factor;
    }

    /// The primal objective and the dual one, negated.
    fn objectives(&self) -> (f64, f64) {
        let squares = self.plane.weights.iter().map(|weight| weight * weight).sum::<f64>();
        let half = (squares + self.plane.intercept * self.plane.intercept) / 2.0;
        let (mut primal, mut dual) = (half, -half);
        for (row, alpha) in self.alphas.iter().enumerate() {
            let slack = (1.0 - self.problem.sign(row) * self.decision(row)).max(0.0);
            let loss = match self.problem.loss {
                Loss::Hinge => slack,
                Loss::SquaredHinge => slack * slack,
            };
            primal += self.problem.cost(row) * loss;
            dual += alpha - alpha * alpha * self.problem.diagonal(row) / 2.0;
        }
        (primal, dual)
    }
}

/// A range of projected gradients.
#[derive(Clone, Copy)]
struct Bounds {
    lower: f64,
    upper: f64,
}

impl Bounds {
    /// Shrinks nothing.
    const NONE: Self = Self { lower: f64::NEG_INFINITY, upper: f64::INFINITY };

    /// Whether the pass that saw these may be the last. scikit-learn's liblinear asks for their
    /// difference alone, and so stops at once where all rows have the same gradient; newer liblinear
    /// asks for all three.
    fn are_within(self, tolerance: f64) -> bool {
        let saw_no_row = self.lower > self.upper;
        let range = self.upper - self.lower;
        saw_no_row || range.max(self.upper.abs()).max(self.lower.abs()) <= tolerance
    }

    /// What the next pass shrinks by: a bound on the wrong side of zero says nothing.
    fn for_shrinking(self) -> Self {
        Self {
            lower: if self.lower < 0.0 { self.lower } else { Self::NONE.lower },
            upper: if self.upper > 0.0 { self.upper } else { Self::NONE.upper },
        }
    }
}

/// The draws of scikit-learn's liblinear: a Mersenne Twister, seeded by the first draw that numpy's
/// `RandomState(seed).randint(2³¹ − 1)` makes of another.
struct Draws(Mt);

impl Draws {
    fn new(seed: u32) -> Self {
        let mut numpy = Mt::new(seed);
        loop {
            let draw = numpy.next_u32() & 0x7FFF_FFFF;
            if draw < 0x7FFF_FFFF {
                return Self(Mt::new(draw));
            }
        }
    }

    /// Fisher–Yates from the front.
    fn shuffle(&mut self, order: &mut [usize]) {
        for position in 0..order.len() {
            let other = position + self.below((order.len() - position) as u32) as usize;
            order.swap(position, other);
        }
    }

    /// A number below `range`, all equally likely (Lemire, "Fast random integer generation in an
    /// interval", 2019): the high half of a product, drawn again where the low half is among those
    /// that would favour some.
    fn below(&mut self, range: u32) -> u32 {
        loop {
            let product = u64::from(self.0.next_u32()) * u64::from(range);
            let low = product as u32;
            // Fewer than `range` are unfair, so that the division is rarely needed.
            if low >= range || low >= range.wrapping_neg() % range {
                return (product >> 32) as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solve(positive: &[bool], cost: [f64; 2], seed: u32) -> (Plane, Solve) {
        // Rows without features: only the intercept is sought.
        let rows = &SparseRows::collect(0, &vec![Vec::new(); positive.len()]);
        let (loss, tolerance, max_iterations) = (Loss::Hinge, 1e-8, 1000);
        let stop = &|| false;
        Problem { rows, positive, cost, loss, tolerance, max_iterations, seed, stop }
            .solve()
            .unwrap()
    }

    #[test]
    fn equal_gradients_do_not_end_the_descent() {
        let (a, b) = (16.0, 18.0);
        for seed in 0..20 {
            let (plane, solve) = solve(&[true, false], [a, b], seed);
            // α = (a, a + 1), so that the intercept is -1.
            assert!((plane.intercept + 1.0).abs() < 1e-7, "{}", plane.intercept);
            assert!((solve.primal - (0.5 + 2.0 * a)).abs() < 1e-5, "{solve:?}");
            assert!((solve.primal - solve.dual).abs() < 1e-5, "{solve:?}");
        }
    }
}
