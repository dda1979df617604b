//! DeBERTa (He et al. 2020) for sequence classification, as `DebertaForSequenceClassification`: BERT
//! whose attention meets relative positions, one product for queries, keys and values, and a pooler
//! that is new where only the encoder was pretrained.
//!
//! Refused are attention without relative positions, talking heads, and embeddings of another width,
//! which no published model has.

use crate::Error;
use crate::attention::SelfAttention;
use crate::backend::Backend;
use crate::bert;
use crate::builder::{Bias, Builder};
use crate::config::{self, OutOfRange};
use crate::disentangled::{Content, DisentangledAttention, JointProjection};
use crate::embeddings::{EmbeddingNames, EmbeddingSizes, Embeddings};
use crate::encoder::Encoder;
use crate::family::Family;
use crate::head::{Head, HeadLayers};
use crate::layer::{Layer, LayerSizes};
use crate::relative_positions::{PositionLayers, PositionRows, Positions};
use kernels::Activation;
use serde::Deserialize;

pub(crate) const FAMILY: Family = Family {
    model_type: "deberta",
    classifier: "DebertaForSequenceClassification",
    encoder: "DebertaModel",
    root: "deberta",
    head: &["classifier", "pooler"],
    query_value: &["in_proj"],
};

/// The table of positions.
pub(crate) const POSITIONS: &str = "deberta.encoder.rel_embeddings.weight";

/// The keys of `config.json` that both versions have.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    /// Number of token ids.
    pub(crate) vocab_size: usize,
    /// H, the width of a token's vector.
    pub(crate) hidden_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    /// Width of the feed-forward's inner vector.
    intermediate_size: usize,
    /// Activation between the feed-forward's products.
    #[serde(default = "config::gelu", deserialize_with = "config::activation")]
    hidden_act: Activation,
    /// Dropout on embeddings, on positions and on the branches of each layer.
    #[serde(default = "config::tenth")]
    pub(crate) hidden_dropout_prob: f32,
    /// Dropout on attention probabilities.
    #[serde(default = "config::tenth")]
    attention_probs_dropout_prob: f32,
    /// The longest sequence, and rows of the table of absolute positions where there is one.
    pub(crate) max_position_embeddings: usize,
    /// Number of rows of the token type table, or 0.
    #[serde(default)]
    type_vocab_size: usize,
    /// ε of every LayerNorm.
    #[serde(default = "layer_norm_eps")]
    pub(crate) layer_norm_eps: f32,
    /// Standard deviation of new weights.
    #[serde(default = "config::initializer_range")]
    initializer_range: f32,
    #[serde(default)]
    relative_attention: bool,
    /// The farthest distance between tokens that is told from farther ones; that of the longest
    /// sequence where it is below 1.
    #[serde(default = "longest")]
    max_relative_positions: i64,
    /// Whether embeddings tell absolute positions.
    #[serde(default = "yes")]
    position_biased_input: bool,
    /// What meets positions: `c2p` (queries) and `p2c` (keys), joined by `|` or in a list.
    pos_att_type: Option<PositionTypes>,
    /// Dropout before the pooler.
    #[serde(default)]
    pooler_dropout: f32,
    #[serde(default = "config::gelu", deserialize_with = "config::activation")]
    pooler_hidden_act: Activation,
    /// Dropout before the classifier; `hidden_dropout_prob` where absent.
    cls_dropout: Option<f32>,
    pooler_hidden_size: Option<usize>,
    embedding_size: Option<usize>,
    attention_head_size: Option<usize>,
    #[serde(default)]
    talking_head: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum PositionTypes {
    Joined(String),
    List(Vec<String>),
}

fn layer_norm_eps() -> f32 {
    1e-7
}

fn longest() -> i64 {
    -1
}

