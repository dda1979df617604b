//! DeBERTa's second and third version (He et al. 2020, 2021) for sequence classification, as
//! `DebertaV2ForSequenceClassification`: the first with a layer each for queries, keys and values,
//! which positions may share, with distances in buckets, and in the largest models of the second
//! version with a convolution beside the first layer.
//!
//! Refused is, beside what the first version refuses, a grouped convolution, and one in an encoder of
//! one layer.

use crate::Error;
use crate::attention::{Projections, SelfAttention};
use crate::backend::Backend;
use crate::builder::{Bias, Builder};
use crate::config::{self, OutOfRange};
use crate::convolved::{ConvolutionSizes, ConvolvedLayer};
use crate::deberta;
use crate::disentangled::{Content, DisentangledAttention};
use crate::encoder::{Encoder, Pooling};
use crate::encoder_layer::EncoderLayer;
use crate::family::Family;
use crate::head::Head;
use crate::layer::{Layer, LayerNames};
use crate::relative_positions::{PositionLayers, PositionRows, Positions};
use kernels::Activation;
use serde::Deserialize;

pub(crate) const FAMILY: Family = Family {
    model_type: "deberta-v2",
    classifier: "DebertaV2ForSequenceClassification",
    encoder: "DebertaV2Model",
    root: "deberta",
    head: &["classifier", "pooler"],
    query_value: &["query_proj", "value_proj"],
};

const LAYER: LayerNames = LayerNames {
    query: "attention.self.query_proj",
    key: "attention.self.key_proj",
    value: "attention.self.value_proj",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "output.LayerNorm",
};

/// Tokens that a convolution sees at most; published ones see three.
const WIDEST_CONVOLUTION: i64 = 255;

/// The first version's keys, and those that came later.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    pub(crate) deberta: deberta::Config,
    /// Half of the rows of the table of positions; as many as distances where it is below 1.
    #[serde(default)]
    position_buckets: i64,
    /// Whether the layers of contents give positions' keys and queries, too.
    #[serde(default)]
    share_att_key: bool,
    /// `layer_norm`, where the table of positions is normalised.
    norm_rel_ebd: Option<String>,
    /// Tokens that the convolution sees at once; there is none where it is below 1.
    #[serde(default)]
    conv_kernel_size: i64,
    #[serde(default = "tanh", deserialize_with = "config::activation")]
    conv_act: Activation,
    conv_groups: Option<usize>,
}

