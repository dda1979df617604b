//! RoBERTa (Liu et al. 2019) for sequence classification, as `RobertaForSequenceClassification`:
//! BERT's encoder with positions that start behind the padding id, and a head of its own.
//! XLM-RoBERTa (Conneau et al. 2019) and CamemBERT (Martin et al. 2019) are the same network.

use crate::Error;
use crate::backend::Backend;
use crate::bert;
use crate::builder::Builder;
use crate::config::{OutOfRange, out_of_range};
use crate::encoder::Encoder;
use crate::family::Family;
use crate::head::{Head, HeadLayers};
use kernels::Activation;
use serde::Deserialize;

pub(crate) const FAMILY: Family = Family {
    model_type: "roberta",
    classifier: "RobertaForSequenceClassification",
    encoder: "RobertaModel",
    root: "roberta",
    head: &["classifier"],
    query_value: &["query", "value"],
};

pub(crate) const XLM_ROBERTA: Family = Family {
    model_type: "xlm-roberta",
    classifier: "XLMRobertaForSequenceClassification",
    encoder: "XLMRobertaModel",
    ..FAMILY
};

pub(crate) const CAMEMBERT: Family = Family {
    model_type: "camembert",
    classifier: "CamembertForSequenceClassification",
    encoder: "CamembertModel",
    ..FAMILY
};

/// BERT's keys, and where positions start.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    pub(crate) bert: bert::Config,
    /// Token id of padding; 1 where absent.
    pub(crate) pad_token_id: Option<u32>,
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        self.bert.check()?;
        if self.max_length() == 0 {
            let limit = format!(
                "must leave positions behind it: max_position_embeddings is {}",
                self.bert.max_position_embeddings
            );
            return out_of_range("pad_token_id", self.first_position() - 1, &limit);
        }
        Ok(())
    }

    /// Row of the position table that a sequence's first token takes.
    fn first_position(&self) -> u32 {
        self.pad_token_id.unwrap_or(1).saturating_add(1)
    }

    pub(crate) fn max_length(&self) -> usize {
        self.bert.max_position_embeddings.saturating_sub(self.first_position() as usize)
    }

    pub(crate) fn encoder<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
    ) -> Result<Encoder<B>, Error> {
        self.bert.encoder(builder, self.first_position())
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
            activation: Activation::Tanh,
            input_dropout: dropout,
            dropout,
            initializer_range: self.bert.initializer_range,
        };
        Head::build(builder, layers, labels)
    }
}
