//! Self-attention of a layer, in the kinds that families have: from the layer's input to what its
//! heads gathered, before the output's product. Forward and backward read as one.

use crate::Error;
use crate::backend::{AttentionSaved, AttentionShape, Backend, Pattern, RelativeBias};
use crate::builder::{Bias, Builder};
use crate::disentangled::{DisentangledAttention, DisentangledAttentionSaved};
use crate::linear::{InputGradient, Linear, LinearSaved};
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass};
use crate::position::PositionBias;
use crate::random_blocks::RandomBlocks;
use crate::windowed::{WindowedAttention, WindowedAttentionSaved};
use kernels::Dropout;

/// Which tokens a layer computes its result for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    All,
    /// The first token of each sequence.
    First,
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
    /// Every token sees all tokens of its sequence, or those of some blocks.
    Full(FullAttention<B>),
    /// Every token sees those near it and the first; the first sees all in a way of its own.
    Windowed(WindowedAttention<B>),
    /// Every token sees all tokens of its sequence, and their positions relative to its own.
    Disentangled(DisentangledAttention<B>),
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) enum SelfAttentionSaved<B: Backend> {
    Full(FullAttentionSaved<B>),
    Windowed(WindowedAttentionSaved<B>),
    Disentangled(DisentangledAttentionSaved<B>),
}

impl<B: Backend> SelfAttentionSaved<B> {
    /// What the heads gathered [Q, H].
    pub(crate) fn context(&self) -> &B::Matrix {
        match self {
            SelfAttentionSaved::Full(saved) => &saved.attention.out,
            SelfAttentionSaved::Windowed(saved) => saved.context(),
            SelfAttentionSaved::Disentangled(saved) => saved.context(),
        }
    }
}

impl<B: Backend> SelfAttention<B> {
    /// Whether anything here is trained.
    pub(crate) fn is_trained(&self) -> bool {
        match self {
            SelfAttention::Full(attention) => attention.projections.is_trained(),
            SelfAttention::Windowed(attention) => attention.is_trained(),
            SelfAttention::Disentangled(attention) => attention.is_trained(),
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
            SelfAttention::Windowed(attention) => SelfAttentionSaved::Windowed(
                attention.forward(backend, parameters, pass, batch, inputs.x, dropout),
            ),
            SelfAttention::Disentangled(attention) => SelfAttentionSaved::Disentangled(
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
            (SelfAttention::Windowed(attention), SelfAttentionSaved::Windowed(saved)) => attention
                .backward(
                    backend, parameters, pass, batch, inputs.x, dropout, saved, dcontext, drows,
                    needs_dx,
                ),
            (SelfAttention::Disentangled(attention), SelfAttentionSaved::Disentangled(saved)) => {
                attention.backward(
                    backend, parameters, pass, batch, inputs, dropout, saved, dcontext, drows,
                    needs_dx,
                )
            }
            _ => unreachable!("forward leaves what its own kind of attention reads"),
        }
    }
}

/// The layers that give queries, keys and values.
#[derive(Debug)]
pub(crate) struct Projections<B: Backend> {
    query: Linear<B>,
    key: Linear<B>,
    value: Linear<B>,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct ProjectionsSaved<B: Backend> {
    query: LinearSaved<B>,
    key: LinearSaved<B>,
    value: LinearSaved<B>,
}

impl<B: Backend> Projections<B> {
    /// Layers of these names, H wide; `rows` are those that queries are of.
    pub(crate) fn build(
        builder: &mut Builder<'_, B>,
        [query, key, value]: [String; 3],
        hidden: usize,
        rows: Rows,
        bias: Bias,
    ) -> Result<Projections<B>, Error> {
        let first = rows == Rows::First;
        Ok(Projections {
            query: builder.linear_with(&query, hidden, hidden, first, bias)?,
            key: builder.linear_with(&key, hidden, hidden, false, bias)?,
            value: builder.linear_with(&value, hidden, hidden, false, bias)?,
        })
    }

    pub(crate) fn is_trained(&self) -> bool {
        [&self.query, &self.key, &self.value].into_iter().any(Linear::needs_input)
    }

    /// → queries [Q, H], keys and values [T, H]
    pub(crate) fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        Inputs { x, rows }: Inputs<'_, B::Matrix>,
    ) -> ([B::Matrix; 3], ProjectionsSaved<B>) {
        let (q, query) = self.query.forward(backend, parameters, pass, rows);
        let (k, key) = self.key.forward(backend, parameters, pass, x);
        let (v, value) = self.value.forward(backend, parameters, pass, x);
        ([q, k, v], ProjectionsSaved { query, key, value })
    }