fn tanh() -> Activation {
    Activation::Tanh
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        self.deberta.check()?;
        if let Some(buckets) = self.buckets() {
            let most = self.deberta.max_distance();
            // Beyond half of the buckets distances need others to grow into.
            if buckets < 4 || buckets / 2 + 1 >= most {
                let limit = format!("below 1, or in 4..{}", 2 * most.saturating_sub(1));
                return config::out_of_range("position_buckets", buckets, &limit);
            }
        }
        if !["none", "layer_norm"].contains(&self.norm().as_str()) {
            let found = format!("`{}`", self.norm());
            return config::out_of_range("norm_rel_ebd", found, "`none` or `layer_norm`");
        }
        let kernel = self.conv_kernel_size;
        if kernel > 0 && (kernel % 2 == 0 || kernel > WIDEST_CONVOLUTION) {
            let limit = format!("below 1, or odd and in 1..={WIDEST_CONVOLUTION}");
            return config::out_of_range("conv_kernel_size", kernel, &limit);
        }
        if kernel > 0 && self.deberta.num_hidden_layers < 2 {
            return config::out_of_range("num_hidden_layers", 1, "above 1 with a convolution");
        }
        match self.conv_groups {
            Some(groups) if groups != 1 && kernel > 0 => {
                config::out_of_range("conv_groups", groups, "1")
            }
            _ => Ok(()),
        }
    }

    fn buckets(&self) -> Option<usize> {
        usize::try_from(self.position_buckets).ok().filter(|&buckets| buckets > 0)
    }

    fn norm(&self) -> String {
        self.norm_rel_ebd.as_deref().unwrap_or("none").trim().to_lowercase()
    }

    pub(crate) fn encoder<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
    ) -> Result<Encoder<B>, Error> {
        let embeddings = self.deberta.embeddings(builder)?;
        let layers = (0..self.deberta.num_hidden_layers).map(|index| {
            let layer = self.layer(builder, index)?;
            if index > 0 || self.conv_kernel_size < 1 {
                return Ok(EncoderLayer::PostNorm(Box::new(layer)));
            }
            let sizes = ConvolutionSizes {
                hidden: self.deberta.hidden_size,
                kernel: self.conv_kernel_size as usize,
                activation: self.conv_act,
                dropout: self.deberta.hidden_dropout_prob,
                eps: self.deberta.layer_norm_eps,
            };
            let layer = ConvolvedLayer::build(builder, layer, "deberta.encoder.conv", sizes)?;
            Ok(EncoderLayer::Convolved(Box::new(layer)))
        });
        let layers = layers.collect::<Result<_, Error>>()?;
        Ok(Encoder { embeddings, layers, final_norm: None, pooling: Pooling::First })
    }

    fn layer<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
        index: usize,
    ) -> Result<Layer<B>, Error> {
        let deberta = &self.deberta;
        let (hidden, layers) = (deberta.hidden_size, deberta.num_hidden_layers);
        let prefix = format!("deberta.encoder.layer.{index}");
        let rows = builder.rows_of_layer(index, layers);
        let projections = LAYER.projections(&prefix);
        let content = Content::Apart(Projections::build(
            builder,
            projections.clone(),
            hidden,
            rows,
            Bias::Yes,
        )?);
        let [query, key, _] = projections;
        let own = |part: &str| format!("{prefix}.attention.self.{part}");
        let (query, key) = match self.share_att_key {
            true => (query, key),
            false => (own("pos_query_proj"), own("pos_key_proj")),
        };
        let (most, length) = (deberta.max_distance(), deberta.max_position_embeddings);
        let normed = self.norm() == "layer_norm";
        let positions = PositionLayers {
            table: deberta::POSITIONS,
            rows: match self.buckets() {
                Some(buckets) => PositionRows::of_buckets(buckets, most, length),
                None => PositionRows::of_distances(most, length),
            },
            hidden,
            norm: normed.then_some(("deberta.encoder.LayerNorm", deberta.layer_norm_eps)),
            dropout: deberta.hidden_dropout_prob,
            key: deberta.meets("c2p").then_some((key, Bias::Yes)),
            query: deberta.meets("p2c").then_some((query, Bias::Yes)),
        };
        let attention = SelfAttention::Disentangled(DisentangledAttention {
            content,
            positions: Positions::build(builder, positions)?,
            heads: deberta.num_attention_heads,
            rows,
        });
        Layer::around(builder, attention, &prefix, &LAYER, &deberta.layer_sizes(), rows)
    }

    pub(crate) fn head<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
        labels: usize,
    ) -> Result<Head<B>, Error> {
        self.deberta.head(builder, labels)
    }
}

#[cfg(test)]
mod tests {
    use crate::Config;
    use std::path::Path;

    /// `microsoft/deberta-v2-xlarge`, smaller, with another value of a key.
    fn parse(key: &str, value: &str) -> Result<Config, String> {
        let mut keys = serde_json::json!({
            "model_type": "deberta-v2", "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1, "hidden_size": 8, "initializer_range": 0.02,
            "intermediate_size": 12, "max_position_embeddings": 512, "relative_attention": true,
            "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": true,
            "pos_att_type": "p2c|c2p", "layer_norm_eps": 1e-7, "conv_kernel_size": 3,
            "conv_act": "gelu", "max_relative_positions": -1, "position_biased_input": false,
            "num_attention_heads": 2, "attention_head_size": 4, "num_hidden_layers": 2,
            "type_vocab_size": 0, "vocab_size": 9
        });
        keys[key] = serde_json::from_str(value).expect("a value");
        Config::parse(Path::new("config.json"), &keys.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn published_configurations_are_read() {
        for (key, value) in [
            ("conv_kernel_size", "0"),
            ("conv_act", "\"tanh\""),
            ("position_buckets", "-1"),
            ("norm_rel_ebd", "\"none\""),
            ("share_att_key", "false"),
        ] {
            assert_eq!(parse(key, value).map(|config| config.max_length()), Ok(512), "{key}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        for (key, value, expected) in [
            ("conv_kernel_size", "4", "conv_kernel_size is 4, but must be below 1, or odd"),
            ("conv_groups", "2", "conv_groups is 2, but must be 1"),
            ("num_hidden_layers", "1", "num_hidden_layers is 1, but must be above 1 with"),
            ("norm_rel_ebd", "\"batch_norm\"", "norm_rel_ebd is `batch_norm`"),
            ("position_buckets", "2", "position_buckets is 2, but must be below 1, or in 4.."),
            ("position_buckets", "1024", "position_buckets is 1024"),
            ("relative_attention", "false", "relative_attention is false"),
        ] {
            let error = parse(key, value).expect_err(value);
            assert!(error.contains(expected), "{error}");
        }
    }
}
