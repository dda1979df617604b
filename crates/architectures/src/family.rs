//! The encoder families there are. A family is a file with its configuration's keys, its names and
//! how it composes the shared layers; here it is registered: a line in [`REGISTRY`] and, where its
//! configuration is its own, a variant of [`Architecture`].

use crate::Error;
use crate::backend::Backend;
use crate::builder::Builder;
use crate::config::OutOfRange;
use crate::encoder::Encoder;
use crate::head::Head;
use crate::{
    albert, bert, big_bird, deberta, deberta_v2, distilbert, electra, longformer, modernbert,
    mpnet, roberta,
};
use serde::Deserialize;
use serde_json::Value;

/// Names by which others know a family and its parts.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Transformers' class of the sequence classifier.
    pub classifier: &'static str,
    /// Transformers' class of the encoder alone, whose tensors' names lack the root.
    pub encoder: &'static str,
    /// Prefix of the encoder's names.
    pub root: &'static str,
    /// Modules of the head, as PEFT's `modules_to_save` names them.
    pub head: &'static [&'static str],
    /// The layers that give queries and values.
    pub query_value: &'static [&'static str],
}

type Read = fn(&Value) -> Result<Architecture, serde_json::Error>;

/// Every family, by model type.
const REGISTRY: [(&Family, Read); 13] = [
    (&albert::FAMILY, |keys| albert::Config::deserialize(keys).map(Architecture::Albert)),
    (&bert::FAMILY, |keys| bert::Config::deserialize(keys).map(Architecture::Bert)),
    (&big_bird::FAMILY, |keys| big_bird::Config::deserialize(keys).map(Architecture::BigBird)),
    (&roberta::CAMEMBERT, roberta),
    (&deberta::FAMILY, |keys| deberta::Config::deserialize(keys).map(Architecture::Deberta)),
    (&deberta_v2::FAMILY, |keys| {
        deberta_v2::Config::deserialize(keys).map(Architecture::DebertaV2)
    }),
    (&distilbert::FAMILY, |keys| {
        distilbert::Config::deserialize(keys).map(Architecture::DistilBert)
    }),
    (&electra::FAMILY, |keys| electra::Config::deserialize(keys).map(Architecture::Electra)),
    (&longformer::FAMILY, |keys| {
        longformer::Config::deserialize(keys).map(Architecture::Longformer)
    }),
    (&modernbert::FAMILY, |keys| {
        modernbert::Config::deserialize(keys).map(Architecture::ModernBert)
    }),
    (&mpnet::FAMILY, |keys| mpnet::Config::deserialize(keys).map(Architecture::MpNet)),
    (&roberta::FAMILY, roberta),
    (&roberta::XLM_ROBERTA, roberta),
];

fn roberta(keys: &Value) -> Result<Architecture, serde_json::Error> {
    roberta::Config::deserialize(keys).map(Architecture::Roberta)
}

/// The family of this model type, and how its configuration is read.
pub(crate) fn named(model_type: &str) -> Option<(&'static Family, Read)> {
    REGISTRY.into_iter().find(|(family, _)| family.model_type == model_type)
}

/// The model types there are.
pub(crate) fn names() -> String {
    REGISTRY.map(|(family, _)| family.model_type).join(", ")
}

/// A network's shape and constants, in the words of its family.
#[derive(Clone, Debug)]
pub(crate) enum Architecture {
    Albert(albert::Config),
    Bert(bert::Config),
    BigBird(big_bird::Config),
    Deberta(deberta::Config),
    DebertaV2(deberta_v2::Config),
    DistilBert(distilbert::Config),
    Electra(electra::Config),
    Longformer(longformer::Config),
    ModernBert(modernbert::Config),
    MpNet(mpnet::Config),
    Roberta(roberta::Config),
}

