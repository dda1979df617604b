//! A trained model, ready to answer: what `test` and `predict` see of it, whatever it is.

use crate::artifact::{Base, CARD, Card, Schema, read_json};
use crate::config::PrecisionName;
use crate::device::Device;
use crate::evaluation::{
    Evaluation, Scale, Split, classes_of, evaluate, logits, probabilities, token_budget,
};
use crate::metrics::Classes;
use crate::svm;
use crate::thresholds::Thresholds;
use anyhow::{Result, bail};
use architectures::{Cpu, Method, Quantization, SequenceClassifier, peft};
use data::{Example, Tokenizer};
use std::path::Path;

/// A trained model, ready to answer.
pub struct Classifier {
    /// How rows are read for it, and what it tells of them.
    pub schema: Schema,
    /// Its thresholds, where they were tuned.
    pub thresholds: Option<Thresholds>,
    /// What it runs on.
    pub device: Device,
    kind: Kind,
}

enum Kind {
    Network(Box<Network>),
    Linear(Box<svm::Model>),
}

struct Network {
    model: SequenceClassifier<Cpu>,
    backend: Cpu,
    /// The one that travelled with the model.
    tokenizer: Tokenizer,
    /// Tokens at which it cuts.
    max_length: usize,
}

/// What a model says of texts.
pub struct Answered {
    /// What it gives each class or label of each text, [N, C].
    pub outputs: Vec<f32>,
    /// Texts of which it saw no more than so many tokens.
    pub cut: usize,
    /// So many.
    pub limit: usize,
}

impl Classifier {
    /// Loads a model, and the pretrained model under it, if there is one. The encoder's matrices are
    /// kept as `quantization` says, by default as the run did.
    ///
    /// # Errors
    /// A file is missing or damaged, the pretrained model cannot be found, or there is no encoder to be
    /// quantised.
    pub fn load(
        folder: &Path,
        quantization: Option<Quantization>,
        progress: &dyn sources::Progress,
    ) -> Result<Classifier> {
        if svm::is_linear(folder)? {
            if quantization.is_some() {
                bail!(
                    "--quantization is for encoders, and {} holds a linear model",
                    folder.display()
                );
            }
            let model = svm::Model::read(folder)?;
            let device = Device::new(None, PrecisionName::True32)?;
            let schema = model.card.schema.clone();
            let kind = Kind::Linear(Box::new(model));
            return Ok(Classifier { schema, thresholds: None, device, kind });
        }
        let mut card: Card = read_json(&folder.join(CARD))?;
        card.quantization = quantization.unwrap_or(card.quantization);
        let device = Device::new(None, card.precision)?;
        let network = Network::load(folder, &card, &device, progress)?;
        let thresholds = Thresholds::read(folder, &card.schema.labels)?;
        let kind = Kind::Network(Box::new(network));
        Ok(Classifier { schema: card.schema, thresholds, device, kind })
    }

    /// How figures are computed.
    pub fn classes(&self) -> Classes {
        classes_of(&self.schema.labels)
    }

    /// What the numbers are that it answers with.
    pub fn scale(&self) -> Scale {
        match &self.kind {
            Kind::Network(_) => Scale::Probability,
            Kind::Linear(_) => Scale::DecisionValue,
        }
    }

    /// What it says of texts. `progress` is told how many are answered.
    ///
    /// # Errors
    /// A text that the tokenizer refuses; damaged weights.
    pub fn answer(
        &self,
        texts: &[&str],
        mut progress: impl FnMut(usize) + Send,
    ) -> Result<Answered> {
        self.device.run(|| match &self.kind {
            Kind::Network(network) => {
                let Network { model, backend, tokenizer, max_length } = network.as_ref();
                let encodings = tokenizer.encode_batch(texts)?;
                let cut = encodings.iter().filter(|text| text.ids.len() < text.length).count();
                let split = Split::new(encodings, Vec::new());
                let budget = token_budget(self.device.threads());
                let mut outputs = logits(backend, model, &split, budget, |rows| {
                    progress(rows);
                    Ok(())
                })?;
                probabilities(&mut outputs, self.classes());
                Ok(Answered { outputs, cut, limit: *max_length })
            }
            Kind::Linear(model) => {
                let outputs = model.decision_values(texts);
                progress(texts.len());
                Ok(Answered { outputs, cut: 0, limit: usize::MAX })
            }
        })
    }

    /// Its answers to labelled rows, and how good they are.
    ///
    /// # Errors
    /// As [`Classifier::answer`].
    pub fn evaluate(
        &self,
        examples: &[Example],
        mut progress: impl FnMut(usize) + Send,
    ) -> Result<Evaluation> {
        self.device.run(|| match &self.kind {
            Kind::Network(network) => {
                let Network { model, backend, tokenizer, .. } = network.as_ref();
                let split = Split::encode(tokenizer, examples, self.classes(), "test")?;
                let budget = token_budget(self.device.threads());
                evaluate(backend, model, &split, self.classes(), budget, |rows| {
                    progress(rows);
                    Ok(())
                })
            }
            Kind::Linear(model) => {
                let evaluation = model.evaluate(examples);
                progress(examples.len());
                Ok(evaluation)
            }
        })
    }
}

impl Network {
    fn load(
        folder: &Path,
        card: &Card,
        device: &Device,
        progress: &dyn sources::Progress,
    ) -> Result<Network> {
        let backend = Cpu::new(device.isa, device.precision, card.quantization);
        let labels = card.schema.labels.names.len();
        let model = if folder.join(peft::ADAPTER_CONFIG).is_file() {
            let base = Base::find(&card.pretrained_model, progress)?;
            let method = Method::Lora(peft::read_adapter_config(folder)?);
            let mut model = SequenceClassifier::load(&backend, &base.folder, labels, &method, 0)?;
            peft::read_adapter(&backend, &mut model, folder)?;
            model
        } else {
            SequenceClassifier::load_to_answer(&backend, folder, labels)?
        };
        let tokenizer = Tokenizer::from_folder(folder, card.max_length)?;
        Ok(Network { model, backend, tokenizer, max_length: card.max_length })
    }
}
