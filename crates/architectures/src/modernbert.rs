//! ModernBERT (Warner et al. 2024) for sequence classification, as
//! `ModernBertForSequenceClassification`: rotary positions, layers that normalise their inputs, gated
//! feed-forwards, no biases, and attention that in most layers sees a window alone. The head reads the
//! first token or the mean of all.
//!
//! Configurations are read as Transformers wrote them before release 5 (`global_rope_theta`,
//! `local_rope_theta`, `global_attn_every_n_layers`) and since (`rope_parameters`, `layer_types`).
//! Refused are scaled rotary positions, which no published model has.

use crate::Error;
use crate::attention::Rows;
use crate::backend::Backend;
use crate::builder::{Bias, Builder, HeadLinear};
use crate::config::{self, OutOfRange};
use crate::embeddings::{EmbeddingNames, EmbeddingSizes, Embeddings};
use crate::encoder::{Encoder, Pooling};
use crate::encoder_layer::EncoderLayer;
use crate::family::Family;
use crate::head::{Head, NormedHead};
use crate::pre_norm::{PreNormLayer, PreNormNames, PreNormSizes};
use crate::rotary::{Angles, RotarySizes};
use kernels::Activation;
use serde::Deserialize;
use serde_json::Value;

pub(crate) const FAMILY: Family = Family {
    model_type: "modernbert",
    classifier: "ModernBertForSequenceClassification",
    encoder: "ModernBertModel",
    root: "model",
    head: &["classifier", "head"],
    query_value: &["Wqkv"],
};

const EMBEDDINGS: EmbeddingNames = EmbeddingNames { word: "tok_embeddings", norm: "norm" };

const LAYER: PreNormNames = PreNormNames {
    attention_norm: "attn_norm",
    query_key_value: "attn.Wqkv",
    attention_output: "attn.Wo",
    feed_forward_norm: "mlp_norm",
    input: "mlp.Wi",
    output: "mlp.Wo",
};

/// More positions than any published model has; their angles take 256 bytes each with heads of 64.
const MOST_POSITIONS: usize = 1 << 17;

/// The keys of `config.json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    /// Number of token ids.
    pub(crate) vocab_size: usize,
    /// H, the width of a token's vector.
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    /// F, the width of each half of the gate.
    intermediate_size: usize,
    /// The longest sequence.
    pub(crate) max_position_embeddings: usize,
    #[serde(default = "config::gelu", deserialize_with = "config::activation")]
    hidden_activation: Activation,
    #[serde(default = "config::gelu", deserialize_with = "config::activation")]
    classifier_activation: Activation,
    #[serde(default)]
    classifier_pooling: ClassifierPooling,
    /// ε of every LayerNorm.
    #[serde(default = "norm_eps")]
    norm_eps: f32,
    #[serde(default)]
    norm_bias: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    /// Of the head's dense layer.
    #[serde(default)]
    classifier_bias: bool,
    #[serde(default)]
    embedding_dropout: f32,
    /// Dropout on attention probabilities and behind the attention.
    #[serde(default)]
    attention_dropout: f32,
    /// Dropout behind the gate.
    #[serde(default)]
    mlp_dropout: f32,
    /// Dropout before the classifier.
    #[serde(default)]
    classifier_dropout: f32,
    /// Width of the window: a token sees half of it on either side.
    #[serde(default = "local_attention")]
    local_attention: usize,
    /// The kind of each layer's attention; where absent, the next key counts.
    layer_types: Option<Vec<LayerType>>,
    /// Layers 0, n, 2n, … see everything.
    #[serde(default = "three")]
    global_attn_every_n_layers: usize,
    /// Base of the angles, by kind of layer; where absent, the next two keys count.
    #[serde(default)]
    rope_parameters: Option<RopeParameters>,
    #[serde(default = "global_rope_theta")]
    global_rope_theta: f64,
    #[serde(default = "local_rope_theta")]
    local_rope_theta: f64,
    #[serde(default)]
    rope_scaling: Value,
    /// Scale of new weights.
    #[serde(default = "config::initializer_range")]
    initializer_range: f32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ClassifierPooling {
    #[default]
    Cls,
    Mean,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    SlidingAttention,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RopeParameters {
    full_attention: Option<Rope>,
    sliding_attention: Option<Rope>,
}

#[derive(Clone, Debug, Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
}