impl Architecture {
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        match self {
            Architecture::Albert(config) => config.check(),
            Architecture::Bert(config) => config.check(),
            Architecture::BigBird(config) => config.check(),
            Architecture::Deberta(config) => config.check(),
            Architecture::DebertaV2(config) => config.check(),
            Architecture::DistilBert(config) => config.check(),
            Architecture::Electra(config) => config.check(),
            Architecture::Longformer(config) => config.check(),
            Architecture::ModernBert(config) => config.check(),
            Architecture::MpNet(config) => config.check(),
            Architecture::Roberta(config) => config.check(),
        }
    }

    pub(crate) fn vocab_size(&self) -> usize {
        match self {
            Architecture::Albert(config) => config.vocab_size,
            Architecture::Bert(config) => config.vocab_size,
            Architecture::BigBird(config) => config.bert.vocab_size,
            Architecture::Deberta(config) => config.vocab_size,
            Architecture::DebertaV2(config) => config.deberta.vocab_size,
            Architecture::DistilBert(config) => config.vocab_size,
            Architecture::Electra(config) => config.bert.vocab_size,
            Architecture::Longformer(config) => config.bert.vocab_size,
            Architecture::ModernBert(config) => config.vocab_size,
            Architecture::MpNet(config) => config.bert.vocab_size,
            Architecture::Roberta(config) => config.bert.vocab_size,
        }
    }

    pub(crate) fn max_length(&self) -> usize {
        match self {
            Architecture::Albert(config) => config.max_position_embeddings,
            Architecture::Bert(config) => config.max_position_embeddings,
            Architecture::BigBird(config) => config.max_length(),
            Architecture::Deberta(config) => config.max_position_embeddings,
            Architecture::DebertaV2(config) => config.deberta.max_position_embeddings,
            Architecture::DistilBert(config) => config.max_position_embeddings,
            Architecture::Electra(config) => config.bert.max_position_embeddings,
            Architecture::Longformer(config) => config.max_length(),
            Architecture::ModernBert(config) => config.max_position_embeddings,
            Architecture::MpNet(config) => config.max_length(),
            Architecture::Roberta(config) => config.max_length(),
        }
    }

    pub(crate) fn encoder<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
    ) -> Result<Encoder<B>, Error> {
        match self {
            Architecture::Albert(config) => config.encoder(builder),
            Architecture::Bert(config) => config.encoder(builder, 0),
            Architecture::BigBird(config) => config.encoder(builder),
            Architecture::Deberta(config) => config.encoder(builder),
            Architecture::DebertaV2(config) => config.encoder(builder),
            Architecture::DistilBert(config) => config.encoder(builder),
            Architecture::Electra(config) => config.encoder(builder),
            Architecture::Longformer(config) => config.encoder(builder),
            Architecture::ModernBert(config) => config.encoder(builder),
            Architecture::MpNet(config) => config.encoder(builder),
            Architecture::Roberta(config) => config.encoder(builder),
        }
    }

    pub(crate) fn head<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
        labels: usize,
    ) -> Result<Head<B>, Error> {
        match self {
            Architecture::Albert(config) => config.head(builder, labels),
            Architecture::Bert(config) => config.head(builder, labels),
            Architecture::BigBird(config) => config.head(builder, labels),
            Architecture::Deberta(config) => config.head(builder, labels),
            Architecture::DebertaV2(config) => config.head(builder, labels),
            Architecture::DistilBert(config) => config.head(builder, labels),
            Architecture::Electra(config) => config.head(builder, labels),
            Architecture::Longformer(config) => config.head(builder, labels),
            Architecture::ModernBert(config) => config.head(builder, labels),
            Architecture::MpNet(config) => config.head(builder, labels),
            Architecture::Roberta(config) => config.head(builder, labels),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::REGISTRY;

    #[test]
    fn model_types_are_sorted_and_unlike() {
        assert!(REGISTRY.is_sorted_by(|(a, _), (b, _)| a.model_type < b.model_type));
    }
}
