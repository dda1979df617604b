//! The learning rate of each step: warm-up, then constant, linear or cosine, as
//! `transformers.get_scheduler` computes it.

use crate::config::SchedulerType;

/// A course of the learning rate over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Its height.
    pub learning_rate: f64,
    /// Its course after the warm-up.
    pub kind: SchedulerType,
    /// Steps of the warm-up.
    pub warmup_steps: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
}

impl Schedule {
    /// The learning rate of step `step`, from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * step as f64 / self.warmup_steps as f64;
        }
        let left = (self.total_steps - self.warmup_steps).max(1) as f64;
        let done = (step - self.warmup_steps) as f64 / left;
        self.learning_rate
            * match self.kind {
                SchedulerType::Constant => 1.0,
                SchedulerType::Linear => (1.0 - done).max(0.0),
                SchedulerType::Cosine => {
                    (0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())).max(0.0)
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn courses_match_transformers() {
        // transformers 5.24: get_scheduler(kind, num_warmup_steps=2, num_training_steps=6), base 1.
        for (kind, expected) in [
            (SchedulerType::Constant, [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
            (SchedulerType::Linear, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]),
            (SchedulerType::Cosine, [0.0, 0.5, 1.0, 0.853_553, 0.5, 0.146_447]),
        ] {
            let schedule = Schedule { learning_rate: 1.0, kind, warmup_steps: 2, total_steps: 6 };
            for (step, expected) in expected.iter().enumerate() {
                assert!((schedule.at(step as u64) - expected).abs() < 1e-6, "{kind:?} {step}");
            }
        }
    }
}
