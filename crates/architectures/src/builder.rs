//! Builds layers from a checkpoint: finds each tensor by its Hugging Face name, decides whether it
//! is trained, adds adapters, initialises what the checkpoint lacks and remembers it. A name that is
//! asked for again gives the same weights: so layers share them.

use crate::Error;
use crate::attention::Rows;
use crate::backend::Backend;
use crate::checkpoint::Checkpoint;
use crate::encoder::Pooling;
use crate::family::Family;
use crate::linear::{Linear, Lora, Tensor, Weight};
use crate::lora::Method;
use crate::norm::LayerNorm;
use crate::parameters::{ParameterId, Parameters};
use crate::pass::Site;
use crate::random;
use kernels::Precision;
use std::collections::HashMap;
use std::sync::Arc;

/// Whether a layer has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bias {
    Yes,
    No,
}

impl Bias {
    /// As a key of `config.json` says.
    pub(crate) fn of(key: bool) -> Bias {
        if key { Bias::Yes } else { Bias::No }
    }
}

/// A layer of the head [out, in]: always trained, new where the checkpoint lacks it.
#[derive(Debug)]
pub(crate) struct HeadLinear<'a> {
    pub(crate) name: &'a str,
    pub(crate) out: usize,
    pub(crate) input: usize,
    pub(crate) bias: Bias,
    /// Standard deviation of new weights.
    pub(crate) deviation: f32,
    /// Whether it gives the logits: it is new, too, where it was made for another number of labels.
    pub(crate) last: bool,
}

pub(crate) struct Builder<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) family: &'static Family,
    pub(crate) method: &'a Method,
    /// By the method, unless the network shall only answer.
    pub(crate) trains_encoder: bool,
    /// Whether a head that the checkpoint lacks, or has for other labels, may be new.
    pub(crate) may_be_new: bool,
    pub(crate) seed: u64,
    /// What is read of a sequence, where the family leaves that open.
    pub(crate) pooling: Pooling,
    pub(crate) parameters: Parameters<B>,
    /// Tensors that the checkpoint lacks.
    pub(crate) newly_initialised: Vec<String>,
    /// For how many labels the checkpoint's head was made, where that is another number.
    pub(crate) labels_of_checkpoint: Option<usize>,
    /// Names of tensors that no result depends on.
    pub(crate) unread: Vec<String>,
    /// Names of all linear layers.
    pub(crate) linears: Vec<String>,
    /// Weights [out, in] that are frozen and packed, and so may be kept in few bits.
    pub(crate) packed: HashMap<String, ([usize; 2], Arc<B::Packed>)>,
    pub(crate) frozen: usize,
    /// Frozen tables and vectors.
    tensors: HashMap<String, Arc<B::Matrix>>,
    sites: u32,
}

impl<'a, B: Backend> Builder<'a, B> {
    pub(crate) fn new(
        backend: &'a B,
        checkpoint: &'a Checkpoint,
        family: &'static Family,
        method: &'a Method,
        seed: u64,
    ) -> Self {
        Builder {
            backend,
            checkpoint,
            family,
            method,
            trains_encoder: *method == Method::Full,
            may_be_new: true,
            seed,
            pooling: Pooling::First,
            parameters: Parameters::default(),
            newly_initialised: Vec::new(),
            labels_of_checkpoint: None,
            unread: Vec::new(),
            linears: Vec::new(),
            packed: HashMap::new(),
            frozen: 0,
            tensors: HashMap::new(),
            sites: 0,
        }
    }

    /// Which tokens a layer computes its result for.
    pub(crate) fn rows_of_layer(&self, index: usize, layers: usize) -> Rows {
        match self.pooling {
            Pooling::First if index + 1 == layers => Rows::First,
            _ => Rows::All,
        }
    }

    /// A new place that draws dropout masks.
    pub(crate) fn site(&mut self, per_sequence: bool) -> Site {
        self.sites += 1;
        Site { number: self.sites, per_sequence }
    }

