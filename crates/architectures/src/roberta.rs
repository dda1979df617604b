//! RoBERTa (Liu et al. 2019) for sequence classification, as `RobertaForSequenceClassification`:
//! BERT's encoder with positions that start behind the padding id, and a head of its own.

use crate::Error;
use crate::backend::Backend;
use crate::builder::Builder;
use crate::config::Config;
use crate::head::Head;

/// Prefix of the encoder's names.
pub(crate) const ROOT: &str = "roberta";

/// Modules of the head, as PEFT's `modules_to_save` names them.
pub(crate) const HEAD: &[&str] = &["classifier"];

/// Row of the position table that a sequence's first token takes.
pub(crate) fn first_position(config: &Config) -> u32 {
    config.pad_token_id.unwrap_or(1) + 1
}

pub(crate) fn head<B: Backend>(
    builder: &mut Builder<'_, B>,
    labels: usize,
) -> Result<Head<B>, Error> {
    let hidden = builder.config.hidden_size;
    let dropout = builder.config.classifier_dropout();
    Ok(Head {
        dense: builder.head_linear("classifier.dense", hidden, hidden, false)?,
        projection: builder.head_linear("classifier.out_proj", labels, hidden, true)?,
        input_dropout: dropout,
        dropout,
        sites: [builder.site(true), builder.site(true)],
    })
}