fn yes() -> bool {
    true
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        config::check_sizes([
            ("vocab_size", self.vocab_size, config::LARGEST),
            ("hidden_size", self.hidden_size, config::WIDEST),
            ("num_hidden_layers", self.num_hidden_layers, config::DEEPEST),
            ("num_attention_heads", self.num_attention_heads, config::MOST_HEADS),
            ("intermediate_size", self.intermediate_size, config::WIDEST_INNER),
            ("max_position_embeddings", self.max_position_embeddings, config::LARGEST),
            ("max_relative_positions", self.max_distance(), config::LARGEST),
            ("type_vocab_size", self.type_vocab_size.max(1), 1 << 16),
        ])?;
        config::check_heads(
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
        )?;
        config::check_dropouts([
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("pooler_dropout", self.pooler_dropout),
            ("cls_dropout", self.cls_dropout.unwrap_or(0.0)),
        ])?;
        if !self.relative_attention {
            return config::out_of_range("relative_attention", "false", "true");
        }
        if self.talking_head {
            return config::out_of_range("talking_head", "true", "false");
        }
        let hidden = self.hidden_size;
        for (key, value, expected) in [
            ("pooler_hidden_size", self.pooler_hidden_size, hidden),
            ("embedding_size", self.embedding_size, hidden),
            ("attention_head_size", self.attention_head_size, hidden / self.num_attention_heads),
        ] {
            if let Some(value) = value.filter(|&value| value != expected) {
                return config::out_of_range(key, value, &expected.to_string());
            }
        }
        let types = self.position_types();
        let known = |name: &String| ["c2p", "p2c"].contains(&name.as_str());
        let unlike = types.len() < 2 || types[0] != types[1];
        if types.is_empty() || types.len() > 2 || !unlike || !types.iter().all(known) {
            let found = format!("`{}`", types.join("|"));
            return config::out_of_range("pos_att_type", found, "`c2p`, `p2c` or `c2p|p2c`");
        }
        Ok(())
    }

    fn position_types(&self) -> Vec<String> {
        match &self.pos_att_type {
            None => Vec::new(),
            Some(PositionTypes::List(names)) => names.clone(),
            Some(PositionTypes::Joined(names)) => {
                names.to_lowercase().split('|').map(|name| name.trim().to_owned()).collect()
            }
        }
    }

    /// Whether queries meet keys of positions (`c2p`), or keys their queries (`p2c`).
    pub(crate) fn meets(&self, kind: &str) -> bool {
        self.position_types().iter().any(|name| name == kind)
    }

    /// The farthest distance that is told from farther ones.
    pub(crate) fn max_distance(&self) -> usize {
        match usize::try_from(self.max_relative_positions) {
            Ok(positions) if positions > 0 => positions,
            _ => self.max_position_embeddings,
        }
    }

    pub(crate) fn embeddings<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
    ) -> Result<Embeddings<B>, Error> {
        let sizes = EmbeddingSizes {
            words: self.vocab_size,
            positions: self.position_biased_input.then_some(self.max_position_embeddings),
            token_types: (self.type_vocab_size > 0).then_some(self.type_vocab_size),
            width: self.hidden_size,
            first_position: 0,
            eps: self.layer_norm_eps,
            norm_bias: Bias::Yes,
            dropout: self.hidden_dropout_prob,
        };
        Embeddings::build(builder, &EmbeddingNames::BERT, &sizes, None)
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

    pub(crate) fn encoder<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
    ) -> Result<Encoder<B>, Error> {
        let embeddings = self.embeddings(builder)?;
        let layers = (0..self.num_hidden_layers).map(|index| self.layer(builder, index));
        Ok(Encoder::post_norm(embeddings, layers.collect::<Result<_, Error>>()?))
    }

    fn layer<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
        index: usize,
    ) -> Result<Layer<B>, Error> {
        let prefix = format!("deberta.encoder.layer.{index}");
        let name = |part: &str| format!("{prefix}.attention.self.{part}");
        let hidden = self.hidden_size;
        let joint = builder.linear_with(&name("in_proj"), 3 * hidden, hidden, false, Bias::No)?;
        let content = Content::Joint(JointProjection {
            joint,
            query_bias: builder.tensor(&name("q_bias"), &[hidden])?,
            value_bias: builder.tensor(&name("v_bias"), &[hidden])?,
        });
        let span = self.max_distance();
        let positions = PositionLayers {
            table: POSITIONS,
            rows: PositionRows::of_distances(span, self.max_position_embeddings),
            hidden,
            norm: None,
            dropout: self.hidden_dropout_prob,
            key: self.meets("c2p").then(|| (name("pos_proj"), Bias::No)),
            query: self.meets("p2c").then(|| (name("pos_q_proj"), Bias::Yes)),
        };
        let rows = builder.rows_of_layer(index, self.num_hidden_layers);
        let attention = SelfAttention::Disentangled(DisentangledAttention {
            content,
            positions: Positions::build(builder, positions)?,
            heads: self.num_attention_heads,
            rows,
        });
        Layer::around(builder, attention, &prefix, &bert::LAYER, &self.layer_sizes(), rows)
    }

    pub(crate) fn head<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
        labels: usize,
    ) -> Result<Head<B>, Error> {
        let layers = HeadLayers {
            dense: "pooler.dense",
            projection: "classifier",
            hidden: self.hidden_size,
            activation: self.pooler_hidden_act,
            input_dropout: self.pooler_dropout,
            dropout: self.cls_dropout.unwrap_or(self.hidden_dropout_prob),
            initializer_range: self.initializer_range,
        };
        Head::build(builder, layers, labels)
    }
}

