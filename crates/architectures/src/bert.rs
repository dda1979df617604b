//! BERT (Devlin et al. 2018) for sequence classification, as `BertForSequenceClassification`:
//! pooler on the first token, positions from 0. Its encoder is RoBERTa's and ELECTRA's too.

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
    model_type: "bert",
    classifier: "BertForSequenceClassification",
    encoder: "BertModel",
    root: "bert",
    head: &["classifier", "pooler"],
    query_value: &["query", "value"],
};

/// The keys of `config.json` that BERT and its descendants share.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    /// Number of token ids.
    pub(crate) vocab_size: usize,
    /// H, the width of a token's vector.
    pub(crate) hidden_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    /// Width of the feed-forward's inner vector.
    pub(crate) intermediate_size: usize,
    /// Activation between the feed-forward's products.
    #[serde(default = "config::gelu", deserialize_with = "config::activation")]
    pub(crate) hidden_act: Activation,
    /// Dropout on embeddings and on the branches of each layer.
    #[serde(default = "config::tenth")]
    pub(crate) hidden_dropout_prob: f32,
    /// Dropout on attention probabilities.
    #[serde(default = "config::tenth")]
    pub(crate) attention_probs_dropout_prob: f32,
    /// Dropout before the classifier; `hidden_dropout_prob` where absent.
    pub(crate) classifier_dropout: Option<f32>,
    /// Number of rows of the position table.
    pub(crate) max_position_embeddings: usize,
    /// Number of rows of the token type table.
    #[serde(default = "config::two")]
    pub(crate) type_vocab_size: usize,
    /// ε of every LayerNorm.
    #[serde(default = "config::tiny")]
    pub(crate) layer_norm_eps: f32,
    /// Standard deviation of new weights.
    #[serde(default = "config::initializer_range")]
    pub(crate) initializer_range: f32,
    /// `absolute`, the only kind there is here.
    pub(crate) position_embedding_type: Option<String>,
}

pub(crate) const LAYER: LayerNames = LayerNames {
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "output.LayerNorm",
};

impl Config {
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        config::check_sizes([
            ("vocab_size", self.vocab_size, config::LARGEST),
            ("hidden_size", self.hidden_size, config::WIDEST),
            ("num_hidden_layers", self.num_hidden_layers, config::DEEPEST),
            ("num_attention_heads", self.num_attention_heads, config::MOST_HEADS),
            ("intermediate_size", self.intermediate_size, config::WIDEST_INNER),
            ("max_position_embeddings", self.max_position_embeddings, config::LARGEST),
            ("type_vocab_size", self.type_vocab_size, 1 << 16),
        ])?;
        config::check_heads(
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
        )?;
        config::check_dropouts([
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.classifier_dropout()),
        ])?;
        match self.position_embedding_type.as_deref() {
            None | Some("absolute") => Ok(()),
            Some(other) => {
                config::out_of_range("position_embedding_type", format!("`{other}`"), "`absolute`")
            }
        }
    }

    /// Dropout before the classifier.
    pub(crate) fn classifier_dropout(&self) -> f32 {
        self.classifier_dropout.unwrap_or(self.hidden_dropout_prob)
    }

    /// Position 0 takes row `first_position` of the position table.
    pub(crate) fn encoder<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
        first_position: u32,
    ) -> Result<Encoder<B>, Error> {
        let sizes = self.embedding_sizes(self.hidden_size, first_position);
        let embeddings = Embeddings::build(builder, &EmbeddingNames::BERT, &sizes, None)?;
        Ok(Encoder::post_norm(embeddings, self.layers(builder)?))
    }

    /// Embeddings of this width.
    pub(crate) fn embedding_sizes(&self, width: usize, first_position: u32) -> EmbeddingSizes {
        EmbeddingSizes {
            words: self.vocab_size,
            positions: Some(self.max_position_embeddings),
            token_types: Some(self.type_vocab_size),
            width,
            first_position,
            eps: self.layer_norm_eps,
            norm_bias: Bias::Yes,
            dropout: self.hidden_dropout_prob,
        }
    }

    pub(crate) fn layers<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
    ) -> Result<Vec<Layer<B>>, Error> {
        let sizes = self.layer_sizes();
        let layer = |index| {
            let prefix = format!("{}.encoder.layer.{index}", builder.family.root);
            let rows = builder.rows_of_layer(index, self.num_hidden_layers);
            Layer::build(builder, &prefix, &LAYER, &sizes, rows)
        };
        (0..self.num_hidden_layers).map(layer).collect()
    }

    pub(crate) fn layer_sizes(&self) -> LayerSizes {
        LayerSizes {
            hidden: self.hidden_size,
            inner: self.intermediate_size,
            heads: self.num_attention_heads,
            eps: self.layer_norm_eps,
            activation: self.hidden_act,
            attention_dropout: self.attention_probs_dropout_prob,
            attention_output_dropout: self.hidden_dropout_prob,
            output_dropout: self.hidden_dropout_prob,
        }
    }

    pub(crate) fn head<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
        labels: usize,
    ) -> Result<Head<B>, Error> {
        let layers = HeadLayers {
            dense: "bert.pooler.dense",
            projection: "classifier",
            hidden: self.hidden_size,
            activation: Activation::Tanh,
            input_dropout: 0.0,
            dropout: self.classifier_dropout(),
            initializer_range: self.initializer_range,
        };
        Head::build(builder, layers, labels)
    }
}
