//! ELECTRA (Clark et al. 2020) for sequence classification, as `ElectraForSequenceClassification`:
//! BERT's encoder on embeddings that may be narrower than it; its head has a GELU.

use crate::Error;
use crate::backend::Backend;
use crate::bert;
use crate::builder::Builder;
use crate::config::{self, OutOfRange};
use crate::embeddings::{EmbeddingNames, Embeddings};
use crate::encoder::Encoder;
use crate::family::Family;
use crate::head::{Head, HeadLayers};
use kernels::Activation;
use serde::Deserialize;

pub(crate) const FAMILY: Family = Family {
    model_type: "electra",
    classifier: "ElectraForSequenceClassification",
    encoder: "ElectraModel",
    root: "electra",
    head: &["classifier"],
    query_value: &["query", "value"],
};

/// BERT's keys, and the width of the embeddings.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    pub(crate) bert: bert::Config,
    /// E, the width of all embedding tables.
    #[serde(default = "small")]
    embedding_size: usize,
}

fn small() -> usize {
    128
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        config::check_sizes([("embedding_size", self.embedding_size, config::WIDEST)])?;
        self.bert.check()
    }

    pub(crate) fn encoder<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
    ) -> Result<Encoder<B>, Error> {
        let hidden = self.bert.hidden_size;
        let projection = (self.embedding_size != hidden).then_some(("embeddings_project", hidden));
        let sizes = self.bert.embedding_sizes(self.embedding_size, 0);
        let embeddings = Embeddings::build(builder, &EmbeddingNames::BERT, &sizes, projection)?;
        Ok(Encoder::post_norm(embeddings, self.bert.layers(builder)?))
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
            activation: Activation::Gelu,
            input_dropout: dropout,
            dropout,
            initializer_range: self.bert.initializer_range,
        };
        Head::build(builder, layers, labels)
    }
}