    /// Adds the gradient by way of the queries to that of the rows [Q, H], where it is wanted.
    #[expect(clippy::too_many_arguments, reason = "forward's arguments, and where gradients go")]
    pub(crate) fn queries_backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        rows: &B::Matrix,
        saved: &ProjectionsSaved<B>,
        dq: &B::Matrix,
        drows: Option<&mut B::Matrix>,
    ) {
        let to_rows = drows.map(InputGradient::added_to);
        self.query.backward(backend, parameters, pass, Some(rows), &saved.query, dq, to_rows);
    }

    /// Adds the gradient by way of keys and values to that of `x` [T, H], where it is wanted.
    #[expect(clippy::too_many_arguments, reason = "forward's arguments, and where gradients go")]
    pub(crate) fn keys_backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        x: &B::Matrix,
        saved: &ProjectionsSaved<B>,
        [dk, dv]: [&B::Matrix; 2],
        mut dx: Option<&mut B::Matrix>,
    ) {
        let to_dx = dx.as_deref_mut().map(InputGradient::added_to);
        self.key.backward(backend, parameters, pass, Some(x), &saved.key, dk, to_dx);
        let to_dx = dx.map(InputGradient::added_to);
        self.value.backward(backend, parameters, pass, Some(x), &saved.value, dv, to_dx);
    }
}

/// Softmax attention of every token to all tokens of its sequence (Vaswani et al. 2017), with or
/// without a bias of the scores; or, in long sequences, to those of some blocks.
#[derive(Debug)]
pub(crate) struct FullAttention<B: Backend> {
    projections: Projections<B>,
    position_bias: Option<PositionBias<B>>,
    /// Where long sequences are cut into blocks.
    blocks: Option<RandomBlocks<B>>,
    heads: usize,
    rows: Rows,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct FullAttentionSaved<B: Backend> {
    attention: AttentionSaved<B::Matrix>,
    projections: ProjectionsSaved<B>,
}

impl<B: Backend> FullAttention<B> {
    /// Queries, keys and values of these names, H wide.
    pub(crate) fn build(
        builder: &mut Builder<'_, B>,
        projections: [String; 3],
        hidden: usize,
        heads: usize,
        rows: Rows,
        bias: Bias,
    ) -> Result<FullAttention<B>, Error> {
        Ok(FullAttention {
            projections: Projections::build(builder, projections, hidden, rows, bias)?,
            position_bias: None,
            blocks: None,
            heads,
            rows,
        })
    }

    pub(crate) fn with_position_bias(self, bias: PositionBias<B>) -> FullAttention<B> {
        FullAttention { position_bias: Some(bias), ..self }
    }

    /// The same where long sequences are cut into blocks; not together with a bias of the scores.
    pub(crate) fn with_blocks(self, blocks: RandomBlocks<B>) -> FullAttention<B> {
        FullAttention { blocks: Some(blocks), ..self }
    }

    /// `table` is the position bias's.
    fn shape<'a>(
        &'a self,
        backend: &B,
        pass: &Pass,
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
            pattern: self.blocks.as_ref().map_or(Pattern::All, |blocks| {
                blocks.pattern(backend, &batch.lengths, pass.dropout)
            }),
            dropout,
        }
    }

    fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        inputs: Inputs<'_, B::Matrix>,
        dropout: Option<Dropout>,
    ) -> FullAttentionSaved<B> {
        let ([q, k, v], projections) = self.projections.forward(backend, parameters, pass, inputs);
        let table = self.position_bias.as_ref().map(|bias| bias.table.value(parameters));
        let attention =
            backend.attention(self.shape(backend, pass, batch, table, dropout), q, k, v);
        FullAttentionSaved { attention, projections }
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
        let FullAttentionSaved { attention, projections: saved } = saved;
        let bias = self.position_bias.as_ref();
        let (table, dtable) = bias.map(|bias| bias.table.value_and_gradient(parameters)).unzip();
        let shape = self.shape(backend, pass, batch, table, dropout);
        let [dq, dk, dv] =
            backend.attention_backward(shape, &attention, &dcontext, dtable.flatten());
        drop(dcontext);

        let projections = &self.projections;
        let to_rows = needs_dx.then_some(&mut drows);
        projections.queries_backward(backend, parameters, pass, rows, &saved, &dq, to_rows);
        let mut dx = match self.rows {
            Rows::All => drows,
            Rows::First if !needs_dx => drows,
            Rows::First => batch.only_first_rows(backend, &drows), // [T, H]
        };
        let to_dx = needs_dx.then_some(&mut dx);
        projections.keys_backward(backend, parameters, pass, x, &saved, [&dk, &dv], to_dx);
        needs_dx.then_some(dx)
    }
}