fn norm_eps() -> f32 {
    1e-5
}
fn local_attention() -> usize {
    128
}
fn three() -> usize {
    3
}
fn global_rope_theta() -> f64 {
    160_000.0
}
fn local_rope_theta() -> f64 {
    10_000.0
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        config::check_sizes([
            ("vocab_size", self.vocab_size, config::LARGEST),
            ("hidden_size", self.hidden_size, config::WIDEST),
            ("num_hidden_layers", self.num_hidden_layers, config::DEEPEST),
            ("num_attention_heads", self.num_attention_heads, config::MOST_HEADS),
            ("intermediate_size", self.intermediate_size, config::WIDEST_INNER),
            ("max_position_embeddings", self.max_position_embeddings, MOST_POSITIONS),
            ("local_attention", self.local_attention, config::LARGEST),
            ("global_attn_every_n_layers", self.global_attn_every_n_layers, config::LARGEST),
        ])?;
        let heads = ("num_attention_heads", self.num_attention_heads);
        config::check_heads(("hidden_size", self.hidden_size), heads)?;
        let size = self.head_size();
        if !size.is_multiple_of(2) {
            let limit = format!("such that heads are of an even size, not of {size}");
            return config::out_of_range("hidden_size", self.hidden_size, &limit);
        }
        config::check_dropouts([
            ("embedding_dropout", self.embedding_dropout),
            ("attention_dropout", self.attention_dropout),
            ("mlp_dropout", self.mlp_dropout),
            ("classifier_dropout", self.classifier_dropout),
        ])?;
        if let Some(types) = self.layer_types.as_ref().filter(|t| t.len() != self.num_hidden_layers)
        {
            let (given, limit) = (types.len(), format!("one of {} layers", self.num_hidden_layers));
            return config::out_of_range("layer_types", format!("{given} long"), &limit);
        }
        if !self.rope_scaling.is_null() {
            return config::out_of_range("rope_scaling", &self.rope_scaling, "null");
        }
        for layer_type in [LayerType::FullAttention, LayerType::SlidingAttention] {
            if let Some(kind) = self.rope(layer_type).and_then(|rope| rope.rope_type.as_ref())
                && kind != "default"
            {
                let (value, limit) = (format!("of rope_type `{kind}`"), "of rope_type `default`");
                return config::out_of_range("rope_parameters", value, limit);
            }
            let theta = self.theta(layer_type);
            if !(theta.is_finite() && theta > 0.0) {
                return config::out_of_range("rope_theta", theta, "a positive number");
            }
        }
        Ok(())
    }

    fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    fn layer_type(&self, index: usize) -> LayerType {
        match &self.layer_types {
            Some(types) => types[index],
            None if index.is_multiple_of(self.global_attn_every_n_layers) => {
                LayerType::FullAttention
            }
            None => LayerType::SlidingAttention,
        }
    }

    fn rope(&self, layer_type: LayerType) -> Option<&Rope> {
        let parameters = self.rope_parameters.as_ref()?;
        match layer_type {
            LayerType::FullAttention => parameters.full_attention.as_ref(),
            LayerType::SlidingAttention => parameters.sliding_attention.as_ref(),
        }
    }

    /// Base of the angles.
    fn theta(&self, layer_type: LayerType) -> f64 {
        let theta = self.rope(layer_type).and_then(|rope| rope.rope_theta);
        theta.unwrap_or(match layer_type {
            LayerType::FullAttention => self.global_rope_theta,
            LayerType::SlidingAttention => self.local_rope_theta,
        })
    }

    fn pooling(&self) -> Pooling {
        match self.classifier_pooling {
            ClassifierPooling::Cls => Pooling::First,
            ClassifierPooling::Mean => Pooling::Mean,
        }
    }

    pub(crate) fn encoder<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
    ) -> Result<Encoder<B>, Error> {
        let norm_bias = Bias::of(self.norm_bias);
        let sizes = EmbeddingSizes {
            words: self.vocab_size,
            positions: None,
            token_types: None,
            width: self.hidden_size,
            first_position: 0,
            eps: self.norm_eps,
            norm_bias,
            dropout: self.embedding_dropout,
        };
        let embeddings = Embeddings::build(builder, &EMBEDDINGS, &sizes, None)?;
        let layers = self.layers(builder)?;
        let final_norm =
            builder.norm_with("model.final_norm", self.hidden_size, self.norm_eps, norm_bias)?;
        Ok(Encoder { embeddings, layers, final_norm: Some(final_norm), pooling: self.pooling() })
    }

    fn layers<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
    ) -> Result<Vec<EncoderLayer<B>>, Error> {
        let [full, sliding] = [LayerType::FullAttention, LayerType::SlidingAttention].map(|kind| {
            let (positions, size) = (self.max_position_embeddings, self.head_size());
            Angles::new(builder.backend, positions, size, self.theta(kind))
        });
        let sizes = PreNormSizes {
            hidden: self.hidden_size,
            inner: self.intermediate_size,
            eps: self.norm_eps,
            activation: self.hidden_activation,
            norm_bias: Bias::of(self.norm_bias),
            attention_bias: Bias::of(self.attention_bias),
            feed_forward_bias: Bias::of(self.mlp_bias),
            attention_dropout: self.attention_dropout,
            feed_forward_dropout: self.mlp_dropout,
        };
        let layer = |index| {
            let (angles, reach) = match self.layer_type(index) {
                LayerType::FullAttention => (full.clone(), None),
                LayerType::SlidingAttention => (sliding.clone(), Some(self.local_attention / 2)),
            };
            let attention = RotarySizes {
                hidden: self.hidden_size,
                heads: self.num_attention_heads,
                bias: Bias::of(self.attention_bias),
                angles,
                reach,
                rows: match self.pooling() {
                    Pooling::First => builder.rows_of_layer(index, self.num_hidden_layers),
                    Pooling::Mean => Rows::All,
                },
            };
            let prefix = format!("model.layers.{index}");
            // The embeddings are normalised.
            let normed = index == 0;
            let layer = PreNormLayer::build(builder, &prefix, &LAYER, &sizes, attention, normed)?;
            Ok(EncoderLayer::PreNorm(Box::new(layer)))
        };
        (0..self.num_hidden_layers).map(layer).collect()
    }

    pub(crate) fn head<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
        labels: usize,
    ) -> Result<Head<B>, Error> {
        let width = self.hidden_size;
        let layers = NormedHead {
            dense: builder.head_linear(HeadLinear {
                name: "head.dense",
                out: width,
                input: width,
                bias: Bias::of(self.classifier_bias),
                deviation: self.initializer_range / (2.0 * self.num_hidden_layers as f32).sqrt(),
                last: false,
            })?,
            activation: self.classifier_activation,
            norm: builder.head_norm("head.norm", width, self.norm_eps, Bias::of(self.norm_bias))?,
            dropout: self.classifier_dropout,
            projection: builder.head_linear(HeadLinear {
                name: "classifier",
                out: labels,
                input: width,
                bias: Bias::Yes,
                deviation: 1.0 / (width as f32).sqrt(),
                last: true,
            })?,
        };
        Ok(Head::normed(builder, layers))
    }
}

