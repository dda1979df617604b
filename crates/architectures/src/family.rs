//! The encoder families there are. A family is a file with its configuration's keys, its names and
//! how it composes the shared layers; here it is registered: a line in [`REGISTRY`] and, where its
//! configuration is its own, a variant of [`Architecture`].

use crate::Error;
use crate::backend::Backend;
use crate::builder::Builder;
use crate::config::OutOfRange;
use crate::encoder::Encoder;
use crate::head::Head;
use crate::{bert, roberta};
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
const REGISTRY: [(&Family, Read); 2] = [
    (&bert::FAMILY, |keys| bert::Config::deserialize(keys).map(Architecture::Bert)),
    (&roberta::FAMILY, |keys| roberta::Config::deserialize(keys).map(Architecture::Roberta)),
];

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
    Bert(bert::Config),
    Roberta(roberta::Config),
}

impl Architecture {
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        match self {
            Architecture::Bert(config) => config.check(),
            Architecture::Roberta(config) => config.check(),
        }
    }

    pub(crate) fn vocab_size(&self) -> usize {
        match self {
            Architecture::Bert(config) => config.vocab_size,
            Architecture::Roberta(config) => config.bert.vocab_size,
        }
    }

    pub(crate) fn max_length(&self) -> usize {
        match self {
            Architecture::Bert(config) => config.max_position_embeddings,
            Architecture::Roberta(config) => config.max_length(),
        }
    }

    pub(crate) fn encoder<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
    ) -> Result<Encoder<B>, Error> {
        match self {
            Architecture::Bert(config) => config.encoder(builder, 0),
            Architecture::Roberta(config) => config.encoder(builder),
        }
    }

    pub(crate) fn head<B: Backend>(
        &self,
        builder: &mut Builder<'_, B>,
        labels: usize,
    ) -> Result<Head<B>, Error> {
        match self {
            Architecture::Bert(config) => config.head(builder, labels),
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