    /// A table or vector of the encoder.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor<B>, Error> {
        if let Some(id) = self.parameters.named(name) {
            return Ok(Tensor::Trained(id));
        }
        if let Some(tensor) = self.tensors.get(name) {
            return Ok(Tensor::Frozen(tensor.clone()));
        }
        let data = self.checkpoint.get(self.family.root, name, shape)?;
        if self.trains_encoder {
            return Ok(Tensor::Trained(self.parameter(name, shape, &data)));
        }
        self.frozen += data.len();
        let rows = if shape.len() > 1 { shape[0] } else { 1 };
        let tensor = Arc::new(self.backend.upload(rows, data.len() / rows, &data));
        self.tensors.insert(name.to_owned(), tensor.clone());
        Ok(Tensor::Frozen(tensor))
    }

    fn parameter(&mut self, name: &str, shape: &[usize], data: &[f32]) -> ParameterId {
        self.parameters.add(self.backend, name.to_owned(), shape.to_vec(), data)
    }

    /// A LayerNorm of the encoder over vectors of `width`.
    pub(crate) fn norm(
        &mut self,
        name: &str,
        width: usize,
        eps: f32,
    ) -> Result<LayerNorm<B>, Error> {
        self.norm_with(name, width, eps, Bias::Yes)
    }

    /// As [`norm`](Builder::norm), with or without a bias.
    pub(crate) fn norm_with(
        &mut self,
        name: &str,
        width: usize,
        eps: f32,
        bias: Bias,
    ) -> Result<LayerNorm<B>, Error> {
        let weight = self.tensor(&format!("{name}.weight"), &[width])?;
        Ok(LayerNorm { weight, bias: self.bias(name, width, bias)?, eps })
    }

    fn bias(&mut self, name: &str, width: usize, bias: Bias) -> Result<Option<Tensor<B>>, Error> {
        match bias {
            Bias::Yes => Ok(Some(self.tensor(&format!("{name}.bias"), &[width])?)),
            Bias::No => Ok(None),
        }
    }

    /// A linear layer of the encoder, [out, in], with an adapter where the method says so.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        out: usize,
        input: usize,
        per_sequence: bool,
    ) -> Result<Linear<B>, Error> {
        self.linear_with(name, out, input, per_sequence, Bias::Yes)
    }

    /// As [`linear`](Builder::linear), with or without a bias.
    pub(crate) fn linear_with(
        &mut self,
        name: &str,
        out: usize,
        input: usize,
        per_sequence: bool,
        bias: Bias,
    ) -> Result<Linear<B>, Error> {
        if !self.linears.iter().any(|known| known == name) {
            self.linears.push(name.to_owned());
        }
        let lora = self.lora(name, out, input, per_sequence);
        let weight = self.weight(&format!("{name}.weight"), out, input, lora)?;
        Ok(Linear { weight, bias: self.bias(name, out, bias)?, out })
    }

    /// A layer of the encoder whose result nobody reads: its tensors are there to be saved, as those of
    /// an adapter are where the method asks for one, as in PEFT.
    pub(crate) fn unread_linear(&mut self, layer: HeadLinear<'_>) -> Result<(), Error> {
        self.unread.extend(["weight", "bias"].map(|part| format!("{}.{part}", layer.name)));
        if self.trains_encoder {
            return self.head_linear(layer).map(drop);
        }
        self.linears.push(layer.name.to_owned());
        self.lora(layer.name, layer.out, layer.input, true);
        Ok(())
    }

    fn weight(
        &mut self,
        name: &str,
        out: usize,
        input: usize,
        lora: Option<Lora>,
    ) -> Result<Weight<B>, Error> {
        let precision = self.backend.precision();
        if let Some(id) = self.parameters.named(name) {
            return Ok(Weight::Trained { id, precision });
        }
        if let Some((_, packed)) = self.packed.get(name) {
            return Ok(Weight::Frozen { packed: packed.clone(), lora });
        }
        let stored = self.checkpoint.get_weight(self.family.root, name, &[out, input])?;
        if self.trains_encoder {
            let id = self.parameter(name, &[out, input], &stored.into_dense());
            return Ok(Weight::Trained { id, precision });
        }
        self.frozen += out * input;
        let packed = Arc::new(self.backend.pack(stored, out, input));
        self.packed.insert(name.to_owned(), ([out, input], packed.clone()));
        Ok(Weight::Frozen { packed, lora })
    }

    fn lora(&mut self, name: &str, out: usize, input: usize, per_sequence: bool) -> Option<Lora> {
        // The site is taken whether used or not: masks do not depend on other layers' adapters.
        // Layers that share an adapter draw masks of their own.
        let site = self.site(per_sequence);
        let Method::Lora(config) = self.method else { return None };
        if !config.targets(name, self.family) {
            return None;
        }
        let (a_name, b_name) = (format!("{name}.lora_A.weight"), format!("{name}.lora_B.weight"));
        let named = self.parameters.named(&a_name).zip(self.parameters.named(&b_name));
        let (a, b) = named.unwrap_or_else(|| {
            let bound = 1.0 / (input as f32).sqrt();
            let mut random = random::generator(self.seed, &a_name);
            let a: Vec<f32> = (0..config.r * input)
                .map(|_| bound * (2.0 * random::uniform(&mut random) - 1.0))
                .collect();
            let a = self.parameter(&a_name, &[config.r, input], &a);
            (a, self.parameter(&b_name, &[out, config.r], &vec![0.0; out * config.r]))
        });
        Some(Lora { a, b, scale: config.scale(), dropout: config.dropout as f32, site })
    }

    /// A linear layer of the head.
    pub(crate) fn head_linear(&mut self, layer: HeadLinear<'_>) -> Result<Linear<B>, Error> {
        let HeadLinear { name, out, input, bias, deviation, last } = layer;
        // PEFT lists head layers among an adapter's targets, although it trains them whole.
        self.linears.push(name.to_owned());
        let mut found = |suffix: &str, shape: &[usize]| {
            let name = format!("{name}.{suffix}");
            match self.of_head(&name, shape) {
                Err(Error::Shape { found, .. }) if last && self.may_be_new => {
                    self.labels_of_checkpoint = found.first().copied();
                    Ok(None)
                }
                other => other,
            }
        };
        let weight = found("weight", &[out, input])?;
        let bias = match bias {
            Bias::Yes => Some(found("bias", &[out])?),
            Bias::No => None,
        };
        let whole = weight.is_some() && bias.as_ref().is_none_or(Option::is_some);
        let (weight_name, bias_name) = (format!("{name}.weight"), format!("{name}.bias"));
        let (weight, bias) = match weight {
            Some(weight) if whole => (weight, bias.flatten()),
            _ => {
                self.newly_initialised.push(weight_name.clone());
                let mut random = random::generator(self.seed, &weight_name);
                let weight =
                    (0..out * input).map(|_| deviation * random::normal(&mut random)).collect();
                (weight, bias.map(|_| self.lacking(&bias_name, vec![0.0; out])))
            }
        };
        let id = self.parameter(&weight_name, &[out, input], &weight);
        let bias = bias.map(|bias| Tensor::Trained(self.parameter(&bias_name, &[out], &bias)));
        let weight = Weight::Trained { id, precision: Precision::F32 };
        Ok(Linear { weight, bias, out })
    }

    /// A LayerNorm of the head over vectors of `width`: always trained, new where the checkpoint lacks
    /// it.
    pub(crate) fn head_norm(
        &mut self,
        name: &str,
        width: usize,
        eps: f32,
        bias: Bias,
    ) -> Result<LayerNorm<B>, Error> {
        let mut vector = |part: &str, new: f32| -> Result<Tensor<B>, Error> {
            let name = format!("{name}.{part}");
            let found = self.of_head(&name, &[width])?;
            let data = found.unwrap_or_else(|| self.lacking(&name, vec![new; width]));
            Ok(Tensor::Trained(self.parameter(&name, &[width], &data)))
        };
        let weight = vector("weight", 1.0)?;
        let bias = (bias == Bias::Yes).then(|| vector("bias", 0.0)).transpose()?;
        Ok(LayerNorm { weight, bias, eps })
    }

    /// A tensor of the head; none where it may be new.
    fn of_head(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, Error> {
        match self.may_be_new {
            true => self.checkpoint.find(self.family.root, name, shape),
            false => self.checkpoint.get(self.family.root, name, shape).map(Some),
        }
    }

    /// Remembers that the checkpoint lacks this tensor.
    fn lacking(&mut self, name: &str, data: Vec<f32>) -> Vec<f32> {
        self.newly_initialised.push(name.to_owned());
        data
    }
}