#[cfg(test)]
mod tests {
    use crate::Config;
    use std::path::Path;

    /// `microsoft/deberta-base`, smaller, with another value of a key.
    fn parse(key: &str, value: &str) -> Result<Config, String> {
        let mut keys = serde_json::json!({
            "model_type": "deberta", "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1, "hidden_size": 8, "initializer_range": 0.02,
            "intermediate_size": 12, "max_position_embeddings": 512, "relative_attention": true,
            "pos_att_type": "c2p|p2c", "layer_norm_eps": 1e-7, "padding_idx": 0,
            "num_attention_heads": 2, "num_hidden_layers": 2, "type_vocab_size": 0,
            "max_relative_positions": -1, "position_biased_input": false, "pooler_dropout": 0,
            "pooler_hidden_act": "gelu", "vocab_size": 9
        });
        keys[key] = serde_json::from_str(value).expect("a value");
        Config::parse(Path::new("config.json"), &keys.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn published_configurations_are_read() {
        for (key, value) in [
            ("legacy", "true"),
            ("cls_dropout", "0.15"),
            ("pooler_hidden_size", "8"),
            ("pos_att_type", "\"P2C | c2p\""),
            ("pos_att_type", r#"["c2p"]"#),
            ("talking_head", "false"),
        ] {
            assert_eq!(parse(key, value).map(|config| config.max_length()), Ok(512), "{key}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        for (key, value, expected) in [
            ("relative_attention", "false", "relative_attention is false, but must be true"),
            ("talking_head", "true", "talking_head is true, but must be false"),
            ("pos_att_type", "\"c2p|p2p\"", "pos_att_type is `c2p|p2p`, but must be `c2p`"),
            ("pos_att_type", "\"c2p|c2p\"", "pos_att_type is `c2p|c2p`"),
            ("pos_att_type", "null", "pos_att_type is ``"),
            ("embedding_size", "4", "embedding_size is 4, but must be 8"),
            ("pooler_hidden_size", "4", "pooler_hidden_size is 4, but must be 8"),
            ("attention_head_size", "5", "attention_head_size is 5, but must be 4"),
            ("max_relative_positions", "9000000000", "max_relative_positions is 9000000000"),
            ("pooler_hidden_act", "\"mish\"", "`mish` is not supported"),
        ] {
            let error = parse(key, value).expect_err(value);
            assert!(error.contains(expected), "{error}");
        }
    }
}
