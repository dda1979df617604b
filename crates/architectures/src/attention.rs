//! Self-attention of a layer, in the kinds that families have: from the layer's input to what its
//! heads gathered, before the output's product. Forward and backward read as one.

use crate::Error;
use crate::backend::{AttentionSaved, AttentionShape, Backend, RelativeBias, Shape};
use crate::builder::Builder;
use crate::linear::{InputGradient, Linear, LinearSaved};
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass};
use crate::position::PositionBias;
use kernels::Dropout;

/// Which tokens a layer computes its result for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    All,
    /// The first token of each sequence.
    First,
}

impl Rows {
    /// The head reads first tokens alone.
    pub(crate) fn of_layer(index: usize, layers: usize) -> Rows {
        if index + 1 == layers { Rows::First } else { Rows::All }
    }
}

/// A layer's input: all tokens [T, H], and those that the layer computes its result for [Q, H].
#[derive(Debug)]
pub(crate) struct Inputs<'a, M> {
    pub(crate) x: &'a M,
    pub(crate) rows: &'a M,
}

/// The kinds of attention.
#[derive(Debug)]
pub(crate) enum SelfAttention<B: Backend> {
    /// Every token sees all tokens of its sequence.
    Full(FullAttention<B>),
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) enum SelfAttentionSaved<B: Backend> {
    Full(FullAttentionSaved<B>),
}

impl<B: Backend> SelfAttentionSaved<B> {
    /// What the heads gathered [Q, H].
    pub(crate) fn context(&self) -> &B::Matrix {
        match self {
            SelfAttentionSaved::Full(saved) => &saved.attention.out,
        }
    }
}

impl<B: Backend> SelfAttention<B> {
    /// Whether anything here is trained.
    pub(crate) fn is_trained(&self) -> bool {
        match self {
            SelfAttention::Full(attention) => attention.is_trained(),
        }
    }

    /// `dropout` is that of the probabilities.
    pub(crate) fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        inputs: Inputs<'_, B::Matrix>,
        dropout: Option<Dropout>,
    ) -> SelfAttentionSaved<B> {
        match self {
            SelfAttention::Full(attention) => SelfAttentionSaved::Full(
                attention.forward(backend, parameters, pass, batch, inputs, dropout),
            ),
        }
    }

    /// From the gradient of the context [Q, H] to that of `x` [T, H], unless nothing below is
    /// trained. `drows` [Q, H] is the gradient of the rows by other ways.
    #[expect(clippy::too_many_arguments, reason = "forward's arguments, and where gradients go")]
    pub(crate) fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        inputs: Inputs<'_, B::Matrix>,
        dropout: Option<Dropout>,
        saved: SelfAttentionSaved<B>,
        dcontext: B::Matrix,
        drows: B::Matrix,
        needs_dx: bool,
    ) -> Option<B::Matrix> {
        match (self, saved) {
            (SelfAttention::Full(attention), SelfAttentionSaved::Full(saved)) => attention
                .backward(
                    backend, parameters, pass, batch, inputs, dropout, saved, dcontext, drows,
                    needs_dx,
                ),
        }
    }
}

/// Softmax attention of every token to all tokens of its sequence (Vaswani et al. 2017), with or
/// without a bias of the scores.
#[derive(Debug)]
pub(crate) struct FullAttention<B: Backend> {
    query: Linear<B>,
    key: Linear<B>,
    value: Linear<B>,
    position_bias: Option<PositionBias<B>>,
    heads: usize,
    rows: Rows,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct FullAttentionSaved<B: Backend> {
    attention: AttentionSaved<B::Matrix>,
    linears: [LinearSaved<B>; 3],
}

impl<B: Backend> FullAttention<B> {
    /// Queries, keys and values of these names, H wide.
    pub(crate) fn build(
        builder: &mut Builder<'_, B>,
        [query, key, value]: [String; 3],
        hidden: usize,
        heads: usize,
        rows: Rows,
    ) -> Result<FullAttention<B>, Error> {
        Ok(FullAttention {
            query: builder.linear(&query, hidden, hidden, rows == Rows::First)?,
            key: builder.linear(&key, hidden, hidden, false)?,
            value: builder.linear(&value, hidden, hidden, false)?,
            position_bias: None,
            heads,
            rows,
        })
    }

