//! Builds layers from a checkpoint: finds each tensor by its Hugging Face name, decides whether it
//! is trained, adds adapters, initialises what the checkpoint lacks and remembers it.

use crate::Error;
use crate::backend::Backend;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::linear::{Linear, Lora, Tensor, Weight};
use crate::lora::Method;
use crate::norm::LayerNorm;
use crate::parameters::{ParameterId, Parameters};
use crate::pass::Site;
use crate::random;
use kernels::Precision;

pub(crate) struct Builder<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) config: &'a Config,
    /// Prefix of the encoder's names, such as `bert`.
    pub(crate) root: &'static str,
    pub(crate) method: &'a Method,
    pub(crate) seed: u64,
    pub(crate) parameters: Parameters<B>,
    /// Tensors that the checkpoint lacks.
    pub(crate) newly_initialised: Vec<String>,
    /// Names of all linear layers.
    pub(crate) linears: Vec<String>,
    /// Weights [out, in] that are frozen and packed, and so may be kept in few bits.
    pub(crate) packed: Vec<(String, [usize; 2])>,
    pub(crate) frozen: usize,
    sites: u32,
}

impl<'a, B: Backend> Builder<'a, B> {
    pub(crate) fn new(
        backend: &'a B,
        checkpoint: &'a Checkpoint,
        config: &'a Config,
        root: &'static str,
        method: &'a Method,
        seed: u64,
    ) -> Self {
        Builder {
            backend,
            checkpoint,
            config,
            root,
            method,
            seed,
            parameters: Parameters::default(),
            newly_initialised: Vec::new(),
            linears: Vec::new(),
            packed: Vec::new(),
            frozen: 0,
            sites: 0,
        }
    }

    /// A new place that draws dropout masks.
    pub(crate) fn site(&mut self, per_sequence: bool) -> Site {
        self.sites += 1;
        Site { number: self.sites, per_sequence }
    }

    fn trains_encoder(&self) -> bool {
        *self.method == Method::Full
    }

    /// A table or vector of the encoder.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor<B>, Error> {
        let data = self.checkpoint.get(self.root, name, shape)?;
        Ok(self.tensor_of(name, shape, &data, self.trains_encoder()))
    }

    fn tensor_of(&mut self, name: &str, shape: &[usize], data: &[f32], trained: bool) -> Tensor<B> {
        if trained {
            return Tensor::Trained(self.parameter(name, shape, data));
        }
        self.frozen += data.len();
        let rows = if let [rows, _] = shape { *rows } else { 1 };
        Tensor::Frozen(self.backend.upload(rows, data.len() / rows, data))
    }

    fn parameter(&mut self, name: &str, shape: &[usize], data: &[f32]) -> ParameterId {
        self.parameters.add(self.backend, name.to_owned(), shape.to_vec(), data)
    }

    pub(crate) fn norm(&mut self, name: &str) -> Result<LayerNorm<B>, Error> {
        let shape = [self.config.hidden_size];
        Ok(LayerNorm {
            weight: self.tensor(&format!("{name}.weight"), &shape)?,
            bias: self.tensor(&format!("{name}.bias"), &shape)?,
            eps: self.config.layer_norm_eps,
        })
    }

    /// A linear layer of the encoder, [out, in], with an adapter where the method says so.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        out: usize,
        input: usize,
        per_sequence: bool,
    ) -> Result<Linear<B>, Error> {
        self.linears.push(name.to_owned());
        let weight_name = format!("{name}.weight");
        let lora = self.lora(name, out, input, per_sequence);
        let stored = self.checkpoint.get_weight(self.root, &weight_name, &[out, input])?;
        let weight = if self.trains_encoder() {
            let id = self.parameter(&weight_name, &[out, input], &stored.into_dense());
            Weight::Trained { id, precision: self.backend.precision() }
        } else {
            self.frozen += out * input;
            self.packed.push((weight_name, [out, input]));
            let packed = self.backend.pack(stored, out, input);
            Weight::Frozen { packed, lora }
        };
        let bias = self.tensor(&format!("{name}.bias"), &[out])?;
        Ok(Linear { weight, bias, out })
    }

    fn lora(&mut self, name: &str, out: usize, input: usize, per_sequence: bool) -> Option<Lora> {
        // The site is taken whether used or not: masks do not depend on other layers' adapters.
        let site = self.site(per_sequence);
        let Method::Lora(config) = self.method else { return None };
        if !config.targets(name) {
            return None;
        }
        let (a_name, b_name) = (format!("{name}.lora_A.weight"), format!("{name}.lora_B.weight"));
        let bound = 1.0 / (input as f32).sqrt();
        let mut random = random::generator(self.seed, &a_name);
        let a: Vec<f32> = (0..config.r * input)
            .map(|_| bound * (2.0 * random::uniform(&mut random) - 1.0))
            .collect();
        Some(Lora {
            a: self.parameter(&a_name, &[config.r, input], &a),
            b: self.parameter(&b_name, &[out, config.r], &vec![0.0; out * config.r]),
            scale: config.scale(),
            dropout: config.dropout,
            site,
        })
    }

    /// A linear layer of the head: always trained, new where the checkpoint lacks it or, for the
    /// last layer, was made for another number of labels.
    pub(crate) fn head_linear(
        &mut self,
        name: &str,
        out: usize,
        input: usize,
        last: bool,
    ) -> Result<Linear<B>, Error> {
        // PEFT lists head layers among an adapter's targets, although it trains them whole.
        self.linears.push(name.to_owned());
        let found = |suffix: &str, shape: &[usize]| {
            let name = format!("{name}.{suffix}");
            match self.checkpoint.find(self.root, &name, shape) {
                Err(Error::Shape { .. }) if last => Ok(None),
                other => other,
            }
        };
        let weights = (found("weight", &[out, input])?, found("bias", &[out])?);
        let (weight_name, bias_name) = (format!("{name}.weight"), format!("{name}.bias"));
        let (weight, bias) = match weights {
            (Some(weight), Some(bias)) => (weight, bias),
            _ => {
                self.newly_initialised.extend([weight_name.clone(), bias_name.clone()]);
                let mut random = random::generator(self.seed, &weight_name);
                let deviation = self.config.initializer_range;
                let weight =
                    (0..out * input).map(|_| deviation * random::normal(&mut random)).collect();
                (weight, vec![0.0; out])
            }
        };
        let id = self.parameter(&weight_name, &[out, input], &weight);
        let bias = self.tensor_of(&bias_name, &[out], &bias, true);
        let weight = Weight::Trained { id, precision: Precision::F32 };
        Ok(Linear { weight, bias, out })
    }
}
