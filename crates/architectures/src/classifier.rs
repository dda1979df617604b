//! An encoder with a classification head: loading, forward, backward.

use crate::backend::{Backend, Shape};
use crate::builder::Builder;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::embeddings::Embeddings;
use crate::head::{Head, HeadSaved};
use crate::layer::{Layer, LayerSaved};
use crate::lora::Method;
use crate::norm::NormSaved;
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass};
use crate::tensor_file::NamedTensor;
use crate::{Error, bert, roberta};
use std::path::Path;

/// The encoder families there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `BertForSequenceClassification`.
    Bert,
    /// `RobertaForSequenceClassification`.
    Roberta,
}

impl Family {
    /// The family of a `model_type`.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn of(config: &Config, folder: &Path) -> Result<Family, Error> {
        match config.model_type.as_str() {
            "bert" => Ok(Family::Bert),
            "roberta" => Ok(Family::Roberta),
            other => Err(Error::Architecture {
                path: folder.join("config.json"),
                found: other.to_owned(),
                supported: "bert, roberta".to_owned(),
            }),
        }
    }

    /// Transformers' class name.
    pub fn architecture(self) -> &'static str {
        match self {
            Family::Bert => "BertForSequenceClassification",
            Family::Roberta => "RobertaForSequenceClassification",
        }
    }

    /// Modules of the head, as PEFT's `modules_to_save` names them.
    pub fn head_modules(self) -> &'static [&'static str] {
        match self {
            Family::Bert => bert::HEAD,
            Family::Roberta => roberta::HEAD,
        }
    }

    fn root(self) -> &'static str {
        match self {
            Family::Bert => bert::ROOT,
            Family::Roberta => roberta::ROOT,
        }
    }

    fn first_position(self, config: &Config) -> u32 {
        match self {
            Family::Bert => 0,
            Family::Roberta => roberta::first_position(config),
        }
    }

    /// The longest sequence the position table has rows for.
    pub fn max_length(self, config: &Config) -> usize {
        config.max_position_embeddings.saturating_sub(self.first_position(config) as usize)
    }
}

/// A network that maps token ids to logits, and what of it is trained.
#[derive(Debug)]
pub struct SequenceClassifier<B: Backend> {
    /// Its family.
    pub family: Family,
    /// Its shape.
    pub config: Config,
    /// Number of labels.
    pub labels: usize,
    /// What is trained.
    pub parameters: Parameters<B>,
    /// Names of tensors that the checkpoint lacked.
    pub newly_initialised: Vec<String>,
    /// How many numbers are frozen.
    pub frozen: usize,
    /// Whether forward keeps a layer's input only, and backward computes the rest again.
    pub gradient_checkpointing: bool,
    embeddings: Embeddings<B>,
    layers: Vec<Layer<B>>,
    head: Head<B>,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub struct Saved<B: Backend> {
    /// Where the embeddings are trained.
    embeddings: Option<NormSaved<B>>,
    layers: Vec<Kept<B>>,
    head: HeadSaved<B>,
}

/// What forward keeps of a layer.
#[derive(Debug)]
enum Kept<B: Backend> {
    /// Backward does not come here.
    Nothing,
    /// Its input [T, H]; backward computes the rest again (Chen et al. 2016).
    Input(B::Matrix),
    Everything(LayerSaved<B>),
}

impl<B: Backend> SequenceClassifier<B> {
    /// Loads a model folder (config.json and weights) with a head for `labels` labels.
    ///
    /// # Errors
    /// A file is missing or damaged, the architecture unknown, a setting out of range.
    pub fn load(
        backend: &B,
        folder: &Path,
        labels: usize,
        method: &Method,
        seed: u64,
    ) -> Result<Self, Error> {
        let config = Config::read(folder)?;
        let family = Family::of(&config, folder)?;
        if let Method::Lora(lora) = method {
            lora.check()?;
        }
        let checkpoint = Checkpoint::open(folder)?;
        Self::build(backend, family, config, &checkpoint, labels, method, seed)
    }

