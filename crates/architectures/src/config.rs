//! `config.json` of a Hugging Face encoder: the keys that decide the network's shape, checked
//! before anything is allocated.

use crate::Error;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Shape and constants of an encoder, under Hugging Face's names.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// `bert`, `roberta`, …
    pub model_type: String,
    /// Number of token ids.
    pub vocab_size: usize,
    /// H, the width of a token's vector.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Width of the feed-forward's inner vector.
    pub intermediate_size: usize,
    /// Activation between the feed-forward's products; only `gelu` (the exact one).
    #[serde(default = "gelu")]
    pub hidden_act: String,
    /// Dropout on embeddings and on the branches of each layer.
    #[serde(default = "tenth")]
    pub hidden_dropout_prob: f32,
    /// Dropout on attention probabilities.
    #[serde(default = "tenth")]
    pub attention_probs_dropout_prob: f32,
    /// Dropout before the classifier; `hidden_dropout_prob` where absent.
    #[serde(default)]
    pub classifier_dropout: Option<f32>,
    /// Number of rows of the position table.
    pub max_position_embeddings: usize,
    /// Number of rows of the token type table.
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    /// ε of every LayerNorm.
    #[serde(default = "tiny")]
    pub layer_norm_eps: f32,
    /// Standard deviation of new weights.
    #[serde(default = "initializer_range")]
    pub initializer_range: f32,
    /// Token id of padding; RoBERTa's positions start behind it.
    #[serde(default)]
    pub pad_token_id: Option<u32>,
    /// `absolute`, the only kind these architectures have here.
    #[serde(default)]
    pub position_embedding_type: Option<String>,
    /// Transformers' class of the model.
    #[serde(default)]
    pub architectures: Option<Vec<String>>,
    /// How the weights are quantised, where they are.
    #[serde(default)]
    pub quantization_config: Option<serde_json::Value>,
    /// Label names by index, in checkpoints that are classifiers.
    #[serde(default)]
    pub id2label: Option<BTreeMap<String, String>>,
}

fn gelu() -> String {
    "gelu".to_owned()
}
fn tenth() -> f32 {
    0.1
}
fn two() -> usize {
    2
}
fn tiny() -> f32 {
    1e-12
}
fn initializer_range() -> f32 {
    0.02
}

/// No published encoder comes near; beyond it a file lies.
const LARGEST: usize = 1 << 24;

impl Config {
    /// Reads and checks `FOLDER/config.json`.
    ///
    /// # Errors
    /// The file is missing, no JSON, lacks a key, or holds a value beyond what can be built.
    pub fn read(folder: &Path) -> Result<Config, Error> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path)
            .map_err(|source| Error::Read { path: path.clone(), source })?;
        let config: Config = serde_json::from_str(&text).map_err(|error| Error::Json {
            path: path.clone(),
            what: "encoder configuration",
            reason: error.to_string(),
        })?;
        config.check(&path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), Error> {
        let limit = |key, value: String, limit: &str| {
            Err(Error::Limit { path: path.to_path_buf(), key, value, limit: limit.to_owned() })
        };
        for (key, value, most) in [
            ("vocab_size", self.vocab_size, LARGEST),
            ("hidden_size", self.hidden_size, 1 << 16),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("intermediate_size", self.intermediate_size, 1 << 18),
            ("max_position_embeddings", self.max_position_embeddings, LARGEST),
            ("type_vocab_size", self.type_vocab_size, 1 << 16),
        ] {
            if value == 0 || value > most {
                return limit(key, value.to_string(), &format!("in 1..={most}"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let heads = format!("a multiple of num_attention_heads ({})", self.num_attention_heads);
            return limit("hidden_size", self.hidden_size.to_string(), &heads);
        }
        for (key, p) in [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.classifier_dropout.unwrap_or(0.0)),
        ] {
            if !(0.0..1.0).contains(&p) {
                return limit(key, p.to_string(), "in 0..1");
            }
        }
        if self.hidden_act != "gelu" {
            return limit("hidden_act", format!("`{}`", self.hidden_act), "`gelu`");
        }
        match self.position_embedding_type.as_deref() {
            None | Some("absolute") => Ok(()),
            Some(other) => limit("position_embedding_type", format!("`{other}`"), "`absolute`"),
        }
    }

    /// Dropout before the classifier.
    pub fn classifier_dropout(&self) -> f32 {
        self.classifier_dropout.unwrap_or(self.hidden_dropout_prob)
    }
}
