//! An encoder with a classification head: loading, forward, backward.

use crate::Error;
use crate::backend::{Backend, Shape};
use crate::builder::Builder;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::encoder::{Encoder, EncoderSaved};
use crate::head::{Head, HeadSaved};
use crate::lora::Method;
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass};
use crate::tensor_file::NamedTensor;
use std::path::Path;

/// A network that maps token ids to logits, and what of it is trained.
#[derive(Debug)]
pub struct SequenceClassifier<B: Backend> {
    /// Its family and shape.
    pub config: Config,
    /// Number of labels.
    pub labels: usize,
    /// What is trained.
    pub parameters: Parameters<B>,
    /// Names of tensors that the checkpoint lacked.
    pub newly_initialised: Vec<String>,
    /// For how many labels the checkpoint's head was made, where that is another number, so that its
    /// last layer is new.
    pub labels_of_checkpoint: Option<usize>,
    /// Names of tensors that no result depends on, and that Transformers' class has all the same.
    pub unread: Vec<String>,
    /// How many numbers are frozen.
    pub frozen: usize,
    /// Whether forward keeps a layer's input only, and backward computes the rest again.
    pub gradient_checkpointing: bool,
    encoder: Encoder<B>,
    head: Head<B>,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub struct Saved<B: Backend> {
    encoder: EncoderSaved<B>,
    head: HeadSaved<B>,
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
        if let Method::Lora(lora) = method {
            lora.check()?;
        }
        let checkpoint = Checkpoint::open(folder)?;
        Self::build(backend, config, &checkpoint, labels, method, seed)
    }

    /// Loads a classifier whose weights are all its own, with its head, to answer only: the encoder is
    /// frozen, so that it is packed once and may be quantised.
    ///
    /// # Errors
    /// A file is missing or damaged, the architecture unknown, the head missing or for other labels.
    pub fn load_to_answer(backend: &B, folder: &Path, labels: usize) -> Result<Self, Error> {
        let (config, checkpoint) = (Config::read(folder)?, Checkpoint::open(folder)?);
        let mut builder = Builder::new(backend, &checkpoint, config.family, &Method::Full, 0);
        (builder.trains_encoder, builder.may_be_new) = (false, false);
        Self::assemble(builder, config, labels)
    }

    /// A network of this shape with weights from a checkpoint.
    ///
    /// # Errors
    /// The checkpoint lacks a tensor, or a setting of the method is out of range.
    pub fn build(
        backend: &B,
        config: Config,
        checkpoint: &Checkpoint,
        labels: usize,
        method: &Method,
        seed: u64,
    ) -> Result<Self, Error> {
        let builder = Builder::new(backend, checkpoint, config.family, method, seed);
        Self::assemble(builder, config, labels)
    }

    fn assemble(mut builder: Builder<'_, B>, config: Config, labels: usize) -> Result<Self, Error> {
        let encoder = config.architecture.encoder(&mut builder)?;
        let head = config.architecture.head(&mut builder, labels)?;
        if let Method::Lora(lora) = builder.method {
            lora.check_targets(&builder.linears)?;
            if !builder.parameters.iter().any(|p| p.name.contains(".lora_A.")) {
                let value = format!("{:?}", lora.target_modules);
                let limit = "a layer of the encoder; the head is trained whole anyway";
                return Err(Error::Lora { key: "target_modules", value, limit });
            }
        }
        let Builder { parameters, newly_initialised, labels_of_checkpoint, unread, frozen, .. } =
            builder;
        Ok(SequenceClassifier {
            config,
            labels,
            parameters,
            newly_initialised,
            labels_of_checkpoint,
            unread,
            frozen,
            gradient_checkpointing: false,
            encoder,
            head,
        })
    }

    /// The logits [B, C], and what backward needs.
    pub fn forward(&self, backend: &B, pass: &Pass, batch: &Batch<B>) -> (B::Matrix, Saved<B>) {
        let (parameters, checkpointing) = (&self.parameters, self.gradient_checkpointing);
        let (x, encoder) = self.encoder.forward(backend, parameters, pass, batch, checkpointing);
        let (logits, head) = self.head.forward(backend, parameters, pass, x);
        (logits, Saved { encoder, head })
    }

    /// The logits [B, C] alone, without dropout and keeping nothing.
    pub fn predict(&self, backend: &B, batch: &Batch<B>) -> Vec<f32> {
        let x = self.encoder.predict(backend, &self.parameters, batch);
        let (logits, _) = self.head.forward(backend, &self.parameters, &Pass::evaluation(), x);
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
        let parameters = &mut self.parameters;
        let dx = self.head.backward(backend, parameters, pass, saved.head, dlogits);
        self.encoder.backward(backend, parameters, pass, batch, saved.encoder, dx);
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
