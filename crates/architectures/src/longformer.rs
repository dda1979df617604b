//! Longformer (Beltagy et al. 2020) for sequence classification, as
//! `LongformerForSequenceClassification` without a `global_attention_mask`: RoBERTa whose tokens see
//! those within a window and the first one, which sees all.
//!
//! Transformers pads a sequence to a multiple of the window and masks the padding, which changes no
//! result. In the last layer only the first token is computed, and so only its own attention; the
//! layers of the local attention are there, as in Transformers, and get no gradient.

use crate::Error;
use crate::attention::{FullAttention, Projections, Rows, SelfAttention};
use crate::backend::Backend;
use crate::bert;
use crate::builder::{Bias, Builder};
use crate::config::{self, OutOfRange};
use crate::embeddings::{EmbeddingNames, Embeddings};
use crate::encoder::Encoder;
use crate::family::Family;
use crate::head::{Head, HeadLayers};
use crate::layer::Layer;
use crate::windowed::WindowedAttention;
use kernels::Activation;
use serde::Deserialize;

pub(crate) const FAMILY: Family = Family {
    model_type: "longformer",
    classifier: "LongformerForSequenceClassification",
    encoder: "LongformerModel",
    root: "longformer",
    head: &["classifier"],
    query_value: &["query", "value"],
};

/// BERT's keys, where positions start, and the windows.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    pub(crate) bert: bert::Config,
    /// Token id of padding; 1 where absent.
    pad_token_id: Option<u32>,
    /// Twice the farthest distance at which a token is seen.
    #[serde(default)]
    attention_window: AttentionWindow,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum AttentionWindow {
    /// Of every layer.
    One(usize),
    /// Of each layer.
    Each(Vec<usize>),
}

impl Default for AttentionWindow {
    fn default() -> Self {
        AttentionWindow::One(512)
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        self.bert.check()?;
        let layers = self.bert.num_hidden_layers;
        let windows = match &self.attention_window {
            AttentionWindow::One(window) => std::slice::from_ref(window),
            AttentionWindow::Each(windows) if windows.len() == layers => &windows[..],
            AttentionWindow::Each(windows) => {
                let found = format!("a list of {}", windows.len());
                let limit = format!("one number, or one for each of {layers} layers");
                return config::out_of_range("attention_window", found, &limit);
            }
        };
        let fits =
            |window: usize| window > 0 && window.is_multiple_of(2) && window <= config::LARGEST;
        match windows.iter().find(|&&window| !fits(window)) {
            Some(window) => {
                let limit = format!("even and in 2..={}", config::LARGEST);
                config::out_of_range("attention_window", window, &limit)
            }
            None => Ok(()),
        }
    }

    /// Row of the position table that a sequence's first token takes.
    fn first_position(&self) -> u32 {
        self.pad_token_id.unwrap_or(1).saturating_add(1)
    }

    pub(crate) fn max_length(&self) -> usize {
        self.bert.max_position_embeddings.saturating_sub(self.first_position() as usize)
    }

    fn window(&self, layer: usize) -> usize {
        match &self.attention_window {
            AttentionWindow::One(window) => *window,
            AttentionWindow::Each(windows) => windows[layer],
        }
    }

    pub(crate) fn encoder<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
    ) -> Result<Encoder<B>, Error> {
        let bert = &self.bert;
        let sizes = bert.embedding_sizes(bert.hidden_size, self.first_position());
        let embeddings = Embeddings::build(builder, &EmbeddingNames::BERT, &sizes, None)?;
        let sizes = bert.layer_sizes();
        let layer = |index| {
            let prefix = format!("longformer.encoder.layer.{index}");
            let rows = builder.rows_of_layer(index, bert.num_hidden_layers);
            let local = bert::LAYER.projections(&prefix);
            let global = local.each_ref().map(|name| format!("{name}_global"));
            let attention = match rows {
                Rows::All => SelfAttention::Windowed(WindowedAttention::build(
                    builder,
                    [local, global],
                    sizes.hidden,
                    sizes.heads,
                    self.window(index) / 2,
                    sizes.attention_dropout,
                )?),
                Rows::First => {
                    // To be trained, saved and counted as in the other layers.
                    Projections::build(builder, local, sizes.hidden, Rows::All, Bias::Yes)?;
                    SelfAttention::Full(FullAttention::build(
                        builder,
                        global,
                        sizes.hidden,
                        sizes.heads,
                        rows,
                        Bias::Yes,
                    )?)
                }
            };
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

#[cfg(test)]
mod tests {
    use crate::Config;
    use std::path::Path;

    fn parse(window: &str) -> Result<Config, String> {
        let text = format!(
            r#"{{"model_type": "longformer", "vocab_size": 9, "hidden_size": 8,
                "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 4,
                "max_position_embeddings": 4098, "pad_token_id": 1 {window}}}"#
        );
        Config::parse(Path::new("config.json"), &text).map_err(|error| error.to_string())
    }

    #[test]
    fn windows_are_one_number_or_one_for_each_layer() {
        for window in ["", r#", "attention_window": 512"#, r#", "attention_window": [64, 8]"#] {
            assert_eq!(parse(window).map(|config| config.max_length()), Ok(4096));
        }
        for (window, expected) in [
            ("7", "attention_window is 7, but must be even"),
            ("0", "attention_window is 0, but must be even"),
            (
                "[8]",
                "attention_window is a list of 1, but must be one number, or one for each of 2",
            ),
            ("[8, 9]", "attention_window is 9, but must be even"),
            ("18446744073709551614", "attention_window is 18446744073709551614"),
            ("\"wide\"", "AttentionWindow"),
        ] {
            let error = parse(&format!(r#", "attention_window": {window}"#)).expect_err(window);
            assert!(error.contains(expected), "{error}");
        }
    }
}
