//! BigBird (Zaheer et al. 2020) for sequence classification, as `BigBirdForSequenceClassification`:
//! BERT's layers, whose attention is full or of blocks, and RoBERTa's head with the network's own
//! activation. Transformers has BERT's pooler as well and does not read it: its tensors are kept, and may be
//! missing in a base.
//!
//! The results are those of Transformers for each sequence in a batch of its own. There as here a
//! sequence too short to be cut into blocks gets full attention (there all later batches get it as
//! well, until the type is set again), and padding to whole blocks is masked, but counts in the
//! length that blocks are drawn for.

use crate::Error;
use crate::attention::{FullAttention, SelfAttention};
use crate::backend::Backend;
use crate::bert;
use crate::builder::{Bias, Builder, HeadLinear};
use crate::config::{self, OutOfRange};
use crate::embeddings::{EmbeddingNames, Embeddings};
use crate::encoder::Encoder;
use crate::family::Family;
use crate::head::{Head, HeadLayers};
use crate::layer::{Layer, LayerSizes};
use crate::random_blocks::{BlockSizes, RandomBlocks};
use kernels::Activation;
use serde::Deserialize;

pub(crate) const FAMILY: Family = Family {
    model_type: "big_bird",
    classifier: "BigBirdForSequenceClassification",
    encoder: "BigBirdModel",
    root: "bert",
    head: &["classifier"],
    query_value: &["query", "value"],
};

/// BERT's keys and BigBird's own.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    pub(crate) bert: bert::Config,
    /// Activation between the feed-forward's products, and in the head.
    #[serde(default = "config::gelu_new", deserialize_with = "config::activation")]
    hidden_act: Activation,
    #[serde(default)]
    attention_type: AttentionType,
    /// Tokens per block.
    #[serde(default = "block_size")]
    block_size: usize,
    /// Blocks that each block of queries sees beside its neighbours, the first and the last.
    #[serde(default = "num_random_blocks")]
    num_random_blocks: usize,
    /// Whether queries, keys and values have a bias.
    #[serde(default = "yes")]
    use_bias: bool,
    /// Whether words' vectors are multiplied by √H.
    #[serde(default)]
    rescale_embeddings: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AttentionType {
    OriginalFull,
    #[default]
    BlockSparse,
}

fn block_size() -> usize {
    64
}
fn num_random_blocks() -> usize {
    3
}
fn yes() -> bool {
    true
}

/// Most random blocks that a configuration may ask for.
const MOST_RANDOM: usize = 1 << 10;
/// Most numbers of random blocks in a layer.
const LARGEST_TABLE: usize = 1 << 24;

impl Config {
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        self.bert.check()?;
        config::check_sizes([
            ("block_size", self.block_size, config::LARGEST),
            ("num_random_blocks", self.num_random_blocks.max(1), MOST_RANDOM),
        ])?;
        let Some(blocks) = self.blocks() else { return Ok(()) };
        if blocks.table_size() > LARGEST_TABLE {
            let limit = "large enough for the longest sequence to have fewer blocks";
            return config::out_of_range("block_size", self.block_size, limit);
        }
        if let Some(block) = blocks.impossible() {
            let limit = format!(
                "such that block {block} of a sequence of 1,024, 3,072 or 4,096 tokens has random \
                 blocks to choose from (Transformers fails there, too)"
            );
            return config::out_of_range("num_random_blocks", self.num_random_blocks, &limit);
        }
        Ok(())
    }

    pub(crate) fn max_length(&self) -> usize {
        self.bert.max_position_embeddings
    }

    /// How sequences are cut, where any is long enough for that.
    fn blocks(&self) -> Option<BlockSizes> {
        let blocks = BlockSizes {
            size: self.block_size,
            random: self.num_random_blocks,
            heads: self.bert.num_attention_heads,
            max_length: self.max_length(),
        };
        let sparse = self.attention_type == AttentionType::BlockSparse;
        (sparse && blocks.max_length > blocks.whole()).then_some(blocks)
    }

    pub(crate) fn encoder<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
    ) -> Result<Encoder<B>, Error> {
        let bert = &self.bert;
        let sizes = bert.embedding_sizes(bert.hidden_size, 0);
        let mut embeddings =
            Embeddings::build(builder, &EmbeddingNames::BERT, &sizes, None)?.dropped_out_first();
        if self.rescale_embeddings {
            embeddings = embeddings.rescaled((bert.hidden_size as f32).sqrt());
        }
        let sizes = LayerSizes { activation: self.hidden_act, ..bert.layer_sizes() };
        let layer = |index| {
            let prefix = format!("bert.encoder.layer.{index}");
            let rows = builder.rows_of_layer(index, bert.num_hidden_layers);
            let mut attention = FullAttention::build(
                builder,
                bert::LAYER.projections(&prefix),
                sizes.hidden,
                sizes.heads,
                rows,
                Bias::of(self.use_bias),
            )?;
            if let Some(blocks) = self.blocks() {
                let blocks = RandomBlocks::new(builder.backend, blocks, index as u32);
                attention = attention.with_blocks(blocks);
            }
            let attention = SelfAttention::Full(attention);
            Layer::around(builder, attention, &prefix, &bert::LAYER, &sizes, rows)
        };
        let layers = (0..bert.num_hidden_layers).map(layer).collect::<Result<_, Error>>()?;
        Ok(Encoder::post_norm(embeddings, layers))
    }

    pub(crate) fn head<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
        labels: usize,
    ) -> Result<Head<B>, Error> {
        let dropout = self.bert.classifier_dropout();
        let layers = HeadLayers {
            dense: "classifier.dense",
            projection: "classifier.out_proj",
            hidden: self.bert.hidden_size,
            activation: self.hidden_act,
            input_dropout: dropout,
            dropout,
            initializer_range: self.bert.initializer_range,
        };
        let head = Head::build(builder, layers, labels)?;
        builder.unread_linear(HeadLinear {
            name: "bert.pooler",
            out: self.bert.hidden_size,
            input: self.bert.hidden_size,
            bias: Bias::Yes,
            deviation: self.bert.initializer_range,
            last: false,
        })?;
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use crate::Config;
    use std::path::Path;

    fn parse(keys: &str) -> Result<Config, String> {
        let text = format!(
            r#"{{"model_type": "big_bird", "vocab_size": 9, "hidden_size": 8,
                "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 4,
                "max_position_embeddings": 4096{keys}}}"#
        );
        Config::parse(Path::new("config.json"), &text).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_of_blocks_are_checked() {
        for keys in [
            "",
            r#", "attention_type": "original_full", "block_size": 256"#,
            r#", "block_size": 32, "num_random_blocks": 0"#,
        ] {
            assert_eq!(parse(keys).map(|config| config.max_length()), Ok(4096), "{keys}");
        }
        for (keys, expected) in [
            (r#""attention_type": "sparse""#, "unknown variant `sparse`"),
            (r#""block_size": 0"#, "block_size is 0, but must be in 1..="),
            (r#""num_random_blocks": 1000000"#, "num_random_blocks is 1000000, but must be in"),
            (r#""block_size": 256"#, "num_random_blocks is 3, but must be such that block 2"),
            (
                r#""block_size": 1, "num_random_blocks": 1000, "num_attention_heads": 8"#,
                "block_size is 1, but must be large enough",
            ),
        ] {
            let error = parse(&format!(", {keys}")).expect_err(keys);
            assert!(error.contains(expected), "{error}");
        }
    }
}