    pub(crate) fn with_position_bias(self, bias: PositionBias<B>) -> FullAttention<B> {
        FullAttention { position_bias: Some(bias), ..self }
    }

    fn is_trained(&self) -> bool {
        [&self.query, &self.key, &self.value].into_iter().any(Linear::needs_input)
    }

    /// `table` is the position bias's.
    fn shape<'a>(
        &'a self,
        batch: &'a Batch<B>,
        table: Option<&'a B::Matrix>,
        dropout: Option<Dropout>,
    ) -> AttentionShape<'a, B::Matrix, B::Indices> {
        let cu_q = match self.rows {
            Rows::All => &batch.cu_seqlens,
            Rows::First => &batch.cu_first,
        };
        let buckets = self.position_bias.as_ref().map(|bias| &bias.buckets);
        AttentionShape {
            cu_q,
            cu_kv: &batch.cu_seqlens,
            heads: self.heads,
            bias: table.zip(buckets).map(|(table, buckets)| RelativeBias { table, buckets }),
            window: None,
            dropout,
        }
    }

    fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        Inputs { x, rows }: Inputs<'_, B::Matrix>,
        dropout: Option<Dropout>,
    ) -> FullAttentionSaved<B> {
        let (q, saved_q) = self.query.forward(backend, parameters, pass, rows); // [Q, H]
        let (k, saved_k) = self.key.forward(backend, parameters, pass, x); // [T, H]
        let (v, saved_v) = self.value.forward(backend, parameters, pass, x); // [T, H]
        let table = self.position_bias.as_ref().map(|bias| bias.table.value(parameters));
        let attention = backend.attention(self.shape(batch, table, dropout), q, k, v);
        FullAttentionSaved { attention, linears: [saved_q, saved_k, saved_v] }
    }

    #[expect(clippy::too_many_arguments, reason = "forward's arguments, and where gradients go")]
    fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        Inputs { x, rows }: Inputs<'_, B::Matrix>,
        dropout: Option<Dropout>,
        saved: FullAttentionSaved<B>,
        dcontext: B::Matrix,
        mut drows: B::Matrix,
        needs_dx: bool,
    ) -> Option<B::Matrix> {
        let FullAttentionSaved { attention, linears: [saved_q, saved_k, saved_v] } = saved;
        let bias = self.position_bias.as_ref();
        let (table, dtable) = bias.map(|bias| bias.table.value_and_gradient(parameters)).unzip();
        let shape = self.shape(batch, table, dropout);
        let [dq, dk, dv] =
            backend.attention_backward(shape, &attention, &dcontext, dtable.flatten());
        drop(dcontext);

        let to_rows = needs_dx.then(|| InputGradient::added_to(&mut drows));
        self.query.backward(backend, parameters, pass, Some(rows), &saved_q, &dq, to_rows);
        let mut dx = match self.rows {
            Rows::All => drows,
            Rows::First if !needs_dx => drows,
            Rows::First => {
                let mut dx = backend.zeros(x.rows(), x.columns()); // [T, H]
                backend.scatter_add_rows(&mut dx, &batch.first_tokens, &drows);
                dx
            }
        };
        let to_dx = needs_dx.then(|| InputGradient::added_to(&mut dx));
        self.key.backward(backend, parameters, pass, Some(x), &saved_k, &dk, to_dx);
        let to_dx = needs_dx.then(|| InputGradient::added_to(&mut dx));
        self.value.backward(backend, parameters, pass, Some(x), &saved_v, &dv, to_dx);
        needs_dx.then_some(dx)
    }
}
