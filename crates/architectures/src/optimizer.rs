//! AdamW (Loshchilov & Hutter 2019) over a network's parameters, with gradient clipping by the
//! global norm, as `torch.optim.AdamW` behind `clip_grad_norm_`.

use crate::backend::{Backend, Shape};
use crate::parameters::Parameters;
use crate::tensor_file::NamedTensor;

/// What does not change from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the first and second moment.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, on weights only.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm; `None` leaves them.
    pub max_grad_norm: Option<f64>,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        AdamWSettings {
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.01,
            max_grad_norm: Some(1.0),
        }
    }
}

/// The optimizer's state: two moments per parameter, and the number of steps taken.
#[derive(Debug)]
pub struct Optimizer<B: Backend> {
    settings: AdamWSettings,
    moments: Vec<(B::Matrix, B::Matrix)>,
    steps: u64,
}

impl<B: Backend> Optimizer<B> {
    /// Zero moments for these parameters.
    pub fn new(backend: &B, parameters: &Parameters<B>, settings: AdamWSettings) -> Self {
        let zeros = |value: &B::Matrix| backend.zeros(value.rows(), value.columns());
        let moments = parameters.iter().map(|p| (zeros(&p.value), zeros(&p.value))).collect();
        Optimizer { settings, moments, steps: 0 }
    }

    /// Updates every parameter by its gradient and returns the gradients' norm before clipping.
    /// A norm that is not finite changes nothing.
    pub fn step(&mut self, backend: &B, parameters: &mut Parameters<B>, lr: f64) -> f64 {
        let norm = parameters.gradient_norm(backend);
        if !norm.is_finite() {
            return norm;
        }
        self.steps += 1;
        let gradient_scale = match self.settings.max_grad_norm {
            // PyTorch's denominator, so that both clip by the same factor.
            Some(limit) => (limit / (norm + 1e-6)).min(1.0) as f32,
            None => 1.0,
        };
        for (parameter, (m, v)) in parameters.iter_mut().zip(&mut self.moments) {
            let step = kernels::AdamW {
                lr,
                betas: self.settings.betas,
                eps: self.settings.eps,
                weight_decay: if parameter.decays { self.settings.weight_decay } else { 0.0 },
                step: self.steps,
                gradient_scale,
            };
            backend.adamw(step, &mut parameter.value, &parameter.gradient, (m, v));
        }
        norm
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The state as named tensors: `exp_avg.NAME` and `exp_avg_sq.NAME`.
    pub fn state<'a>(&'a self, backend: &'a B, parameters: &Parameters<B>) -> Vec<NamedTensor<'a>> {
        let tensor = |name: String, moment: &'a B::Matrix| {
            let size = moment.rows() * moment.columns();
            NamedTensor::new(name, vec![size], || backend.download(moment))
        };
        let mut state = Vec::new();
        for (parameter, (m, v)) in parameters.iter().zip(&self.moments) {
            state.push(tensor(format!("exp_avg.{}", parameter.name), m));
            state.push(tensor(format!("exp_avg_sq.{}", parameter.name), v));
        }
        state
    }

    /// Takes back what [`Optimizer::state`] gave; `find` returns a tensor by name.
    ///
    /// # Errors
    /// Whatever `find` answers.
    pub fn restore<E>(
        &mut self,
        backend: &B,
        parameters: &Parameters<B>,
        steps: u64,
        mut find: impl FnMut(&str, usize) -> Result<Vec<f32>, E>,
    ) -> Result<(), E> {
        for (parameter, (m, v)) in parameters.iter().zip(&mut self.moments) {
            let size = m.rows() * m.columns();
            backend.write(m, &find(&format!("exp_avg.{}", parameter.name), size)?);
            backend.write(v, &find(&format!("exp_avg_sq.{}", parameter.name), size)?);
        }
        self.steps = steps;
        Ok(())
    }
}
