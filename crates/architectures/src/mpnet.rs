//! MPNet (Song et al. 2020) for sequence classification, as `MPNetForSequenceClassification`: BERT's
//! encoder without token types, with positions from 2 and with a bias of attention scores by relative
//! position that all layers share; RoBERTa's head.

use crate::Error;
use crate::attention::{FullAttention, SelfAttention};
use crate::backend::Backend;
use crate::bert;
use crate::builder::{Bias, Builder};
use crate::config::{self, OutOfRange};
use crate::embeddings::{EmbeddingNames, EmbeddingSizes, Embeddings};
use crate::encoder::Encoder;
use crate::family::Family;
use crate::head::{Head, HeadLayers};
use crate::layer::{Layer, LayerNames};
use crate::position::{PositionBias, bucket, distances};
use kernels::Activation;
use serde::Deserialize;

pub(crate) const FAMILY: Family = Family {
    model_type: "mpnet",
    classifier: "MPNetForSequenceClassification",
    encoder: "MPNetModel",
    root: "mpnet",
    head: &["classifier"],
    query_value: &["q", "v"],
};

const LAYER: LayerNames = LayerNames {
    query: "attention.attn.q",
    key: "attention.attn.k",
    value: "attention.attn.v",
    attention_output: "attention.attn.o",
    attention_norm: "attention.LayerNorm",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "output.LayerNorm",
};

/// Row of the position table that a sequence's first token takes: behind that of the padding, which
/// Transformers takes for 1 whatever `pad_token_id` says.
const FIRST_POSITION: u32 = 2;

/// Buckets of relative positions; Transformers computes with no other number, whatever
/// `relative_attention_num_buckets` says.
const BUCKETS: usize = 32;

/// The keys shared with BERT, and the rows of the table of biases.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    pub(crate) bert: bert::Config,
    #[serde(default = "buckets")]
    relative_attention_num_buckets: usize,
}

fn buckets() -> usize {
    BUCKETS
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        if self.relative_attention_num_buckets != BUCKETS {
            let buckets = self.relative_attention_num_buckets;
            let limit = BUCKETS.to_string();
            return config::out_of_range("relative_attention_num_buckets", buckets, &limit);
        }
        self.bert.check()
    }

    pub(crate) fn max_length(&self) -> usize {
        self.bert.max_position_embeddings.saturating_sub(FIRST_POSITION as usize)
    }

    pub(crate) fn encoder<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
    ) -> Result<Encoder<B>, Error> {
        let (bert, layers) = (&self.bert, self.bert.num_hidden_layers);
        let sizes = bert.embedding_sizes(bert.hidden_size, FIRST_POSITION);
        let sizes = EmbeddingSizes { token_types: None, ..sizes };
        let embeddings = Embeddings::build(builder, &EmbeddingNames::BERT, &sizes, None)?;
        let sizes = bert.layer_sizes();
        let buckets: Vec<u32> = distances(self.max_length()).map(bucket).collect();
        let layer = |index| {
            let prefix = format!("mpnet.encoder.layer.{index}");
            let rows = builder.rows_of_layer(index, layers);
            let projections = LAYER.projections(&prefix);
            let attention = FullAttention::build(
                builder,
                projections,
                sizes.hidden,
                sizes.heads,
                rows,
                Bias::Yes,
            )?;
            let name = "mpnet.encoder.relative_attention_bias.weight";
            let table = builder.tensor(name, &[BUCKETS, bert.num_attention_heads])?;
            let buckets = builder.backend.indices(buckets.clone());
            let attention = attention.with_position_bias(PositionBias { table, buckets });
            Layer::around(builder, SelfAttention::Full(attention), &prefix, &LAYER, &sizes, rows)
        };
        let layers = (0..layers).map(layer).collect::<Result<_, Error>>()?;
        Ok(Encoder::post_norm(embeddings, layers))
    }

    pub(crate) fn head<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
        labels: usize,
    ) -> Result<Head<B>, Error> {
        let dropout = self.bert.hidden_dropout_prob;
        let layers = HeadLayers {
            dense: "classifier.dense",
            projection: "classifier.out_proj",
            hidden: self.bert.hidden_size,
            activation: Activation::Tanh,
            input_dropout: dropout,
            dropout,
            initializer_range: self.bert.initializer_range,
        };
        Head::build(builder, layers, labels)
    }
}
