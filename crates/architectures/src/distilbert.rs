//! DistilBERT (Sanh et al. 2019) for sequence classification, as
//! `DistilBertForSequenceClassification`: BERT without token types and without dropout behind the
//! attention, under names of its own; its head has a ReLU.
//!
//! Sinusoidal positions are refused: Transformers does not train them, and no published model has
//! them.

use crate::Error;
use crate::backend::Backend;
use crate::builder::{Bias, Builder};
use crate::config::{self, OutOfRange};
use crate::embeddings::{EmbeddingNames, EmbeddingSizes, Embeddings};
use crate::encoder::Encoder;
use crate::family::Family;
use crate::head::{Head, HeadLayers};
use crate::layer::{Layer, LayerNames, LayerSizes};
use kernels::Activation;
use serde::Deserialize;

pub(crate) const FAMILY: Family = Family {
    model_type: "distilbert",
    classifier: "DistilBertForSequenceClassification",
    encoder: "DistilBertModel",
    root: "distilbert",
    head: &["classifier", "pre_classifier"],
    query_value: &["q_lin", "v_lin"],
};

/// ε of every LayerNorm.
const EPS: f32 = 1e-12;

const LAYER: LayerNames = LayerNames {
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    intermediate: "ffn.lin1",
    output: "ffn.lin2",
    output_norm: "output_layer_norm",
};

/// The keys of `config.json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    /// Number of token ids.
    pub(crate) vocab_size: usize,
    /// Number of rows of the position table.
    pub(crate) max_position_embeddings: usize,
    #[serde(default)]
    sinusoidal_pos_embds: bool,
    n_layers: usize,
    n_heads: usize,
    /// H, the width of a token's vector.
    dim: usize,
    /// Width of the feed-forward's inner vector.
    hidden_dim: usize,
    /// Dropout on embeddings and behind the feed-forward.
    #[serde(default = "config::tenth")]
    dropout: f32,
    /// Dropout on attention probabilities.
    #[serde(default = "config::tenth")]
    attention_dropout: f32,
    /// Activation between the feed-forward's products.
    #[serde(default = "config::gelu", deserialize_with = "config::activation")]
    activation: Activation,
    /// Dropout before the classifier.
    #[serde(default = "fifth")]
    seq_classif_dropout: f32,
    /// Standard deviation of new weights.
    #[serde(default = "config::initializer_range")]
    initializer_range: f32,
}

fn fifth() -> f32 {
    0.2
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        config::check_sizes([
            ("vocab_size", self.vocab_size, config::LARGEST),
            ("max_position_embeddings", self.max_position_embeddings, config::LARGEST),
            ("n_layers", self.n_layers, config::DEEPEST),
            ("n_heads", self.n_heads, config::MOST_HEADS),
            ("dim", self.dim, config::WIDEST),
            ("hidden_dim", self.hidden_dim, config::WIDEST_INNER),
        ])?;
        config::check_heads(("dim", self.dim), ("n_heads", self.n_heads))?;
        config::check_dropouts([
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("seq_classif_dropout", self.seq_classif_dropout),
        ])?;
        if self.sinusoidal_pos_embds {
            return config::out_of_range("sinusoidal_pos_embds", true, "false");
        }
        Ok(())
    }

    pub(crate) fn encoder<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
    ) -> Result<Encoder<B>, Error> {
        let sizes = EmbeddingSizes {
            words: self.vocab_size,
            positions: Some(self.max_position_embeddings),
            token_types: None,
            width: self.dim,
            first_position: 0,
            eps: EPS,
            norm_bias: Bias::Yes,
            dropout: self.dropout,
        };
        let embeddings = Embeddings::build(builder, &EmbeddingNames::BERT, &sizes, None)?;
        let sizes = LayerSizes {
            hidden: self.dim,
            inner: self.hidden_dim,
            heads: self.n_heads,
            eps: EPS,
            activation: self.activation,
            attention_dropout: self.attention_dropout,
            attention_output_dropout: 0.0,
            output_dropout: self.dropout,
        };
        let layer = |index| {
            let prefix = format!("distilbert.transformer.layer.{index}");
            let rows = builder.rows_of_layer(index, self.n_layers);
            Layer::build(builder, &prefix, &LAYER, &sizes, rows)
        };
        let layers = (0..self.n_layers).map(layer).collect::<Result<_, _>>()?;
        Ok(Encoder::post_norm(embeddings, layers))
    }

    pub(crate) fn head<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
        labels: usize,
    ) -> Result<Head<B>, Error> {
        let layers = HeadLayers {
            dense: "pre_classifier",
            projection: "classifier",
            hidden: self.dim,
            activation: Activation::Relu,
            input_dropout: 0.0,
            dropout: self.seq_classif_dropout,
            initializer_range: self.initializer_range,
        };
        Head::build(builder, layers, labels)
    }
}
