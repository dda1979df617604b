//! A fine-tuned classifier on its way out: its folder as training left it, and its merged weights.

use crate::{Error, Result};
use architectures::{Config, Isa, Merged, Quantization};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The tokenizer of a classifier.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    /// `tokenizer.json`, of which the Hugging Face `tokenizers` library makes the same ids.
    pub json: String,
    /// Files in the model's folder that it is made of.
    pub files: Vec<String>,
    /// Tokens at which texts are cut.
    pub max_length: usize,
    /// What sequences are padded with.
    pub pad_token: Option<String>,
}

/// A fine-tuned model and all that is written of it.
#[derive(Debug)]
pub struct Classifier {
    /// Its weights, adapters merged.
    pub merged: Merged,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The name of the pretrained model.
    pub pretrained_model: String,
    /// Its `config.json`.
    settings: Map<String, Value>,
    folder: PathBuf,
}

impl Classifier {
    /// The model in `folder`, whose `config.json` names its labels: fine-tuned in full, or an adapter
    /// on the model in `base`, whose frozen weights were kept with this `quantization`.
    ///
    /// # Errors
    /// A file is missing or damaged, or the adapter belongs to another model.
    pub fn open(
        folder: &Path,
        base: Option<&Path>,
        quantization: Quantization,
        pretrained_model: &str,
        tokenizer: Tokenizer,
        isa: Isa,
    ) -> Result<Classifier> {
        let config = Config::read(folder)?;
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path)
            .map_err(|source| Error::Read { path: path.clone(), source })?;
        let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
        let mut settings: Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        let labels = labels(&settings);
        if labels == 0 {
            return Err(damaged("it names no labels (id2label)".to_owned()));
        }
        settings.remove("quantization_config");
        let merged = Merged::open(config, folder, base, labels, quantization, isa)?;
        let (folder, pretrained_model) = (folder.to_path_buf(), pretrained_model.to_owned());
        Ok(Classifier { merged, tokenizer, pretrained_model, settings, folder })
    }

    /// The model's folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its `config.json`.
    pub(crate) fn settings(&self) -> &Map<String, Value> {
        &self.settings
    }

    /// The number of its labels.
    pub(crate) fn labels(&self) -> usize {
        labels(&self.settings)
    }

    /// Whether a text may have several labels, or none.
    pub(crate) fn is_multi_label(&self) -> bool {
        self.settings.get("problem_type") == Some(&json!("multi_label_classification"))
    }

    /// The inputs of the network beside `input_ids`, as a tokenizer names them.
    pub(crate) fn input_names(&self) -> Vec<&'static str> {
        // BigBird has types and a tokenizer that gives none.
        let family = self.merged.config.family.model_type;
        let types = family != "big_bird"
            && self.merged.tensors().iter().any(|(name, shape)| {
                name.ends_with("token_type_embeddings.weight")
                    && shape.first().is_some_and(|&n| n > 1)
            });
        let mut names = vec!["input_ids"];
        names.extend(types.then_some("token_type_ids"));
        names.push("attention_mask");
        names
    }

    /// Writes `tokenizer.json`, and a `tokenizer_config.json` for Transformers'
    /// `PreTrainedTokenizerFast`, which takes the former as it is.
    pub(crate) fn write_tokenizer(&self, folder: &Path) -> Result<()> {
        let Tokenizer { json, max_length, pad_token, .. } = &self.tokenizer;
        let mut settings = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_length,
            "model_input_names": self.input_names(),
        });
        if let Some(token) = pad_token {
            settings["pad_token"] = json!(token);
        }
        durable::write(&folder.join("tokenizer.json"), json.as_bytes())?;
        write_json(&folder.join("tokenizer_config.json"), &settings)
    }
}

/// How many labels a `config.json` names.
fn labels(settings: &Map<String, Value>) -> usize {
    settings.get("id2label").and_then(Value::as_object).map_or(0, Map::len)
}

/// Copies files of a folder.
pub(crate) fn copy<T: AsRef<str>>(from: &Path, to: &Path, names: &[T]) -> Result<()> {
    for name in names {
        let path = from.join(name.as_ref());
        let bytes =
            std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        durable::write(&to.join(name.as_ref()), &bytes)?;
    }
    Ok(())
}

/// Writes JSON as people read it.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("plain values");
    Ok(durable::write(path, format!("{text}\n").as_bytes())?)
}
