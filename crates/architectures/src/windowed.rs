//! Attention of a window and one global token (Beltagy et al. 2020), as Transformers' Longformer has
//! it where the first token is the global one: every other token sees those at most `reach` away and
//! the first; the first sees all, with queries, keys and values of its own layers.

use crate::Error;
use crate::attention::{Inputs, Projections, ProjectionsSaved, Rows};
use crate::backend::{AttentionSaved, AttentionShape, Backend, Pattern, Shape};
use crate::builder::{Bias, Builder};
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass, Site};
use kernels::Dropout;

#[derive(Debug)]
pub(crate) struct WindowedAttention<B: Backend> {
    local: Projections<B>,
    /// Of the first token's attention.
    global: Projections<B>,
    /// The farthest distance at which a token is seen.
    reach: usize,
    heads: usize,
    /// Dropout on the probabilities of the first token's attention.
    dropout: f32,
    site: Site,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct WindowedAttentionSaved<B: Backend> {
    /// Its result holds the first tokens' as well.
    local: AttentionSaved<B::Matrix>,
    global: AttentionSaved<B::Matrix>,
    x_first: B::Matrix, // [B, H]
    local_projections: ProjectionsSaved<B>,
    global_projections: ProjectionsSaved<B>,
}

impl<B: Backend> WindowedAttentionSaved<B> {
    /// What the heads gathered [T, H].
    pub(crate) fn context(&self) -> &B::Matrix {
        &self.local.out
    }
}

impl<B: Backend> WindowedAttention<B> {
    /// Local and global queries, keys and values of these names, H wide.
    pub(crate) fn build(
        builder: &mut Builder<'_, B>,
        [local, global]: [[String; 3]; 2],
        hidden: usize,
        heads: usize,
        reach: usize,
        dropout: f32,
    ) -> Result<WindowedAttention<B>, Error> {
        Ok(WindowedAttention {
            local: Projections::build(builder, local, hidden, Rows::All, Bias::Yes)?,
            global: Projections::build(builder, global, hidden, Rows::First, Bias::Yes)?,
            reach,
            heads,
            dropout,
            site: builder.site(true),
        })
    }

    pub(crate) fn is_trained(&self) -> bool {
        self.local.is_trained() || self.global.is_trained()
    }

    /// The shapes of the local attention and of the first tokens'.
    fn shapes<'a>(
        &self,
        pass: &Pass,
        batch: &'a Batch<B>,
        dropout: Option<Dropout>,
    ) -> [AttentionShape<'a, B::Matrix, B::Indices>; 2] {
        let shape = |cu_q, pattern, dropout| AttentionShape {
            cu_q,
            cu_kv: &batch.cu_seqlens,
            heads: self.heads,
            bias: None,
            pattern,
            dropout,
        };
        let window = Pattern::Window { reach: self.reach, first: true };
        [
            shape(&batch.cu_seqlens, window, dropout),
            shape(&batch.cu_first, Pattern::All, pass.dropout(self.dropout, self.site)),
        ]
    }

    /// `x` [T, H]; `dropout` is that of the local probabilities.
    pub(crate) fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        x: &B::Matrix,
        dropout: Option<Dropout>,
    ) -> WindowedAttentionSaved<B> {
        let [local_shape, global_shape] = self.shapes(pass, batch, dropout);
        let inputs = Inputs { x, rows: x };
        let ([q, k, v], local_projections) = self.local.forward(backend, parameters, pass, inputs);
        let mut local = backend.attention(local_shape, q, k, v);

        let mut x_first = backend.matrix(batch.sequences, x.columns());
        backend.gather_rows(x, &batch.first_tokens, false, &mut x_first);
        let inputs = Inputs { x, rows: &x_first };
        let ([q, k, v], global_projections) =
            self.global.forward(backend, parameters, pass, inputs);
        let global = backend.attention(global_shape, q, k, v);
        backend.set_rows(&mut local.out, &batch.first_tokens, &global.out);
        WindowedAttentionSaved { local, global, x_first, local_projections, global_projections }
    }

    /// From the gradient of the context [T, H] to that of `x` [T, H], unless nothing below is
    /// trained; `dx` is that by other ways.
    #[expect(clippy::too_many_arguments, reason = "forward's arguments, and where gradients go")]
    pub(crate) fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        x: &B::Matrix,
        dropout: Option<Dropout>,
        saved: WindowedAttentionSaved<B>,
        mut dcontext: B::Matrix,
        mut dx: B::Matrix,
        needs_dx: bool,
    ) -> Option<B::Matrix> {
        let [local_shape, global_shape] = self.shapes(pass, batch, dropout);
        let first = &batch.first_tokens;
        let mut dfirst = backend.matrix(batch.sequences, x.columns()); // [B, H]
        backend.gather_rows(&dcontext, first, false, &mut dfirst);
        // What the first tokens gathered within the window was not used.
        let none = backend.zeros(batch.sequences, x.columns());
        backend.set_rows(&mut dcontext, first, &none);

        let WindowedAttentionSaved { local, global, x_first, .. } = saved;
        let [dq, dk, dv] = backend.attention_backward(local_shape, &local, &dcontext, None);
        drop((local, dcontext));
        let projections = &saved.local_projections;
        let to_x = needs_dx.then_some(&mut dx);
        self.local.queries_backward(backend, parameters, pass, x, projections, &dq, to_x);
        let to_x = needs_dx.then_some(&mut dx);
        self.local.keys_backward(backend, parameters, pass, x, projections, [&dk, &dv], to_x);
        drop((dq, dk, dv));

        let [dq, dk, dv] = backend.attention_backward(global_shape, &global, &dfirst, None);
        let projections = &saved.global_projections;
        let mut dx_first = none; // [B, H]
        let to_first = needs_dx.then_some(&mut dx_first);
        self.global.queries_backward(
            backend,
            parameters,
            pass,
            &x_first,
            projections,
            &dq,
            to_first,
        );
        let to_x = needs_dx.then_some(&mut dx);
        self.global.keys_backward(backend, parameters, pass, x, projections, [&dk, &dv], to_x);
        needs_dx.then(|| {
            backend.scatter_add_rows(&mut dx, first, &dx_first);
            dx
        })
    }
}
