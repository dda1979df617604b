//! Linear machines over feature rows: one per label or class against the rest, one in all for two
//! classes. Each is optimised on its own, so that they can be on different threads.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::solver::{Plane, Problem};
use crate::{Error, Labels, Loss, Result, Solve, SparseRows, Task};

/// How a machine is optimised. The defaults are LexGLUE's where it sets them, else scikit-learn's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SvmConfig {
    /// What errors on the training rows cost beside the length of the weights.
    pub c: f64,
    /// What a row on the wrong side of its margin costs.
    pub loss: Loss,
    /// How C differs between rows.
    pub class_weight: ClassWeight,
    /// When the optimisation ends: at projected gradients no larger, and no further apart.
    pub tolerance: f64,
    /// After how many passes over the rows it is given up.
    pub max_iterations: usize,
    /// Seed of the order in which rows are visited; scikit-learn's `random_state`.
    pub seed: u32,
}

impl Default for SvmConfig {
    fn default() -> Self {
        Self {
            c: 1.0,
            loss: Loss::SquaredHinge,
            class_weight: ClassWeight::Uniform,
            tolerance: 1e-4,
            max_iterations: 50_000,
            seed: 1,
        }
    }
}

/// By what C is multiplied. With three classes or more, each machine weighs the rows of its own
/// class and leaves C as it is for the rest, as liblinear does.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeight {
    /// By 1 for every row.
    #[default]
    Uniform,
    /// By rows / (classes × rows of the class); for labels, with and without are the two classes.
    Balanced,
    /// By one number per class; for labels, by one per label for the rows that have it.
    Given(Vec<f64>),
}

/// Weights and intercepts of one or more linear machines.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearClassifier {
    task: Task,
    /// `[features, outputs]`, row-major: what a feature adds to all outputs is side by side.
    weights: Vec<f64>,
    /// `[outputs]`
    intercepts: Vec<f64>,
}

impl LinearClassifier {
    /// Fits a machine per output of the task, and tells how far each was optimised.
    ///
    /// A label that all training rows have, or none, cannot be learned: its decision value is 1 or
    /// −1 throughout, and its [`Solve`] has 0 iterations.
    ///
    /// # Errors
    /// Labels and rows differ in number, invalid labels, a class without rows, a setting out of range.
    pub fn fit(
        rows: &SparseRows,
        labels: &Labels,
        config: &SvmConfig,
    ) -> Result<(Self, Vec<Solve>)> {
        Self::fit_unless(&|| false, rows, labels, config)
    }

    /// As [`LinearClassifier::fit`], but given up with [`Error::Stopped`] soon after `stop` says so.
    pub(crate) fn fit_unless(
        stop: &(dyn Fn() -> bool + Sync),
        rows: &SparseRows,
        labels: &Labels,
        config: &SvmConfig,
    ) -> Result<(Self, Vec<Solve>)> {
        let task = labels.task()?;
        labels.check_count(rows.len())?;
        config.check(task)?;
        if let &Labels::Classes { count, rows: ref classes } = labels
            && let Some(class) = (0..count).find(|class| !classes.contains(class))
        {
            return Err(Error::NoRowOfClass { class, count });
        }
        let outputs = task.outputs();
        let machines: Result<Vec<_>> = (0..outputs)
            .into_par_iter()
            .map(|output| {
                let positive = labels.positive(output);
                if let Some(&first) = positive.first()
                    && positive.iter().all(|&other| other == first)
                {
                    return Ok(constant(rows.features(), first));
                }
                let cost = config.cost(task, output, &positive);
                let &SvmConfig { loss, tolerance, max_iterations, seed, .. } = config;
                let positive = &positive;
                Problem { rows, positive, cost, loss, tolerance, max_iterations, seed, stop }
                    .solve()
            })
            .collect();
        let machines = machines?;
        let mut weights = vec![0.0; rows.features() * outputs];
        for (output, (plane, _)) in machines.iter().enumerate() {
            for (feature, weight) in plane.weights.iter().enumerate() {
                weights[feature * outputs + output] = *weight;
            }
        }
        let intercepts = machines.iter().map(|(plane, _)| plane.intercept).collect();
        let solves = machines.into_iter().map(|(_, solve)| solve).collect();
        Ok((Self { task, weights, intercepts }, solves))
    }