#[cfg(test)]
mod tests {
    use super::LayerType::{FullAttention as Full, SlidingAttention as Sliding};
    use super::{Config, LayerType};
    use serde::Deserialize;
    use serde_json::{Value, json};

    fn keys(more: Value) -> Value {
        let mut keys = json!({
            "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2,
            "intermediate_size": 4, "max_position_embeddings": 5,
        });
        let more = more.as_object().expect("keys").clone();
        keys.as_object_mut().expect("keys").extend(more);
        keys
    }

    /// The bases of the angles, full and sliding, the kinds of layers and the window, all as
    /// Transformers' `ModernBertConfig` reads the same keys.
    #[test]
    fn old_and_new_keys_mean_what_transformers_reads() {
        let every_third = [Full, Sliding, Sliding, Full];
        let cases: [(Value, [f64; 2], [LayerType; 4], usize); 5] = [
            (json!({}), [16e4, 1e4], every_third, 64),
            (
                json!({"global_rope_theta": 5e4, "local_rope_theta": 3e4,
                    "global_attn_every_n_layers": 2, "local_attention": 10}),
                [5e4, 3e4],
                [Full, Sliding, Full, Sliding],
                5,
            ),
            (
                json!({"rope_parameters": {
                        "full_attention": {"rope_type": "default", "rope_theta": 7e4},
                        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4}},
                    "layer_types": ["sliding_attention", "full_attention", "full_attention",
                        "sliding_attention"]}),
                [7e4, 2e4],
                [Sliding, Full, Full, Sliding],
                64,
            ),
            (
                json!({"rope_parameters": {"full_attention": {"rope_theta": 7e4}},
                    "local_rope_theta": 3e4, "global_rope_theta": 5e4}),
                [7e4, 3e4],
                every_third,
                64,
            ),
            (json!({"rope_theta": 123.0}), [16e4, 1e4], every_third, 64),
        ];
        for (more, thetas, types, window) in cases {
            let config = Config::deserialize(keys(more.clone())).expect("a configuration");
            config.check().expect("in range");
            assert_eq!([Full, Sliding].map(|kind| config.theta(kind)), thetas, "{more}");
            assert_eq!([0, 1, 2, 3].map(|index| config.layer_type(index)), types, "{more}");
            assert_eq!(config.local_attention / 2, window, "{more}");
        }
    }

    #[test]
    fn what_cannot_be_computed_is_refused() {
        for more in [
            json!({"hidden_size": 6}),
            json!({"layer_types": ["full_attention"]}),
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
            json!({"rope_parameters": {"sliding_attention": {"rope_type": "yarn"}}}),
            json!({"global_rope_theta": 0.0}),
            json!({"global_attn_every_n_layers": 0}),
            json!({"max_position_embeddings": 1 << 24}),
            json!({"mlp_dropout": 1.0}),
        ] {
            let config = Config::deserialize(keys(more.clone())).expect("a configuration");
            assert!(config.check().is_err(), "{more}");
        }
        for more in [
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}}),
            json!({"local_rope_theta": null}),
            json!({"layer_types": ["chunked_attention"]}),
            json!({"classifier_pooling": "max"}),
        ] {
            assert!(Config::deserialize(keys(more.clone())).is_err(), "{more}");
        }
    }
}