    /// A network of this shape with weights from a checkpoint.
    ///
    /// # Errors
    /// The checkpoint lacks a tensor, or a setting of the method is out of range.
    pub fn build(
        backend: &B,
        family: Family,
        config: Config,
        checkpoint: &Checkpoint,
        labels: usize,
        method: &Method,
        seed: u64,
    ) -> Result<Self, Error> {
        let mut builder = Builder::new(backend, checkpoint, &config, family.root(), method, seed);
        let embeddings = bert::embeddings(&mut builder, family.first_position(&config))?;
        let layers = bert::layers(&mut builder)?;
        let head = match family {
            Family::Bert => bert::head(&mut builder, labels)?,
            Family::Roberta => roberta::head(&mut builder, labels)?,
        };
        if let Method::Lora(lora) = method {
            lora.check_targets(&builder.linears)?;
            if !builder.parameters.iter().any(|p| p.name.contains(".lora_A.")) {
                let value = format!("{:?}", lora.target_modules);
                let limit = "a layer of the encoder; the head is trained whole anyway";
                return Err(Error::Lora { key: "target_modules", value, limit });
            }
        }
        let Builder { parameters, newly_initialised, frozen, .. } = builder;
        Ok(SequenceClassifier {
            family,
            config,
            labels,
            parameters,
            newly_initialised,
            frozen,
            gradient_checkpointing: false,
            embeddings,
            layers,
            head,
        })
    }

    /// The lowest layer that backward comes to.
    fn lowest_trained(&self) -> usize {
        match self.embeddings.is_trained() {
            true => 0,
            false => self.layers.iter().position(Layer::is_trained).unwrap_or(self.layers.len()),
        }
    }

    /// The logits [B, C], and what backward needs.
    pub fn forward(&self, backend: &B, pass: &Pass, batch: &Batch<B>) -> (B::Matrix, Saved<B>) {
        let parameters = &self.parameters;
        let (mut x, embeddings) = self.embeddings.forward(backend, parameters, pass, batch);
        let embeddings = self.embeddings.is_trained().then_some(embeddings);
        let lowest = self.lowest_trained();
        let mut layers = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let (y, saved) = layer.forward(backend, parameters, pass, batch, x);
            layers.push(if index < lowest {
                Kept::Nothing
            } else if self.gradient_checkpointing {
                Kept::Input(saved.into_input())
            } else {
                Kept::Everything(saved)
            });
            x = y;
        }
        let (logits, head) = self.head.forward(backend, parameters, pass, x);
        (logits, Saved { embeddings, layers, head })
    }

    /// The logits [B, C] alone, without dropout and keeping nothing.
    pub fn predict(&self, backend: &B, batch: &Batch<B>) -> Vec<f32> {
        let (parameters, pass) = (&self.parameters, &Pass::evaluation());
        let (mut x, _) = self.embeddings.forward(backend, parameters, pass, batch);
        for layer in &self.layers {
            x = layer.forward(backend, parameters, pass, batch, x).0;
        }
        let (logits, _) = self.head.forward(backend, parameters, pass, x);
        backend.download(&logits)
    }

    /// Adds the gradients of everything trained. Ends at the lowest layer that is.
    pub fn backward(
        &mut self,
        backend: &B,
        pass: &Pass,
        batch: &Batch<B>,
        saved: Saved<B>,
        dlogits: &B::Matrix,
    ) {
        let lowest = self.lowest_trained();
        let parameters = &mut self.parameters;
        let Saved { embeddings, layers: mut saved_layers, head } = saved;
        let mut dx = self.head.backward(backend, parameters, pass, head, dlogits);
        for (index, layer) in self.layers.iter().enumerate().skip(lowest).rev() {
            let saved = match saved_layers.pop().expect("one per layer") {
                Kept::Everything(saved) => saved,
                Kept::Input(x) => layer.forward(backend, parameters, pass, batch, x).1,
                Kept::Nothing => unreachable!("forward keeps what backward comes to"),
            };
            let needs_dx = index > lowest || embeddings.is_some();
            let below = layer.backward(backend, parameters, pass, batch, saved, dx, needs_dx);
            match below {
                Some(below) => dx = below,
                None => return,
            }
        }
        if let Some(embeddings) = embeddings {
            self.embeddings.backward(backend, parameters, pass, batch, &embeddings, dx);
        }
    }

    /// Everything trained, by name, with its shape.
    pub fn state<'a>(&'a self, backend: &'a B) -> Vec<NamedTensor<'a>> {
        let parameters = self.parameters.iter();
        parameters
            .map(|p| {
                NamedTensor::new(p.name.clone(), p.shape.clone(), || backend.download(&p.value))
            })
            .collect()
    }

    /// Sets everything trained; `find` returns a tensor by name and shape.
    ///
    /// # Errors
    /// Whatever `find` answers.
    pub fn restore<E>(
        &mut self,
        backend: &B,
        mut find: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<(), E> {
        for parameter in self.parameters.iter_mut() {
            let data = find(&parameter.name, &parameter.shape)?;
            debug_assert_eq!(data.len(), parameter.value.rows() * parameter.value.columns());
            backend.write(&mut parameter.value, &data);
        }
        Ok(())
    }
}