    /// Takes weights `[features, outputs]` and as many intercepts as outputs.
    pub(crate) fn new(task: Task, weights: Vec<f64>, intercepts: Vec<f64>) -> Self {
        Self { task, weights, intercepts }
    }

    /// What it tells of a row.
    #[must_use]
    pub fn task(&self) -> Task {
        self.task
    }

    /// The weights, `[features, outputs]`, row-major.
    #[must_use]
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// The intercepts, `[outputs]`.
    #[must_use]
    pub fn intercepts(&self) -> &[f64] {
        &self.intercepts
    }

    /// How many features a row has.
    #[must_use]
    pub fn features(&self) -> usize {
        self.weights.len() / self.task.outputs()
    }

    /// The signed distance of each row from each hyperplane in units of its margin, w·x +
    /// intercept: `[rows, outputs]`, row-major.
    ///
    /// # Errors
    /// Rows of another number of features.
    pub fn decision_values(&self, rows: &SparseRows) -> Result<Vec<f64>> {
        let (found, expected) = (rows.features(), self.features());
        if found != expected {
            return Err(Error::Features { found, expected });
        }
        Ok(self.decide(rows))
    }

    /// The decision values of rows that have its features.
    pub(crate) fn decide(&self, rows: &SparseRows) -> Vec<f64> {
        let outputs = self.task.outputs();
        let mut decisions = vec![0.0; rows.len() * outputs];
        decisions.par_chunks_exact_mut(outputs).enumerate().for_each(|(index, decision)| {
            let (columns, values) = rows.row(index);
            for (&column, value) in columns.iter().zip(values) {
                let weights = &self.weights[column as usize * outputs..][..outputs];
                for (sum, weight) in decision.iter_mut().zip(weights) {
                    *sum += value * weight;
                }
            }
            for (sum, intercept) in decision.iter_mut().zip(&self.intercepts) {
                *sum += intercept;
            }
        });
        decisions
    }

    /// The labels or the class of each row.
    ///
    /// # Errors
    /// Rows of another number of features.
    pub fn predict(&self, rows: &SparseRows) -> Result<Labels> {
        Ok(self.task.decide(&self.decision_values(rows)?))
    }
}

impl SvmConfig {
    /// Whether the settings can be used for `task`.
    pub(crate) fn check(&self, task: Task) -> Result<()> {
        let positive = |name, value: f64| {
            let limit = "a finite number above 0";
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                Err(Error::Setting { name, value: value.to_string(), limit })
            }
        };
        positive("C", self.c)?;
        positive("tolerance", self.tolerance)?;
        if self.max_iterations == 0 {
            let (value, limit) = ("0".into(), "1 or more");
            return Err(Error::Setting { name: "max_iterations", value, limit });
        }
        if let ClassWeight::Given(weights) = &self.class_weight {
            let (Task::MultiLabel(count) | Task::Classes(count)) = task;
            if weights.len() != count {
                let value = weights.len().to_string();
                let limit = "the number of classes or labels";
                return Err(Error::Setting { name: "the number of class weights", value, limit });
            }
            for &weight in weights {
                positive("a class weight", weight)?;
                positive("C times a class weight", self.c * weight)?;
            }
        }
        Ok(())
    }

    /// C of the positive and of the negative rows of `output`.
    fn cost(&self, task: Task, output: usize, positive: &[bool]) -> [f64; 2] {
        let classes = match task {
            Task::Classes(count) => count,
            Task::MultiLabel(_) => 2,
        };
        let rows_with = positive.iter().filter(|&&is| is).count();
        let balanced = |rows: usize| positive.len() as f64 / (classes * rows) as f64;
        let (with, without) = match &self.class_weight {
            ClassWeight::Uniform => (1.0, 1.0),
            ClassWeight::Balanced => (balanced(rows_with), balanced(positive.len() - rows_with)),
            ClassWeight::Given(weights) => match task {
                Task::Classes(2) => (weights[1], weights[0]),
                _ => (weights[output], 1.0),
            },
        };
        let one_of_many = matches!(task, Task::Classes(count) if count > 2);
        [self.c * with, if one_of_many { self.c } else { self.c * without }]
    }
}

/// The plane of a label that is always there or never.
fn constant(features: usize, is_there: bool) -> (Plane, Solve) {
    let intercept = if is_there { 1.0 } else { -1.0 };
    let plane = Plane { weights: vec![0.0; features], intercept };
    (plane, Solve { iterations: 0, converged: true, primal: 0.5, dual: 0.5 })
}
