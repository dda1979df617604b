//! Disentangled self-attention (He et al. 2020, DeBERTa): contents meet contents, and the relative
//! positions of the tokens they meet.

use crate::attention::{Inputs, Projections, ProjectionsSaved, Rows};
use crate::backend::{AttentionSaved, AttentionShape, Backend, Pattern};
use crate::linear::{InputGradient, Linear, LinearSaved, Tensor};
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass};
use crate::relative_positions::{Positions, PositionsSaved};
use kernels::Dropout;

#[derive(Debug)]
pub(crate) struct DisentangledAttention<B: Backend> {
    pub(crate) content: Content<B>,
    pub(crate) positions: Positions<B>,
    pub(crate) heads: usize,
    pub(crate) rows: Rows,
}

/// What gives the contents' queries, keys and values.
#[derive(Debug)]
pub(crate) enum Content<B: Backend> {
    /// A layer each.
    Apart(Projections<B>),
    /// One layer, head by head.
    Joint(JointProjection<B>),
}

/// A layer [3H, H] without a bias, and those of queries and values [1, H].
#[derive(Debug)]
pub(crate) struct JointProjection<B: Backend> {
    pub(crate) joint: Linear<B>,
    pub(crate) query_bias: Tensor<B>,
    pub(crate) value_bias: Tensor<B>,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct DisentangledAttentionSaved<B: Backend> {
    attention: AttentionSaved<B::Matrix>,
    content: ContentSaved<B>,
    positions: PositionsSaved<B>,
}

#[derive(Debug)]
enum ContentSaved<B: Backend> {
    Apart(ProjectionsSaved<B>),
    Joint(LinearSaved<B>),
}

impl<B: Backend> DisentangledAttentionSaved<B> {
    /// What the heads gathered [Q, H].
    pub(crate) fn context(&self) -> &B::Matrix {
        &self.attention.out
    }
}

impl<B: Backend> DisentangledAttention<B> {
    pub(crate) fn is_trained(&self) -> bool {
        let content = match &self.content {
            Content::Apart(projections) => projections.is_trained(),
            Content::Joint(projection) => projection.joint.needs_input(),
        };
        content || self.positions.is_trained()
    }

    fn shape<'a>(
        &self,
        batch: &'a Batch<B>,
        dropout: Option<Dropout>,
    ) -> AttentionShape<'a, B::Matrix, B::Indices> {
        let cu_q = match self.rows {
            Rows::All => &batch.cu_seqlens,
            Rows::First => &batch.cu_first,
        };
        AttentionShape {
            cu_q,
            cu_kv: &batch.cu_seqlens,
            heads: self.heads,
            bias: None,
            pattern: Pattern::All,
            dropout,
        }
    }

    pub(crate) fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        inputs: Inputs<'_, B::Matrix>,
        dropout: Option<Dropout>,
    ) -> DisentangledAttentionSaved<B> {
        let ([q, k, v], content) = match &self.content {
            Content::Apart(projections) => {
                let (qkv, saved) = projections.forward(backend, parameters, pass, inputs);
                (qkv, ContentSaved::Apart(saved))
            }
            Content::Joint(JointProjection { joint, query_bias, value_bias }) => {
                let (qkv, saved) = joint.forward(backend, parameters, pass, inputs.x); // [T, 3H]
                let [mut q, k, mut v] = backend.split_heads(&qkv, self.heads); // [T, H]
                if self.rows == Rows::First {
                    q = batch.first_rows(backend, &q); // [Q, H]
                }
                backend.add_bias(&mut q, query_bias.value(parameters));
                backend.add_bias(&mut v, value_bias.value(parameters));
                ([q, k, v], ContentSaved::Joint(saved))
            }
        };
        let positions = self.positions.forward(backend, parameters, pass, batch.longest);
        let shape = self.shape(batch, dropout);
        let attention = backend.disentangled_attention(shape, positions.view(), q, k, v);
        DisentangledAttentionSaved { attention, content, positions }
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
        Inputs { x, rows }: Inputs<'_, B::Matrix>,
        dropout: Option<Dropout>,
        saved: DisentangledAttentionSaved<B>,
        dcontext: B::Matrix,
        mut drows: B::Matrix,
        needs_dx: bool,
    ) -> Option<B::Matrix> {
        let DisentangledAttentionSaved { attention, content: saved, positions } = saved;
        let ([dq, dk, dv], of_positions) = backend.disentangled_attention_backward(
            self.shape(batch, dropout),
            positions.view(),
            &attention,
            &dcontext,
            self.positions.wanted(),
        );
        drop((attention, dcontext));
        self.positions.backward(backend, parameters, positions, of_positions);

        if let (Content::Apart(projections), ContentSaved::Apart(saved)) = (&self.content, &saved) {
            let to_rows = needs_dx.then_some(&mut drows);
            projections.queries_backward(backend, parameters, pass, rows, saved, &dq, to_rows);
        }
        let mut dx = match self.rows {
            Rows::All => drows,
            Rows::First if !needs_dx => drows,
            Rows::First => batch.only_first_rows(backend, &drows), // [T, H]
        };
        match (&self.content, &saved) {
            (Content::Apart(projections), ContentSaved::Apart(saved)) => {
                let to_dx = needs_dx.then_some(&mut dx);
                projections.keys_backward(backend, parameters, pass, x, saved, [&dk, &dv], to_dx);
            }
            (Content::Joint(projection), ContentSaved::Joint(saved)) => {
                for (bias, dy) in [(&projection.query_bias, &dq), (&projection.value_bias, &dv)] {
                    if let Some(id) = bias.trained() {
                        backend.sum_rows(dy, parameters.gradient(id));
                    }
                }
                let dq = match self.rows {
                    Rows::All => dq,
                    Rows::First => batch.only_first_rows(backend, &dq), // [T, H]
                };
                let dqkv = backend.join_heads([&dq, &dk, &dv], self.heads); // [T, 3H]
                drop((dq, dk, dv));
                let to_dx = needs_dx.then(|| InputGradient::added_to(&mut dx));
                let joint = &projection.joint;
                joint.backward(backend, parameters, pass, Some(x), saved, &dqkv, to_dx);
            }
            _ => unreachable!("forward leaves what its own kind of content reads"),
        }
        needs_dx.then_some(dx)
    }
}
