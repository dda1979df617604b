//! What runs came to: read from their reports, summed up over seeds.

use super::Method;
use crate::metrics::Interval;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::Path;

/// Written by the run, read here.
pub const REPORT: &str = "report.json";

/// What one run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Of the best model on the test rows, as is the macro-F1.
    pub micro_f1: Score,
    /// See there.
    pub macro_f1: Score,
    /// Seconds spent in training steps, or in the search.
    pub seconds: f64,
    /// The most memory its process held, where the system told.
    pub peak_memory_bytes: Option<u64>,
}

/// A figure and its 95 % interval by the bootstrap over test rows.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Score {
    /// The figure.
    pub value: f64,
    /// Its interval.
    pub interval: (f64, f64),
}

/// What of a run's report is read.
#[derive(Deserialize)]
struct Report {
    test: Option<Test>,
    timing: Timing,
}

#[derive(Deserialize)]
struct Test {
    scores: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    best: Score,
}

#[derive(Deserialize)]
struct Timing {
    training_seconds: f64,
    peak_memory_bytes: Option<u64>,
}

/// What a run came to, if it has ended.
///
/// # Errors
/// The report is damaged, or of a run without test rows or of another task.
pub fn read(run: &Path) -> Result<Option<Outcome>> {
    let path = run.join(REPORT);
    if !path.is_file() {
        return Ok(None);
    }
    let report: Report = crate::artifact::read_json(&path)?;
    let test = report.test.with_context(|| format!("{} tells of no test rows", path.display()))?;
    let score = |name: &str| {
        let score = test.scores.iter().find(|score| score.name == name).map(|score| score.best);
        score.with_context(|| format!("{} has no {name}: not a multi-label task", path.display()))
    };
    Ok(Some(Outcome {
        micro_f1: score("micro-F1")?,
        macro_f1: score("macro-F1")?,
        seconds: report.timing.training_seconds,
        peak_memory_bytes: report.timing.peak_memory_bytes,
    }))
}

/// A method with all its seeds.
#[derive(Debug)]
pub struct Row {
    /// The method.
    pub method: Method,
    /// Of each seed, in order: what came out, or why nothing did.
    pub outcomes: Vec<(u64, Result<Outcome, String>)>,
}

/// A figure over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The mean.
    pub mean: f64,
    /// With several seeds the 95 % interval of the mean by Student's t, with one the bootstrap's over
    /// test rows.
    pub interval: Interval,
    /// How many seeds; one where all came to the same.
    pub seeds: usize,
}

impl Row {
    /// What came out, of all seeds that came to an end.
    pub fn done(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().ok())
    }

    /// Micro-F1 and macro-F1; none where no seed came to an end.
    pub fn summary(&self) -> Option<[Summary; 2]> {
        let figures = |outcome: &Outcome| [outcome.micro_f1.value, outcome.macro_f1.value];
        let mut rest = self.done().map(figures);
        // A mean over seeds that change nothing would have no error at all.
        let first = rest.next();
        let counted = if rest.all(|figures| Some(figures) == first) { 1 } else { usize::MAX };
        let of = |score: fn(&Outcome) -> Score| {
            summary(&self.done().take(counted).map(score).collect::<Vec<_>>())
        };
        Some([of(|outcome| outcome.micro_f1)?, of(|outcome| outcome.macro_f1)?])
    }

    /// Mean seconds of a run, and the most memory that one took.
    pub fn cost(&self) -> Option<(f64, Option<u64>)> {
        let count = self.done().count();
        let seconds = self.done().map(|outcome| outcome.seconds).sum::<f64>() / count as f64;
        let memory = self.done().filter_map(|outcome| outcome.peak_memory_bytes).max();
        (count > 0).then_some((seconds, memory))
    }

    /// Why seeds are missing, each reason once.
    pub fn failures(&self) -> Vec<String> {
        let mut reasons: Vec<(Vec<u64>, &String)> = Vec::new();
        for (seed, outcome) in &self.outcomes {
            let Err(reason) = outcome else { continue };
            match reasons.iter_mut().find(|(_, known)| *known == reason) {
                Some((seeds, _)) => seeds.push(*seed),
                None => reasons.push((vec![*seed], reason)),
            }
        }
        let all = self.outcomes.len();
        let line = |(seeds, reason): (Vec<u64>, &String)| match seeds.len() == all {
            true => reason.clone(),
            false => {
                let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
                format!("seed {}: {reason}", seeds.join(", "))
            }
        };
        reasons.into_iter().map(line).collect()
    }
}

