//! BERT (Devlin et al. 2018) for sequence classification, as `BertForSequenceClassification`:
//! pooler on the first token, positions from 0.

use crate::Error;
use crate::backend::Backend;
use crate::builder::Builder;
use crate::embeddings::Embeddings;
use crate::head::Head;
use crate::layer::{Layer, Rows};

/// Prefix of the encoder's names.
pub(crate) const ROOT: &str = "bert";

/// Modules of the head, as PEFT's `modules_to_save` names them.
pub(crate) const HEAD: &[&str] = &["classifier", "pooler"];

pub(crate) fn head<B: Backend>(
    builder: &mut Builder<'_, B>,
    labels: usize,
) -> Result<Head<B>, Error> {
    let hidden = builder.config.hidden_size;
    Ok(Head {
        dense: builder.head_linear("bert.pooler.dense", hidden, hidden, false)?,
        projection: builder.head_linear("classifier", labels, hidden, true)?,
        input_dropout: 0.0,
        dropout: builder.config.classifier_dropout(),
        sites: [builder.site(true), builder.site(true)],
    })
}

/// Embeddings of BERT and its descendants; position 0 takes row `first_position`.
pub(crate) fn embeddings<B: Backend>(
    builder: &mut Builder<'_, B>,
    first_position: u32,
) -> Result<Embeddings<B>, Error> {
    let config = builder.config;
    let (root, hidden) = (builder.root, config.hidden_size);
    let name = |part: &str| format!("{root}.embeddings.{part}");
    let word = name("word_embeddings.weight");
    let position = name("position_embeddings.weight");
    let token_type = name("token_type_embeddings.weight");
    Ok(Embeddings {
        word: builder.tensor(&word, &[config.vocab_size, hidden])?,
        position: builder.tensor(&position, &[config.max_position_embeddings, hidden])?,
        token_type: builder.tensor(&token_type, &[config.type_vocab_size, hidden])?,
        first_position,
        norm: builder.norm(&name("LayerNorm"))?,
        dropout: config.hidden_dropout_prob,
        site: builder.site(false),
        hidden_size: hidden,
    })
}

/// The layers of BERT and its descendants.
pub(crate) fn layers<B: Backend>(builder: &mut Builder<'_, B>) -> Result<Vec<Layer<B>>, Error> {
    let config = builder.config;
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    (0..config.num_hidden_layers)
        .map(|index| {
            let last = index + 1 == config.num_hidden_layers;
            let root = builder.root;
            let name = |part: &str| format!("{root}.encoder.layer.{index}.{part}");
            Ok(Layer {
                query: builder.linear(&name("attention.self.query"), hidden, hidden, last)?,
                key: builder.linear(&name("attention.self.key"), hidden, hidden, false)?,
                value: builder.linear(&name("attention.self.value"), hidden, hidden, false)?,
                attention_output: builder.linear(
                    &name("attention.output.dense"),
                    hidden,
                    hidden,
                    last,
                )?,
                attention_norm: builder.norm(&name("attention.output.LayerNorm"))?,
                intermediate: builder.linear(&name("intermediate.dense"), inner, hidden, last)?,
                output: builder.linear(&name("output.dense"), hidden, inner, last)?,
                output_norm: builder.norm(&name("output.LayerNorm"))?,
                heads: config.num_attention_heads,
                rows: if last { Rows::First } else { Rows::All },
                attention_dropout: config.attention_probs_dropout_prob,
                hidden_dropout: config.hidden_dropout_prob,
                sites: [builder.site(last), builder.site(last), builder.site(last)],
            })
        })
        .collect()
}
