//! ALBERT (Lan et al. 2019) for sequence classification, as `AlbertForSequenceClassification`:
//! embeddings narrower than the encoder, and groups of layers that are used again and again, so that
//! a gradient is the sum over all uses of a weight. No dropout behind the feed-forward.

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
    model_type: "albert",
    classifier: "AlbertForSequenceClassification",
    encoder: "AlbertModel",
    root: "albert",
    head: &["classifier", "pooler"],
    query_value: &["query", "value"],
};

const LAYER: LayerNames = LayerNames {
    query: "attention.query",
    key: "attention.key",
    value: "attention.value",
    attention_output: "attention.dense",
    attention_norm: "attention.LayerNorm",
    intermediate: "ffn",
    output: "ffn_output",
    output_norm: "full_layer_layer_norm",
};

/// The keys of `config.json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    /// Number of token ids.
    pub(crate) vocab_size: usize,
    /// E, the width of all embedding tables.
    #[serde(default = "narrow")]
    embedding_size: usize,
    /// H, the width of a token's vector.
    hidden_size: usize,
    /// How often a group is used, over all groups.
    num_hidden_layers: usize,
    /// Number of groups, each used by layers that follow one another.
    #[serde(default = "one")]
    num_hidden_groups: usize,
    /// Layers in a group.
    #[serde(default = "one")]
    inner_group_num: usize,
    num_attention_heads: usize,
    /// Width of the feed-forward's inner vector.
    intermediate_size: usize,
    /// Activation between the feed-forward's products.
    #[serde(default = "config::gelu_new", deserialize_with = "config::activation")]
    hidden_act: Activation,
    /// Dropout on embeddings and behind the attention.
    #[serde(default)]
    hidden_dropout_prob: f32,
    /// Dropout on attention probabilities.
    #[serde(default)]
    attention_probs_dropout_prob: f32,
    /// Number of rows of the position table.
    pub(crate) max_position_embeddings: usize,
    /// Number of rows of the token type table.
    #[serde(default = "config::two")]
    type_vocab_size: usize,
    /// ε of every LayerNorm.
    #[serde(default = "config::tiny")]
    layer_norm_eps: f32,
    /// Dropout before the classifier.
    #[serde(default = "config::tenth")]
    classifier_dropout_prob: f32,
    /// Standard deviation of new weights.
    #[serde(default = "config::initializer_range")]
    initializer_range: f32,
}

fn narrow() -> usize {
    128
}
fn one() -> usize {
    1
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        let most_inner = config::DEEPEST / self.num_hidden_layers.max(1);
        config::check_sizes([
            ("vocab_size", self.vocab_size, config::LARGEST),
            ("embedding_size", self.embedding_size, config::WIDEST),
            ("hidden_size", self.hidden_size, config::WIDEST),
            ("num_hidden_layers", self.num_hidden_layers, config::DEEPEST),
            ("num_hidden_groups", self.num_hidden_groups, self.num_hidden_layers),
            ("inner_group_num", self.inner_group_num, most_inner),
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
            ("classifier_dropout_prob", self.classifier_dropout_prob),
        ])
    }

    /// The group that layer `index` uses, with Transformers' rounding.
    fn group(&self, index: usize) -> usize {
        let layers_per_group = self.num_hidden_layers as f64 / self.num_hidden_groups as f64;
        (index as f64 / layers_per_group) as usize
    }

    pub(crate) fn encoder<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
    ) -> Result<Encoder<B>, Error> {
        let sizes = EmbeddingSizes {
            words: self.vocab_size,
            positions: Some(self.max_position_embeddings),
            token_types: Some(self.type_vocab_size),
            width: self.embedding_size,
            first_position: 0,
            eps: self.layer_norm_eps,
            norm_bias: Bias::Yes,
            dropout: self.hidden_dropout_prob,
        };
        // Also where both widths are the same.
        let projection = Some(("encoder.embedding_hidden_mapping_in", self.hidden_size));
        let embeddings = Embeddings::build(builder, &EmbeddingNames::BERT, &sizes, projection)?;
        let sizes = LayerSizes {
            hidden: self.hidden_size,
            inner: self.intermediate_size,
            heads: self.num_attention_heads,
            eps: self.layer_norm_eps,
            activation: self.hidden_act,
            attention_dropout: self.attention_probs_dropout_prob,
            attention_output_dropout: self.hidden_dropout_prob,
            output_dropout: 0.0,
        };
        let uses = self.num_hidden_layers * self.inner_group_num;
        let layer = |index| {
            let (group, inner) =
                (self.group(index / self.inner_group_num), index % self.inner_group_num);
            let prefix =
                format!("albert.encoder.albert_layer_groups.{group}.albert_layers.{inner}");
            Layer::build(builder, &prefix, &LAYER, &sizes, builder.rows_of_layer(index, uses))
        };
        let layers = (0..uses).map(layer).collect::<Result<_, _>>()?;
        Ok(Encoder::post_norm(embeddings, layers))
    }

    pub(crate) fn head<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
        labels: usize,
    ) -> Result<Head<B>, Error> {
        let layers = HeadLayers {
            dense: "albert.pooler",
            projection: "classifier",
            hidden: self.hidden_size,
            activation: Activation::Tanh,
            input_dropout: 0.0,
            dropout: self.classifier_dropout_prob,
            initializer_range: self.initializer_range,
        };
        Head::build(builder, layers, labels)
    }
}