fn summary(scores: &[Score]) -> Option<Summary> {
    let seeds = scores.len();
    let interval = |(low, high)| Interval { low, high };
    match scores {
        [] => None,
        [only] => Some(Summary { mean: only.value, interval: interval(only.interval), seeds }),
        scores => {
            let count = seeds as f64;
            let mean = scores.iter().map(|score| score.value).sum::<f64>() / count;
            let squares: f64 = scores.iter().map(|score| (score.value - mean).powi(2)).sum();
            let half = student_t(seeds - 1) * (squares / (count - 1.0) / count).sqrt();
            Some(Summary { mean, interval: interval((mean - half, mean + half)), seeds })
        }
    }
}

/// The 97.5 % point of Student's t: by table, and beyond it by the first terms of its expansion in
/// the normal's (Abramowitz & Stegun 26.7.5), which is then right to four figures.
fn student_t(freedom: usize) -> f64 {
    const TABLE: [f64; 10] =
        [12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281];
    const NORMAL: f64 = 1.959964;
    if let Some(t) = TABLE.get(freedom.wrapping_sub(1)) {
        return *t;
    }
    let (z, v) = (NORMAL, freedom as f64);
    let first = (z.powi(3) + z) / 4.0;
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let third = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    z + first / v + second / v.powi(2) + third / v.powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(micro: f64) -> Outcome {
        let score = |value| Score { value, interval: (value - 0.02, value + 0.02) };
        let (micro_f1, macro_f1) = (score(micro), score(micro - 0.1));
        Outcome { micro_f1, macro_f1, seconds: 100.0 * micro, peak_memory_bytes: Some(7) }
    }

    /// `scipy.stats.t.ppf(0.975, n)`, and `t.interval(0.95, 2, mean, sem)` of the three.
    #[test]
    fn means_and_intervals_are_those_of_scipy() {
        for (freedom, t) in [(1, 12.7062), (4, 2.7764), (11, 2.2010), (29, 2.0452), (120, 1.9799)] {
            assert!((student_t(freedom) - t).abs() < 2e-4, "{freedom}");
        }
        let method = Method::named("m", "d");
        let done = [0.952, 0.956, 0.949].map(outcome);
        let mut outcomes: Vec<_> = (1..).zip(done.map(Ok)).collect();
        outcomes.push((4, Err("no memory".to_owned())));
        let row = Row { method: method.clone(), outcomes };
        let [micro, _] = row.summary().unwrap();
        assert!((micro.mean - 0.952333).abs() < 1e-6 && micro.seeds == 3);
        assert!((micro.interval.low - 0.943609).abs() < 1e-5, "{micro:?}");
        assert!((micro.interval.high - 0.961058).abs() < 1e-5, "{micro:?}");
        let (seconds, memory) = row.cost().unwrap();
        assert!((seconds - 95.2333).abs() < 1e-3 && memory == Some(7));
        assert_eq!(row.failures(), ["seed 4: no memory"]);

        let one = Row { method: method.clone(), outcomes: vec![(1, Ok(outcome(0.95)))] };
        assert_eq!(
            one.summary().unwrap()[0].interval,
            Interval { low: 0.95 - 0.02, high: 0.95 + 0.02 }
        );
        let none = Row { method, outcomes: vec![(1, Err("a".into())), (2, Err("a".into()))] };
        assert!(none.summary().is_none() && none.cost().is_none());
        assert_eq!(none.failures(), ["a"]);
    }
}
